"""Tables as spreadsheets, databases and people write them: bytes to named columns and numbered rows.

One reader for every table. It accepts commas, semicolons, tabs and bars; a byte order mark; UTF-8, UTF-16, UTF-32 and
Windows-1252, of which Latin-1 is the part that texts have; lines that end in any way; column names in any case, with
blanks, dashes or underscores; quoted cells; empty lines and empty cells at the end. A row with fewer or more cells than
the first line is a problem with its line number, for its values may stand in other columns than they belong to.

Limits keep a table of any content below about 1.5 GB of memory.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from wardround.boundary.text import brief, counted
from wardround.errors import DataError
from wardround.images.identity import folded, is_missing

MAX_BYTES = 100_000_000
"""A larger table is refused."""

MAX_LINES = 2_000_000
MAX_CELLS = 5_000_000
"""Values of all rows; a table with more is refused."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Separators, and their names in sentences."""

GROUP = "group:"
"""The beginning of the name of a subgroup's column."""

_KNOWN = (
    "image", "picture", "file", "id_code", "image_id", "image_name", "image_index", "img_id", "file_name", "patient",
    "patient_id", "subject_id", "label", "diagnosis", "mask", "site", "split",
    "eye", "index", "name", "study_uid", "series_uid", "sop_uid",
)  # fmt: skip
"""Columns that some table has; `Patient ID` and `PatientID` are `patient_id`."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; that of UTF-32 begins as that of UTF-16 does."""

_SHOWN_COLUMNS = 20
_FIRST_BYTES = 4096
"""Beginning of a text in which UTF-16 shows without a mark, by the name of a column that a table has."""

_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_BETWEEN = re.compile(r'[,;\t|"\r\n]')
_BLANKS = re.compile(r"[\s_\-]+")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        line: of its beginning in the file, from 1, as editors count.
        values: by the column's name, without blanks around them; missing values as they are written.
    """

    line: int
    values: dict[str, str]

    def get(self, column: str) -> str | None:
        """Returns a value that may be absent; None where there is no such column, or a missing value in it."""
        value = self.values.get(column)
        return None if value is None or is_missing(value) else value

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """Name and value of every subgroup column (`group:<name>`) in which the row has a value."""
        named = (
            (column.removeprefix(GROUP), self.get(column))
            for column in self.values
            if column.startswith(GROUP) and column != GROUP
        )
        return tuple((name, value) for name, value in named if value)


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Args:
        name: of its file, for sentences.
        columns: in their order, without those that have no name.
        rows: that have a value, and as many cells as there are columns.
        ragged: a problem for each other row, with its line.
        notes: assumptions that a person should know; without any content of the table.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    ragged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_table(
    name: str,
    data: bytes,
    required: Sequence[str],
    *,
    other_names: Mapping[str, str] | None = None,
    advice: Mapping[str, str] | None = None,
    quotes: bool = True,
) -> Table:
    """Returns a table with its required columns.

    Args:
        name: of its file, for sentences.
        data: its bytes.
        required: columns.
        other_names: of required columns, which stand for one that the table lacks.
        advice: further sentences for the refusal of a table that lacks a column.
        quotes: sentences may quote the first line; not where it could be a patient's.

    Raises:
        DataError: no text, no table, no row, too large, or a column that is missing or there twice.
    """
    if len(data) > MAX_BYTES:
        raise too_large(name, f"{MAX_BYTES:,} bytes")
    known = {*required, *(other_names or {})}
    encoding, notes = _encoding(name, data, known)
    try:
        separator, skipped = _separator(_text(data, encoding), known)
        lines = _lines(name, _text(data, encoding), separator, skipped)
        _, first = next(lines, (0, []))
        written = [folded(cell) for cell in first]
        while written and not written[-1]:
            written.pop()
        columns = [column_name(cell) for cell in written]
        columns = _renamed(columns, other_names or {})
        names = [brief(column)[1:-1] for column in written if column]
        found = ", ".join(names[:_SHOWN_COLUMNS]) + (" and more" if len(names) > _SHOWN_COLUMNS else "") or "none"
        if "\0" in "".join(first) and not {*required} <= {*columns}:
            raise DataError(
                f"{name} must be text in UTF-8, or in UTF-16 with its byte order mark, got zero bytes in it. "
                "Save it again as CSV in UTF-8.",
                code="data-no-table",
            )
        _check_columns(name, columns, required, SEPARATORS[separator], found if quotes else "others", advice or {})
        rows, ragged = _rows(name, lines, columns)
        if not rows and not ragged:
            raise DataError(
                f"{name} must have rows below its first line, got none. Add them, or take the table away.",
                code="data-no-rows",
            )
    except UnicodeDecodeError:
        raise DataError(
            f"{name} must be text in UTF-8, UTF-16 or Windows-1252, got bytes that are none of them. Save it again as "
            "CSV in UTF-8.",
            code="data-no-table",
        ) from None
    return Table(name, tuple(filter(None, columns)), tuple(rows), tuple(ragged), notes)


def _renamed(columns: Sequence[str], other_names: Mapping[str, str]) -> list[str]:
    """Returns the columns by their own names: others stand for one that is not there. Two of patients are one twice."""
    kept = {column for column in columns if other_names.get(column, column) in columns}
    kept -= {"patient", "patient_id"} & other_names.keys()
    return [column if column in kept else other_names.get(column, column) for column in columns]


def column_name(cell: str) -> str:
    """Returns the one spelling of a column's name.

    >>> column_name("Patient ID"), column_name("PatientID"), column_name("Group: Sex"), column_name("Age-Band")
    ('patient_id', 'patient_id', 'group:Sex', 'age_band')
    """
    before, mark, after = folded(cell).partition(":")
    if mark and before.strip().casefold() == GROUP[:-1]:
        return GROUP + after.strip()
    plain = _BLANKS.sub("_", folded(cell).casefold())
    return _SQUEEZED.get(plain.replace("_", ""), plain)


_SQUEEZED = {name.replace("_", ""): name for name in _KNOWN}


def _encoding(name: str, data: bytes, known: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Returns the encoding of a text, and a note where it is a guess."""
    if data.startswith(_WORKBOOKS):
        raise DataError(
            f"{name} must be a table as text, got a spreadsheet program's own file. Save it as CSV in UTF-8.",
            code="data-no-table",
        )
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, ()
    start = data[:_FIRST_BYTES]
    for encoding in ("utf-16-le", "utf-16-be") if b"\0" in start else ():
        cells = _BETWEEN.split(start.decode(encoding, "ignore"))
        if not {*known, *_KNOWN}.isdisjoint(map(column_name, cells)):
            return encoding, (f"{name} has no byte order mark and was read as UTF-16",)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=True)
    except UnicodeDecodeError:
        return "cp1252", (
            f"{name} is not in UTF-8 and was read as Windows-1252 (Latin-1): look at names with accents",
        )
    return "utf-8", ()


def _text(data: bytes, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding, newline="")


def _separator(text: io.TextIOWrapper, known: Collection[str]) -> tuple[str, int]:
    """Returns the separator that gives the first line most known columns, and the number of lines to pass over.

    A first line `sep=;`, as Excel writes and reads it, decides.
    """
    skipped, first = 0, ""
    for line in text:
        if first := line.strip("\r\n \ufeff"):
            break
        skipped += 1
    if found := _SEPARATOR_LINE.fullmatch(first):
        return (found[1] if found[1] in SEPARATORS else ","), skipped + 1

    def fit(separator: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            return 0, 0
        return len({column_name(cell) for cell in cells} & set(known)), len(cells)

    return max(SEPARATORS, key=fit), 0


def _lines(name: str, text: io.TextIOWrapper, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the line in which each row begins, and its cells; empty rows are passed over."""
    for _ in range(skipped):
        text.readline()
    reader = csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True)
    begin = 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield skipped + begin + 1, cells
            begin = reader.line_num
            if begin > MAX_LINES:
                raise too_large(name, f"{MAX_LINES:,} lines")
    except csv.Error as error:
        raise DataError(
            f"{name} must be a table, got a row from line {skipped + begin + 1} on that is none: {error}. Close its "
            "quotes, and write a quote inside a value twice.",
            code="data-no-table",
        ) from None


def _check_columns(
    name: str,
    columns: Sequence[str],
    required: Sequence[str],
    separator: str,
    found: str,
    advice: Mapping[str, str],
) -> None:
    if missing := [column for column in required if column not in columns]:
        more = "".join(f" {advice[column]}" for column in missing if column in advice)
        raise DataError(
            f"{name} must have the columns {', '.join(required)}; missing: {', '.join(missing)}, found: {found} "
            f"(separated by {separator}). Add them to its first line, and separate by comma, semicolon, tab or bar."
            f"{more}",
            code="data-column-missing",
        )
    twice = sorted(column for column, count in Counter(columns).items() if column and count > 1)
    if twice:
        raise DataError(
            f"{name} must have every column once, got twice: {', '.join(twice) if found != 'others' else 'one'}. "
            "Rename or remove one.",
            code="data-column-twice",
        )


def _rows(
    name: str, lines: Iterator[tuple[int, list[str]]], columns: Sequence[str]
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    ragged: list[str] = []
    width, count = len(columns), 0
    for line, cells in lines:
        count += len(cells)
        if count > MAX_CELLS:
            raise too_large(name, f"{MAX_CELLS:,} values")
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            ragged.append(f"line {line} has {counted(len(cells), 'value')} for {counted(width, 'column')}")
            continue
        rows.append(
            Row(line, {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if column})
        )
    return rows, ragged


def too_large(name: str, limit: str) -> DataError:
    """Returns the refusal of a table beyond a limit."""
    return DataError(
        f"{name} must have at most {limit}, got more. Take out columns and rows that no picture needs.",
        code="data-table-size",
    )
