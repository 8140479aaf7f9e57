"""Rows of tables and the pictures that they name: all that is wrong with a table is said before anything is made of it.

Tables are read by `csv_file.read_table`. A missing value is missing, however it is written: nan, NA, None and null
(`identity.MISSING`), and for a label -1 (`class_names.unlabelled`).
"""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from wardround.boundary.documents import Unfit, read_regular
from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.class_names import unlabelled
from wardround.images.csv_file import MAX_BYTES, Row, Table, read_table, too_large
from wardround.images.entries import OTHER_ENDINGS, PICTURE_ENDINGS, stem_of
from wardround.images.findings import shortened
from wardround.images.identity import folded, is_missing, names_nobody
from wardround.images.listing import ReaderOptions
from wardround.images.mask_names import is_of_masks
from wardround.images.store import Store

METADATA = "metadata.csv"

IMAGE_NAMES = (
    "image", "file", "picture", "image_id", "image_name", "image_index", "img_id", "id_code", "file_name",
)  # fmt: skip
"""Columns that name pictures, in tables of public sets."""

_NO_PERSONS = (
    "If the table names no persons, `[site] patients` may; if nobody knows them, add {} as a column without values: "
    "then one picture is what is protected."
)

PATIENT_NAMES = ("patient", "patient_id", "subject_id")
LABEL_NAMES = ("label", "diagnosis", "dx")

PATIENT_COLUMNS = ("patient", "patient_id", "participant_id")
LABEL_COLUMNS = ("label", "diagnosis", "dx", "group")

PARTS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names of published parts, in lower case, and the part that each is."""

_SHOWN = 10


def bytes_of_table(store: Store | None, name: str, elsewhere: Path | None) -> bytes:
    """Returns the content of a table in the store, or elsewhere on disk.

    Raises:
        DataError: it is missing, unreadable or too large.
    """
    if elsewhere is None:
        assert store is not None, "a table that lies nowhere else lies in the store"
        if store.size(name) > MAX_BYTES:
            raise too_large(name, f"{MAX_BYTES:,} bytes")
        return store.read(name)
    try:
        if elsewhere.stat().st_size > MAX_BYTES:
            raise too_large(elsewhere.name, f"{MAX_BYTES:,} bytes")
        return read_regular(elsewhere, MAX_BYTES)
    except (OSError, Unfit) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"a table must be a file that can be read, got {elsewhere} ({reason}). Correct its path.",
            code="data-no-table",
        ) from None


def table_of(
    store: Store,
    file: str,
    options: ReaderOptions,
    required: Sequence[str],
    other_names: Mapping[str, str] | None = None,
) -> Table:
    """Returns a table of the store, or the one that the site names instead; see `csv_file.read_table`."""
    name = file if options.labels is None else options.labels.name
    advice = {column: _NO_PERSONS.format(column) for column in PATIENT_NAMES}
    data = bytes_of_table(store, file, options.labels)
    return read_table(name, data, required, other_names=other_names, advice=advice)


def names_for(image: str, patient: str) -> dict[str, str]:
    """Returns the other names of the columns of pictures, patients and labels in tables of public sets."""
    columns = ((image, IMAGE_NAMES), (patient, PATIENT_NAMES), ("label", LABEL_NAMES))
    return {name: column for column, names in columns for name in names if name != column}


class Files:
    r"""The files of a data folder, as a table may write their names.

    A path is relative to the data folder or, for a table that lies elsewhere, to the table's own folder. `./a.png`,
    `b/../a.png` and `b\a.png` are read, and a name in another Unicode form or another case than the file's. So is
    a file's name without folders, with or without its ending, where one picture or volume has it.

    Args:
        store: the data folder.
        table: of a table that lies elsewhere.
    """

    def __init__(self, store: Store, table: Path | None = None) -> None:
        self._names = frozenset(store.names())
        self._composed = _unique({name: unicodedata.normalize("NFC", name) for name in self._names})
        self._any_case = _unique({name: form.casefold() for form, name in self._composed.items()})
        self._root = store.root.absolute().as_posix() + "/"
        self._above = store.root.resolve().as_posix()
        self._beside = None if table is None else table.parent.resolve().as_posix()

    def find(self, written: str, *, is_mask: bool = False) -> tuple[str, str | None]:
        """Returns the file, and the fault of the name if it has one.

        Of a picture, files in folders of masks do not have its name; of a mask, they go before others.
        """
        if written in self._names and self._beside is None:
            return written, None
        path = posixpath.normpath(written.replace("\\", "/").removeprefix(self._root))
        places = [path]
        if self._beside is not None:
            places.append(posixpath.relpath(posixpath.join(self._beside, path), self._above))
        forms = [unicodedata.normalize("NFC", place) for place in places]
        exact = {self._composed.get(form) for form in forms} - {None}
        found = exact or {self._any_case.get(form.casefold()) for form in forms} - {None}
        if len(found) > 1:
            return path, f"{written} is a file below the data folder, and another one beside the table"
        for name in found:
            assert name is not None
            return name, None
        called = [] if "/" in written.replace("\\", "/") else self._called(path, is_mask=is_mask)
        if len(called) == 1:
            return called[0], None
        if called:
            return path, f"{written} is the name of {counted(len(called), 'file')}; write the path"
        outside = all(leads_outside(place) for place in places)
        return path, f"{written} {'lies outside the data folder' if outside else 'is missing'}{self._near(path)}"

    def _called(self, written: str, *, is_mask: bool) -> list[str]:
        """Returns the pictures and volumes of this name, or, where there are none, of this name without an ending."""
        called = unicodedata.normalize("NFC", written).casefold()
        for found in (self._by_name.get(called), self._by_bare_name.get(called)):
            if found:
                masks = [file for file in found if any(map(is_of_masks, file.split("/")[self._around : -1]))]
                return (masks or found) if is_mask else [file for file in found if file not in masks]
        return []

    @cached_property
    def _around(self) -> int:
        """The number of folders that lie around all pictures and volumes; the set's own name is none of masks."""
        folders = [file.split("/")[:-1] for found in self._by_name.values() for file in found]
        return len(posixpath.commonprefix(folders))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return self._grouped(lambda file: PurePosixPath(file).name)

    @cached_property
    def _by_bare_name(self) -> dict[str, list[str]]:
        return self._grouped(stem_of)

    def _grouped(self, called: Callable[[str], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file, form in sorted(self._composed.items()):
            if file.lower().endswith((*PICTURE_ENDINGS, *OTHER_ENDINGS)):
                found.setdefault(called(form).casefold(), []).append(file)
        return found

    def _near(self, path: str) -> str:
        """Returns the hint at the one file that has this name in another folder or with an ending."""
        near = self._by_stem.get(stem_of(path)) or self._by_stem.get(PurePosixPath(path).name)
        return f" ({near} is there)" if near else ""

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        return _unique({name: stem_of(name) for name in self._names})


def _unique(forms: dict[str, str]) -> dict[str, str]:
    """Returns the names by their forms, without forms that several names have."""
    counts = Counter(forms.values())
    return {form: name for name, form in forms.items() if counts[form] == 1}


def refusal(table: Table, problems: Sequence[str], words: Iterable[str] = ()) -> list[DataError]:
    """Returns the one refusal of a table with all its problems, shortened; none where there are no problems.

    Args:
        table: with its ragged rows, which are problems as well.
        problems: of other rows, each as "line N" and the fault.
        words: that stand for labels and are taken for missing ones.
    """
    found = sorted([*table.ragged, *problems], key=lambda problem: int(problem.split()[1].rstrip(":")))
    if not found:
        return []
    advice = (
        ["Put values that hold a separator in quotes, and give every row all its values."] if table.ragged else []
    )
    if problems:
        advice.append(
            "Correct the table; rows without a label or a patient can be left out with `[site] leave_out`."
        )
    if named := sorted({word for word in words if word}):
        advice.append(f"If {' or '.join(named)} is a class, name it in `[data] classes`.")
    return [
        DataError(
            f"every row of {table.name} must hold; {counted(len(found), 'problem')}: {shortened(found, shown=_SHOWN)}. "
            + " ".join(advice),
            code="data-rows" if problems else "data-row-length",
        )
    ]


@dataclass(frozen=True)
class Checked:
    """Rows of a table after its missing values were looked at.

    Args:
        rows: that have a value in every required column.
        lacking: the other rows.
        problems: one for each of these, with its line.
        words: written for a label in such a row.
        notes: of the table, and the number of rows that `leave_out` names.
    """

    rows: tuple[Row, ...]
    lacking: tuple[Row, ...]
    problems: tuple[str, ...]
    words: tuple[str, ...]
    notes: tuple[str, ...]


def checked(table: Table, required: Sequence[str], options: ReaderOptions) -> Checked:
    """Returns the rows that hold in their required columns, without those that the site leaves out.

    Args:
        table: the table.
        required: columns; the rules for labels and for patients go by their names. Columns of patients without any
            value, in rows left out neither, say that the patients are not known.
        options: with the site's `leave_out`, of which one of `identity.MISSING` stands for every missing value, and the
            names of the study's classes, which are labels, even such words as none.
    """
    looked_at = [column for column in required if column in (*LABEL_COLUMNS, *PATIENT_COLUMNS)]
    labels = [column for column in required if column in LABEL_COLUMNS]
    stay = [row for row in table.rows if not any(_is_left_out(row, column, options) for column in looked_at)]
    persons = {*PATIENT_NAMES, *PATIENT_COLUMNS} & {*table.columns}
    nobody = persons if all(is_missing(row.values[column]) for row in table.rows for column in persons) else set()
    empty = {column: unlabelled((row.values[column] for row in stay), options.listed) for column in labels}

    def lacks(row: Row, column: str) -> bool:
        value = row.values[column]
        if column in PATIENT_COLUMNS:
            return column not in nobody and names_nobody(value)
        return folded(value) in empty[column] if column in empty else is_missing(value)

    rows, lacking_rows, problems, words = [], [], [], list[str]()
    for row in stay:
        if lacking := [column for column in required if lacks(row, column)]:
            said = [f"{column} ({row.values[column]})" if row.values[column] else column for column in lacking]
            problems.append(f"line {row.line} has no {' and no '.join(said)}")
            lacking_rows.append(row)
            words += [row.values[column] for column in lacking if column in empty]
        else:
            rows.append(row)
    count = len(table.rows) - len(stay)
    notes = (f"left out: {counted(count, 'row')} of {table.name}, by [site] leave_out",) if count else ()
    return Checked(tuple(rows), tuple(lacking_rows), tuple(problems), tuple(words), (*table.notes, *notes))


def _is_left_out(row: Row, column: str, options: ReaderOptions) -> bool:
    value = folded(row.values[column])
    if column in LABEL_COLUMNS and value in options.listed:
        return False
    return ("" if is_missing(value) else value.lower()) in options.left_out_values


@dataclass(frozen=True)
class Metadata:
    """`metadata.csv`.

    Args:
        rows: by file.
        listed: every file that it names, in rows left out as well.
        notes: of the table.
        refusals: of its other rows.
    """

    rows: dict[str, Row]
    listed: frozenset[str]
    notes: tuple[str, ...]
    refusals: tuple[DataError, ...]


def read_metadata(store: Store, required: tuple[str, ...], options: ReaderOptions) -> Metadata:
    """Returns the rows of `metadata.csv`, or of the table that the site names, one a picture.

    `file` is among the required columns.

    Raises:
        DataError: no such table; and everything that is wrong with its rows, unless `options.looking`.
    """
    table = table_of(store, METADATA, options, required, names_for("file", "patient_id"))
    columns = [column for column in dict.fromkeys((*required, "patient_id")) if column in table.columns]
    files, found = Files(store, options.labels), checked(table, columns, options)
    rows, faults = pictures_of("file", found, files)
    faults += [fault for row in rows.values() if (fault := wrong_part(row))]
    return Metadata(
        {file: row for file, row in rows.items() if wrong_part(row) is None},
        frozenset(files.find(row.values["file"])[0] for row in table.rows),
        found.notes,
        options.refused(refusal(table, [*found.problems, *faults], found.words)),
    )


def part_of(row: Row) -> str | None:
    """Returns the published part of a row: train, val or test."""
    return PARTS.get(folded(row.get("split") or "").casefold())


def wrong_part(row: Row) -> str | None:
    """Returns the fault of a row's split, or None."""
    split = row.get("split")
    if split is None or part_of(row):
        return None
    return f"line {row.line}: split is none of train, val, test: {split}"


def pictures_of(column: str, found: Checked, files: Files) -> tuple[dict[str, Row], list[str]]:
    """Returns the rows that hold by their files, and a problem for each row with a wrong or repeated file.

    A row that says of a file what an earlier one says is passed over: tables of boxes have a row for each.
    """
    first: dict[str, Row] = {}
    kept, problems = {}, []
    lacking = {row.line for row in found.lacking}
    for row in sorted((*found.rows, *found.lacking), key=lambda row: row.line):
        if row.get(column) is None:
            continue
        file, fault = files.find(row.values[column])
        if fault is None and (other := first.setdefault(file, row)) is not row:
            if _said(row) == _said(other):
                continue
            fault = f"{row.values[column]} is in line {other.line} already"
        if fault is not None:
            problems.append(f"line {row.line}: {fault}")
        elif row.line not in lacking:
            kept[file] = row
    return kept, problems


def _said(row: Row) -> tuple[object, ...]:
    """Returns what a row says of its picture."""
    columns = (*PATIENT_NAMES, *LABEL_NAMES, "mask", "site", "split")
    return (*(row.get(column) for column in columns), row.groups)


def files_in(store: Store, folder: str = "") -> tuple[list[str], int]:
    """Returns the pictures anywhere below `folder`, sorted, and the number of other files there."""
    seen = [name for name in store.names() if name.startswith(f"{folder}/" if folder else "")]
    pictures = [name for name in seen if name.lower().endswith(PICTURE_ENDINGS)]
    return pictures, len(seen) - len(pictures)


def leads_outside(file: str) -> bool:
    """Returns True for a path that does not lie below the data folder."""
    return PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts
