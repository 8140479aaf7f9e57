"""A table of labels that names patients, studies, series or images as the headers do, and stays in the hospital.

    label, and one of patient_id, study_uid, series_uid, sop_uid[, site[, split]]

What it names becomes pseudonyms as it is read. No sentence here quotes it, not even its first line, which may be a
patient's where somebody forgot the names of the columns.
"""

import contextlib
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wardround.boundary.documents import Unfit, read_regular
from wardround.errors import DataError
from wardround.images.findings import shortened
from wardround.images.identity import folded, is_missing, names_nobody
from wardround.images.store import MAX_BYTES, Store
from wardround.images.table import Row, parsed, without_left_out

LABELS = "labels.csv"
COLUMNS = {"patient_id": "patient", "study_uid": "study", "series_uid": "series", "sop_uid": "image"}
"""Columns, and the kind of pseudonym that each is matched to."""


@dataclass(frozen=True)
class Label:
    """The row of one patient, study, series or image."""

    label: str
    site: str | None
    split: str | None


LabelTable: TypeAlias = tuple[str, dict[str, Label]]
"""A kind, "patient", "study", "series" or "image", and the rows of the table by pseudonym."""


def read_labels(
    store: Store, path: Path | None, name_for: Callable[[str, str], str], leave_out: Sequence[str] = ()
) -> LabelTable | None:
    """Returns the table at `path`, or `labels.csv` at the top of the store; None where neither is given or there.

    Rows whose label is in `leave_out` are left out.

    Raises:
        DataError: it cannot be read or does not hold; the sentence names lines by number only.
    """
    if path is None and LABELS not in store:
        return None
    header: list[str] | None = None
    # Raised outside, so that no chain of exceptions quotes the table.
    with contextlib.suppress(OSError, Unfit, UnicodeDecodeError, csv.Error):
        header, rows = parsed(store.read(LABELS) if path is None else read_regular(path, MAX_BYTES))
    if header is None:
        raise DataError("the table of labels must be readable, in UTF-8 and with commas. Save it again.")
    columns = [name for name in COLUMNS if name in header]
    if "label" not in header or len(columns) != 1 or len(set(header)) != len(header):
        raise DataError(
            f"the first line of the table of labels must name the columns label and one of {', '.join(COLUMNS)}, "
            "each once; it names others. Add them."
        )
    rows, _ = without_left_out(LABELS, rows, ("label",), leave_out)
    return _checked(rows, columns[0], name_for)


def _checked(table: list[Row], column: str, name_for: Callable[[str, str], str]) -> LabelTable:
    rows: dict[str, Label] = {}
    problems = []
    for row in table:
        if not row.values["label"] or (names_nobody if column == "patient_id" else is_missing)(row.values[column]):
            problems.append(f"line {row.line} is incomplete")
            continue
        label = Label(folded(row.values["label"]), row.get("site"), row.get("split"))
        if rows.setdefault(name_for(COLUMNS[column], row.values[column]), label) != label:
            problems.append(f"line {row.line} contradicts an earlier one")
    if problems:
        raise DataError(
            f"every row of the table of labels must have a {column} and a label, and agree with the others; "
            f"{len(problems)} problems: {shortened(problems, shown=10)}. Correct the table."
        )
    return COLUMNS[column], rows
