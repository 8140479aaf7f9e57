"""A table of labels that names patients, studies, series or images as the headers do, and stays in the hospital.

    label, and one of patient_id, study_uid, series_uid, sop_uid[, site[, split]]

What it names becomes pseudonyms as it is read. No sentence here quotes it, not even its first line, which may be a
patient's where somebody forgot the names of the columns.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import DataError
from wardround.images.findings import shortened
from wardround.images.store import MAX_BYTES, Store

LABELS = "labels.csv"
COLUMNS = {"patient_id": "patient", "study_uid": "study", "series_uid": "series", "sop_uid": "image"}
"""Columns, and the kind of pseudonym that each is matched to."""


@dataclass(frozen=True)
class Row:
    """What the table says of one patient, study, series or image."""

    label: str
    site: str | None
    split: str | None


@dataclass(frozen=True)
class LabelTable:
    """A table of labels.

    Args:
        kind: "patient", "study", "series" or "image".
        rows: by pseudonym.
    """

    kind: str
    rows: dict[str, Row]


def read_labels(store: Store, path: Path | None, name_for: Callable[[str, str], str]) -> LabelTable | None:
    """The table at `path`, or `labels.csv` at the top of the store; None where neither is given or there.

    Raises:
        DataError: it cannot be read or does not hold; the sentence names lines by number only.
    """
    if path is None and LABELS not in store:
        return None
    try:
        data = store.read(LABELS) if path is None else _from_disk(path)
        lines = io.StringIO(data.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(lines, strict=True)
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        table = [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        table, header = [], None
    if header is None:
        raise DataError("the table of labels must be readable, in UTF-8 and with commas. Save it again.")
    columns = [name for name in COLUMNS if name in header]
    if "label" not in header or len(columns) != 1 or len(set(header)) != len(header):
        raise DataError(
            f"the first line of the table of labels must name the columns label and one of {', '.join(COLUMNS)}, "
            "each once; it names others. Add them."
        )
    return _checked(table, columns[0], name_for)


def _from_disk(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError
    return data


def _checked(table: list[dict[str, str]], column: str, name_for: Callable[[str, str], str]) -> LabelTable:
    rows: dict[str, Row] = {}
    problems = []
    for line, found in enumerate(table, start=2):
        if not found[column] or not found["label"]:
            problems.append(f"line {line} is incomplete")
            continue
        row = Row(found["label"], found.get("site") or None, found.get("split") or None)
        if rows.setdefault(name_for(COLUMNS[column], found[column]), row) != row:
            problems.append(f"line {line} contradicts an earlier one")
    if problems:
        raise DataError(
            f"every row of the table of labels must have a {column} and a label, and agree with the others; "
            f"{len(problems)} problems: {shortened(problems, shown=10)}. Correct the table."
        )
    return LabelTable(COLUMNS[column], rows)
