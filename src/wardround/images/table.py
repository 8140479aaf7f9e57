"""Tables in UTF-8 with commas: read whole, and refused with all that is wrong before anything is made of them.

A missing value is missing, however it is written: a cell with nan, NA, None or null (`identity.MISSING`) is empty.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from wardround.errors import DataError
from wardround.images.entries import PICTURE_ENDINGS
from wardround.images.findings import shortened
from wardround.images.identity import folded, is_missing, names_nobody
from wardround.images.store import Store

METADATA = "metadata.csv"

PATIENT_COLUMNS = ("patient", "patient_id")

_GROUP = "group:"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        line: of its end in the file, from 1, as editors count.
        values: stripped, by the column's name; missing values, and columns that a short row lacks, are empty.
        is_too_long: it has a value beyond the last column.
    """

    line: int
    values: dict[str, str]
    is_too_long: bool = False

    def get(self, column: str) -> str | None:
        """Returns a value that may be absent; None where there is no such column, or nothing in it."""
        return self.values.get(column) or None

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """Name and value of every subgroup column (`group:<name>`) in which the row has a value."""
        named = (
            (column.removeprefix(_GROUP).strip(), value)
            for column, value in self.values.items()
            if column.startswith(_GROUP)
        )
        return tuple((name, value) for name, value in named if name and value)


def parsed(data: bytes, other_names: Mapping[str, str] | None = None) -> tuple[list[str], list[Row]]:
    """Returns the columns of a table, `other_names` replaced, and every row that has some value.

    Raises:
        UnicodeDecodeError: no UTF-8.
        csv.Error: no table.
    """
    lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    header = [column.strip() for column in next(lines, [])]
    header = [(other_names or {}).get(column, column) for column in header]
    rows = []
    for line in lines:
        values = ["" if is_missing(value) else value.strip() for value in line]
        named = {column: values[at] if at < len(values) else "" for at, column in enumerate(header) if column}
        if any(values):
            rows.append(Row(lines.line_num, named, any(values[len(header) :])))
    return header, rows


def read_rows(store: Store, name: str, required: Sequence[str]) -> list[Row]:
    """Returns the rows of a table in the store; see `checked_rows`."""
    return checked_rows(name, store.read(name), required)


def checked_rows(
    name: str, data: bytes, required: Sequence[str], other_names: Mapping[str, str] | None = None
) -> list[Row]:
    """Returns the rows of a table, a byte order mark and empty lines passed over.

    Args:
        name: of the table, for errors.
        data: its bytes.
        required: columns.
        other_names: of required columns; a table may use either.

    Raises:
        DataError: no text in UTF-8, no table, a column that is missing or there twice, or a row with more values
            than there are columns.
    """
    try:
        header, rows = parsed(data, other_names)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{name} must be a table in UTF-8 with commas, got: {error}. Save it again.", code="data-no-table"
        ) from error
    missing = [column for column in required if column not in header]
    if missing:
        raise DataError(
            f"{name} must have the columns {', '.join(required)}; missing: {', '.join(missing)}, "
            f"found: {', '.join(header) or 'none'}. Add them to its first line.",
            code="data-column-missing",
        )
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise DataError(
            f"{name} must have every column once, got twice: {', '.join(twice)}. Rename or remove one.",
            code="data-column-twice",
        )
    too_long = [f"line {row.line}" for row in rows if row.is_too_long]
    if too_long:
        raise DataError(
            f"every row of {name} must have at most {len(header)} values, as its first line has; more are in: "
            f"{shortened(too_long)}. Put values that hold a comma in quotes.",
            code="data-row-length",
        )
    return rows


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raises `DataError` with all problems of a table, shortened, if there are any."""
    if problems:
        raise DataError(
            f"every row of {name} must hold; {len(problems)} problems: {shortened(list(problems), shown=10)}. "
            "Correct the table; rows without a label or a patient can be left out with `[site] leave_out`.",
            code="data-rows",
        )


def empty_columns(row: Row, required: Sequence[str]) -> list[str]:
    """Returns the required columns in which a row has no value; an id that names no person is none."""
    return [
        column
        for column in required
        if not row.values[column] or (column in PATIENT_COLUMNS and names_nobody(row.values[column]))
    ]


def without_left_out(
    name: str, rows: Sequence[Row], columns: Sequence[str], leave_out: Sequence[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """Returns the rows that stay, and a note with the number of the others.

    Args:
        name: of the table.
        rows: of the table.
        columns: that are looked at: of the label, of the patient.
        leave_out: values, in any case; one of `identity.MISSING` stands for every missing value.
    """
    values = {"" if is_missing(value) else folded(value).lower() for value in leave_out}
    stay = [row for row in rows if not any(folded(row.values[column]).lower() in values for column in columns)]
    count = len(rows) - len(stay)
    return stay, ((f"{count} rows of {name} were left out, by [site] leave_out",) if count else ())


def read_metadata(
    store: Store, required: tuple[str, ...], leave_out: Sequence[str] = ()
) -> tuple[list[Row], frozenset[str]]:
    """Returns the rows of `metadata.csv`, one a picture, and every file that it lists, in rows left out as well.

    `file` is among the required columns. Rows with a value in `leave_out` in another required column are left out.

    Raises:
        DataError: everything that is wrong with the table, in one sentence: columns that are missing, empty
            values, files that are missing, listed twice or outside the data folder.
    """
    others = [column for column in required if column != "file"]
    listed = read_rows(store, METADATA, required)
    rows, _ = without_left_out(METADATA, listed, others, leave_out)
    problems = []
    seen: set[str] = set()
    for row in rows:
        if empty := empty_columns(row, required):
            problems.append(f"line {row.line} has no {' and no '.join(empty)}")
        file = row.values["file"]
        if not file:
            continue
        if leads_outside(file):
            problems.append(f"line {row.line}: {file} lies outside the data folder")
        elif file not in store:
            problems.append(f"line {row.line}: {file} is missing")
        elif file in seen:
            problems.append(f"line {row.line}: {file} is listed twice")
        seen.add(file)
    refuse(METADATA, problems)
    return rows, frozenset(row.values["file"] for row in listed)


def files_in(store: Store, folder: str = "") -> tuple[list[str], int]:
    """Returns the pictures anywhere below `folder`, sorted, and the number of other files there."""
    seen = [name for name in store.names() if name.startswith(f"{folder}/" if folder else "")]
    pictures = [name for name in seen if name.lower().endswith(PICTURE_ENDINGS)]
    return pictures, len(seen) - len(pictures)


def leads_outside(file: str) -> bool:
    """Returns True for a path that does not lie below the data folder."""
    return PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts


def numbers_first(name: str) -> tuple[bool, int, str]:
    """Sorts 2 before 10, and words after numbers, in the alphabet's order."""
    is_number = name.isascii() and name.isdigit() and len(name) < 19
    return (not is_number, int(name) if is_number else 0, name)
