"""Fundus photographs graded for diabetic retinopathy, in the layout of APTOS 2019.

    train.csv                       id_code,diagnosis[,patient_id][,eye][,site]; diagnosis is a grade, 0 to 4
    train_images/<id_code>.png

The published table names no patient, and both eyes of a person are often photographed: `patients.csv` (picture,
patient[, eye]), if the hospital made one, names them. The published test pictures have no grades.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.csv_file import Row
from wardround.images.entries import Entry, Task
from wardround.images.findings import passed_over
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import Checked, bytes_of_table, checked, refusal, table_of

TABLE = "train.csv"
FOLDER = "train_images"
TEST_TABLE = "test.csv"
TEST_FOLDER = "test_images"
ENDINGS = (".png", ".jpg", ".jpeg")
EXPECTED = f"{TABLE} (id_code,diagnosis) and {FOLDER}/<id_code>.png"

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
"""The international clinical scale: Wilkinson et al. 2003, table 2, https://doi.org/10.1016/S0161-6420(03)00475-5."""

_OTHER_NAMES = {"patient": "patient_id"}
_GRADES = {str(grade) for grade in range(len(GRADES))}

REFERABLE_FROM = 2
"""The grade from which an ophthalmologist should see the patient: moderate or worse."""

CLASS_NAMES = {Task.GRADING: GRADES, Task.REFERABLE: ("not referable", "referable")}


def read_aptos(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every graded photograph: with its grade (grading), or whether it is moderate or worse (referable).

    Raises:
        DataError: another layout, or everything that is wrong with the table: pictures that are missing or
            there twice, grades out of range, ids in two rows, rows without a patient where there is that column.
    """
    pictures = _pictures(store)
    if (TABLE not in store and options.labels is None) or not pictures:
        found = f"no picture in {FOLDER}" if TABLE in store else f"no {TABLE}"
        raise DataError(f"the layout aptos must look like {EXPECTED}, but there is {found}.")
    table = table_of(store, TABLE, options, ("id_code", "diagnosis"), _OTHER_NAMES)
    columns = [column for column in ("id_code", "diagnosis", "patient_id") if column in table.columns]
    looked = checked(table, columns, options)
    rows, problems = _that_hold(looked, pictures)
    refusals = options.refused(refusal(table, [*looked.problems, *problems], looked.words))
    entries = sorted((_entry(row, pictures, task) for row in rows), key=lambda entry: entry.file)
    notes = (*looked.notes, *_notes(store, table.rows, pictures))
    return Listing(
        tuple(entries), CLASS_NAMES[task], notes, refusals=refusals, is_ordered=True, target=task.target
    )


def is_aptos(store: Store, table: Path | None) -> bool:
    """Returns True where photographs lie beside a table of this layout: many sets have a train.csv and train_images.

    A `table` that lies elsewhere goes before that of the folder.
    """
    if not any(name.startswith(f"{FOLDER}/") for name in store.names()) or not (table or TABLE in store):
        return False
    head = bytes_of_table(store, TABLE, table)[:1000].replace(b"\0", b"").lower()
    return b"id_code" in head.replace(b" ", b"_")


def _entry(row: Row, pictures: Mapping[str, Sequence[str]], task: Task) -> Entry:
    [file] = pictures[row.values["id_code"]]
    grade = int(row.values["diagnosis"][0])
    eye = row.get("eye")
    return Entry(
        file,
        grade if task is Task.GRADING else int(grade >= REFERABLE_FROM),
        row.get("patient_id"),
        site=row.get("site"),
        groups=((("eye", eye),) if eye else ()) + row.groups,
    )


def _pictures(store: Store) -> dict[str, list[str]]:
    """Returns the pictures of each id_code; more than one is a problem of the table's."""
    pictures: dict[str, list[str]] = defaultdict(list)
    for name in store.names():
        path = PurePosixPath(name)
        if str(path.parent) == FOLDER and path.suffix.lower() in ENDINGS:
            pictures[path.stem].append(name)
    return dict(pictures)


def _that_hold(found: Checked, pictures: Mapping[str, Sequence[str]]) -> tuple[list[Row], list[str]]:
    """Returns the rows with a grade and one picture, and a problem for each fault of another row."""
    good, problems = [], []
    seen: dict[str, int] = {}
    lacking = {row.line for row in found.lacking}
    for row in sorted((*found.rows, *found.lacking), key=lambda row: row.line):
        code, grade = row.get("id_code"), row.values["diagnosis"]
        wrong = []
        if row.line not in lacking and grade.removesuffix(".0") not in _GRADES:  # 2.0 is a spreadsheet's 2
            wrong.append(f"diagnosis must be a grade from 0 to {len(GRADES) - 1}, got {grade!r}")
        if code is not None and seen.setdefault(code, row.line) != row.line:
            wrong.append(f"{code} is in line {seen[code]} already")
        elif code is not None and code not in pictures:
            wrong.append(f"{FOLDER}/{code}.png is missing")
        elif code is not None and len(pictures[code]) > 1:
            wrong.append(f"{code} has {len(pictures[code])} pictures")
        problems += [f"line {row.line}: {fault}" for fault in wrong]
        if not wrong and row.line not in lacking:
            good.append(row)
    return good, problems


def _notes(store: Store, rows: Sequence[Row], pictures: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    notes = []
    num_test = sum(name.startswith(f"{TEST_FOLDER}/") for name in store.names())
    if num_test or TEST_TABLE in store:
        notes.append(
            f"{TEST_TABLE} and {counted(num_test, 'file')} in {TEST_FOLDER} have no published grades: passed over"
        )
    num_unlisted = len(pictures.keys() - {row.values["id_code"] for row in rows})
    return (*notes, *passed_over(num_unlisted, "picture", rest=f" in {FOLDER} without a row in {TABLE}"))


READER = Reader(read_aptos, EXPECTED, (Task.GRADING, Task.REFERABLE))
