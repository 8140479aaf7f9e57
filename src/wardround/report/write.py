"""Writing the pages; what draws it is an extra, and a run without it is complete all the same."""

import json
from pathlib import Path

from wardround.boundary.apart import made
from wardround.boundary.extras import needed
from wardround.boundary.private import write_whole
from wardround.records.added import write_page
from wardround.records.folder import RunRecord
from wardround.records.signer import PAGE
from wardround.report.comparison import Overview
from wardround.report.numbers import numbers_of
from wardround.secure_aggregation.keys.identity import SigningKey


def write_report(record: RunRecord, key: SigningKey | None = None) -> Path:
    """Writes report.html into the run's folder, whole or not at all; returns its path.

    Args:
        record: of a finished run.
        key: signs the page, if it signed the record.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed.
        RecordError: a file of the record has another shape than this version writes.
    """
    with needed(
        "report", "The report", "the run is complete without it, and `wardround report RUN` writes it later"
    ):
        page = made("wardround.report.page", "render", numbers_of(record))
    write_page(record.path, page.encode(), key)
    return record.path / PAGE


def write_comparison(overview: Overview, folder: Path) -> None:
    """Writes comparison.json and comparison.html into a folder, each whole or not at all.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed; the JSON is written all the same.
    """
    content = json.dumps(overview.to_json(), indent=2, allow_nan=False) + "\n"
    write_whole(folder / "comparison.json", content.encode())
    with needed("report", "The comparison page", "the runs and comparison.json are complete without it"):
        from wardround.report.page import render_comparison
    write_whole(folder / "comparison.html", render_comparison(overview).encode())
