"""Writing the report; what draws it is an extra, and a run without it is complete all the same."""

from pathlib import Path

from wardround.errors import MissingExtra
from wardround.records import RunRecord, write_whole
from wardround.report.numbers import numbers_of


def write_report(record: RunRecord) -> Path:
    """Writes report.html into the run's folder, whole or not at all; returns its path.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed.
        RecordError: a file of the record has another shape than this version writes.
    """
    try:
        from wardround.report.page import render
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The report needs {error.name}, which is not installed; the run is complete without it. "
            "Install it with: pip install 'wardround[report]', then: wardround report RUN."
        ) from None
    path = record.path / "report.html"
    write_whole(path, render(numbers_of(record)).encode())
    return path
