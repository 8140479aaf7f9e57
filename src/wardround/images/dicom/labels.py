"""A table of labels that names patients, studies, series or images as the headers do, and stays in the hospital.

    label, and one of patient_id, study_uid, series_uid, sop_uid, file[, site[, split]]

`file` is a path below the folder, a file's name, or that without its ending, for any slice of a volume. What the table
names becomes pseudonyms as it is read. No sentence here quotes it, not even its first line, which may be a patient's
where somebody forgot the names of the columns.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from wardround.errors import DataError
from wardround.images.csv_file import Table, read_table
from wardround.images.entries import stem_of
from wardround.images.identity import folded, likeness
from wardround.images.listing import ReaderOptions
from wardround.images.store import Store
from wardround.images.table import bytes_of_table, checked, part_of, refusal, wrong_part

LABELS = "labels.csv"
COLUMNS = {
    "patient_id": "patient", "study_uid": "study", "series_uid": "series", "sop_uid": "image", "file": "source",
}  # fmt: skip
"""Columns, and the kind of pseudonym that each is matched to; a file's is its place among those of the store."""


_NAME = "the table of labels"


@dataclass(frozen=True)
class Label:
    """The row of one patient, study, series or image; `line` is the first that names it.

    `likeness` is shared by ids of patients that look alike (`identity.likeness`); None of other names.
    """

    line: int
    label: str
    site: str | None
    split: str | None
    likeness: str | None = None

    def agrees(self, other: "Label") -> bool:
        """Returns True if another row says the same."""
        return (self.label, self.site, self.split) == (other.label, other.site, other.split)


@dataclass(frozen=True)
class LabelTable:
    """A table of labels.

    Args:
        kind: of the pseudonyms: "patient", "study", "series", "image" or "source".
        rows: by pseudonym.
        notes: of the table, without its content.
        refusals: of rows that do not hold.
    """

    kind: str
    rows: dict[str, Label]
    notes: tuple[str, ...]
    refusals: tuple[DataError, ...]


def read_labels(store: Store, options: ReaderOptions, name_for: Callable[[str, str], str]) -> LabelTable | None:
    """Returns the table that the site names, or `labels.csv` at the top of the store; None where there is none.

    Raises:
        DataError: it cannot be read or does not hold; the sentence names lines by number only.
    """
    if options.labels is None and LABELS not in store:
        return None
    table, failed = None, None
    try:
        table = read_table(_NAME, bytes_of_table(store, LABELS, options.labels), ("label",), quotes=False)
    except DataError as error:
        failed = str(error), error.code
    if failed is not None:  # raised outside, so that no chain of exceptions quotes the table
        raise _wrong_columns() if failed[1].startswith("data-column") else DataError(failed[0], code=failed[1])
    assert table is not None, "read, or refused"
    columns = [name for name in COLUMNS if name in table.columns]
    if len(columns) != 1:
        raise _wrong_columns()
    return _matched(table, columns[0], _by_files(store) if columns == ["file"] else name_for, options)


def _by_files(store: Store) -> Callable[[str, str], str]:
    """Returns the way from a file's name to its place in the store; one that several files have has none."""
    names: dict[str, set[str]] = defaultdict(set)
    for file in store.names():
        for name in (file, PurePosixPath(file).name, stem_of(file)):
            names[name].add(file)

    def place(kind: str, written: str) -> str:
        path = PurePosixPath(written.replace("\\", "/")).as_posix()
        found = names.get(path, set())
        return store.alias(min(found)) if len(found) == 1 else f"{kind} {written}"

    return place


def _wrong_columns() -> DataError:
    return DataError(
        f"the first line of {_NAME} must name the columns label and one of {', '.join(COLUMNS)}, each once; it names "
        "others. Add them, and separate by comma, semicolon, tab or bar.",
        code="data-column-missing",
    )


def _matched(table: Table, column: str, name_for: Callable[[str, str], str], options: ReaderOptions) -> LabelTable:
    found = checked(table, ("label", column), options)
    rows: dict[str, Label] = {}
    problems = []
    for row in found.rows:
        label = Label(row.line, folded(row.values["label"]), row.get("site"), part_of(row))
        if column == "patient_id":
            label = replace(label, likeness=name_for("likeness", likeness(row.values[column])))
        if wrong_part(row):
            problems.append(f"line {row.line}: split is none of train, val, test")
        elif not rows.setdefault(name_for(COLUMNS[column], row.values[column]), label).agrees(label):
            problems.append(f"line {row.line} contradicts an earlier one")
    refusals = options.refused(refusal(table, [*found.problems, *problems], found.words))
    return LabelTable(COLUMNS[column], rows, found.notes, refusals)
