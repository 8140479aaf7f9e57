"""The report as one self-contained page."""

from pathlib import Path

from wardround.records import RunRecord


def write_report(record: RunRecord) -> Path:
    """Writes report.html."""
    return record.path / "report.html"
