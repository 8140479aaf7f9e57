"""Fundus photographs graded for diabetic retinopathy, in the layout of APTOS 2019.

    train.csv                       id_code,diagnosis[,patient_id][,eye][,site]; diagnosis is a grade, 0 to 4
    train_images/<id_code>.png
    patients.csv                    id_code,patient_id[,eye], if the hospital made one; it goes before the columns

The published table names no patient. Without one every picture is counted as a patient of its own, which is half
the truth wherever both eyes of a person were photographed; a note says so. The published test pictures have no
grades.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from wardround.errors import DataError
from wardround.images.entries import Entry, Target, Task
from wardround.images.layouts.readers import Reader, plain
from wardround.images.listing import Listing
from wardround.images.store import Store
from wardround.images.table import Row, read_rows, refuse

TABLE = "train.csv"
FOLDER = "train_images"
TEST_TABLE = "test.csv"
TEST_FOLDER = "test_images"
PATIENTS = "patients.csv"
ENDINGS = (".png", ".jpg", ".jpeg")
EXPECTED = f"{TABLE} (id_code,diagnosis) and {FOLDER}/<id_code>.png"

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
"""The international clinical scale: Wilkinson et al. 2003, table 2, https://doi.org/10.1016/S0161-6420(03)00475-5."""

_GRADES = {str(grade) for grade in range(len(GRADES))}

REFERABLE_FROM = 2
"""The grade from which an ophthalmologist should see the patient: moderate or worse."""

CLASS_NAMES = {Task.GRADING: GRADES, Task.REFERABLE: ("not referable", "referable")}


def read_aptos(store: Store, task: Task) -> Listing:
    """Returns every graded photograph: with its grade (grading), or whether it is moderate or worse (referable).

    Raises:
        DataError: another layout or task, or everything that is wrong with a table: pictures that are missing or
            there twice, grades out of range, ids in two rows, pictures without a patient in a table of patients.
    """
    if task not in CLASS_NAMES:
        raise DataError(
            f"the layout aptos must be read for one of the tasks {', '.join(CLASS_NAMES)}, got {task.value!r}. "
            "Choose one of them."
        )
    pictures = _pictures(store)
    if TABLE not in store or not pictures:
        found = f"no {TABLE}" if TABLE not in store else f"no picture in {FOLDER}"
        raise DataError(f"the layout aptos must look like {EXPECTED}, but there is {found}.")
    rows = read_rows(store, TABLE, ("id_code", "diagnosis"))
    refuse(TABLE, _problems(rows, pictures))
    people = _people(store, rows)
    entries = sorted((_entry(row, pictures, people, task) for row in rows), key=lambda entry: entry.file)
    target = Target.GRADES if task is Task.GRADING else Target.CLASSES
    return Listing(
        tuple(entries),
        CLASS_NAMES[task],
        _notes(store, rows, pictures),
        target=target,
        unnamed=0 if people else len(rows),
    )


def _entry(row: Row, pictures: Mapping[str, Sequence[str]], people: Mapping[str, Row], task: Task) -> Entry:
    code = row.values["id_code"]
    [file] = pictures[code]
    grade = int(row.values["diagnosis"][0])
    person = people.get(code)
    eye = (person and person.get("eye")) or row.get("eye")
    return Entry(
        file,
        grade if task is Task.GRADING else int(grade >= REFERABLE_FROM),
        person.values["patient_id"] if person else file,
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


def _problems(rows: Sequence[Row], pictures: Mapping[str, Sequence[str]]) -> list[str]:
    problems = []
    seen: dict[str, int] = {}
    for row in rows:
        code, grade = row.values["id_code"], row.values["diagnosis"]
        if grade.removesuffix(".0") not in _GRADES:  # 2.0 is what a spreadsheet makes of 2
            problems.append(
                f"line {row.line}: diagnosis must be a grade from 0 to {len(GRADES) - 1}, got {grade!r}"
            )
        if not code:
            problems.append(f"line {row.line} has no id_code")
        elif seen.setdefault(code, row.line) != row.line:
            problems.append(f"line {row.line}: {code} is in line {seen[code]} already")
        elif code not in pictures:
            problems.append(f"line {row.line}: {FOLDER}/{code}.png is missing")
        elif len(pictures[code]) > 1:
            problems.append(f"line {row.line}: {code} has {len(pictures[code])} pictures")
    return problems


def _people(store: Store, rows: Sequence[Row]) -> dict[str, Row]:
    """Returns the row that names the patient of each id_code: of patients.csv, else of train.csv, else none."""
    if PATIENTS in store:
        table, listed = PATIENTS, read_rows(store, PATIENTS, ("id_code", "patient_id"))
    elif rows and "patient_id" in rows[0].values:
        table, listed = TABLE, list(rows)
    else:
        return {}
    people: dict[str, Row] = {}
    problems = []
    for row in listed:
        code, patient = row.values["id_code"], row.values["patient_id"]
        if not code or not patient:
            problems.append(f"line {row.line} has no {'patient_id' if code else 'id_code'}")
        elif people.setdefault(code, row).values["patient_id"] != patient:
            problems.append(f"line {row.line}: {code} has another patient in line {people[code].line}")
    refuse(table, problems)
    refuse(table, [f"{row.values['id_code']} has no row" for row in rows if row.values["id_code"] not in people])
    return people


def _notes(store: Store, rows: Sequence[Row], pictures: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    notes = []
    num_test = sum(name.startswith(f"{TEST_FOLDER}/") for name in store.names())
    if num_test or TEST_TABLE in store:
        notes.append(f"{TEST_TABLE} and {num_test} files in {TEST_FOLDER} have no published grades: passed over")
    num_unlisted = len(pictures.keys() - {row.values["id_code"] for row in rows})
    if num_unlisted:
        notes.append(f"{num_unlisted} pictures in {FOLDER} are not in {TABLE} and were passed over")
    return tuple(notes)


READER = Reader(plain(read_aptos), EXPECTED, (Task.GRADING, Task.REFERABLE))
