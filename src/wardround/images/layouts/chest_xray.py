"""Paediatric chest X-rays in their published layout (Kermany, Zhang and Goldbaum 2018).

    {train,test[,val]}/{NORMAL,PNEUMONIA}/*.jpeg        and, if somebody made one, metadata.csv

Patients are read off file names, conservatively, since the names are ambiguous: `person7` occurs as bacterial
and as viral, and `IM-0031` with and without `NORMAL2-`. Each time both are taken for one person, because a
person counted twice would be protected half as well. A `patient_id` column in metadata.csv goes before.
"""

import re

from wardround.errors import DataError
from wardround.images.entries import Entry, Task
from wardround.images.findings import LeftOut, no_pictures, shortened
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, ByPattern, ByTable, Listing, ReaderOptions
from wardround.images.naming import TABLE
from wardround.images.store import Store
from wardround.images.table import METADATA, Metadata, files_in, read_metadata

SPLITS = ("train", "val", "test")
FOLDERS = ("NORMAL", "PNEUMONIA")
CLASS_NAMES = {
    Task.BINARY: ("normal", "pneumonia"),
    Task.SUBTYPE: ("normal", "bacterial", "viral"),
}
EXPECTED = "{train,test}/{NORMAL,PNEUMONIA}/*.jpeg"

_ILL = re.compile(r"person(\d+)_(bacteria|virus)_")
_NORMAL = re.compile(r"(?:NORMAL\d*-)?IM-(\d+)-")
_SUBTYPES = {"bacteria": 1, "virus": 2}


def read_chest_xray(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every picture of the published layout, with its patient and its published part.

    Raises:
        DataError: another layout, a file name that tells no patient or no subtype, or a metadata.csv that
            does not fit the files.
    """
    parts = [files_in(store, f"{split}/{folder}") for split in SPLITS for folder in FOLDERS]
    files, num_others = [file for found, _ in parts for file in found], sum(others for _, others in parts)
    if not files:
        raise DataError(f"the layout chest_xray must look like {EXPECTED}, but no picture lies so.")
    is_named_elsewhere = TABLE in store or isinstance(options.names, ByPattern | ByTable)
    table = None
    if METADATA in store or options.labels is not None:
        table = read_metadata(store, ("file", "patient_id"), options)
        patients, wrong = _patients_of_table(table, files)
    else:
        patients, wrong = _patients_of_names(files, is_named_elsewhere=is_named_elsewhere)
    labels, unlabelled = _labels(list(patients), task)
    refusals = options.refused([*(table.refusals if table else ()), *wrong, *unlabelled])
    left_out = [LeftOut(file, "files without a patient or a label") for file in files if file not in labels]
    files = list(labels)
    entries = tuple(
        Entry(file, labels[file], patients[file][0], site=patients[file][1], split=file.split("/")[0])
        for file in files
    )
    notes = (*no_pictures(num_others), *(() if table is None else table.notes))
    return Listing(entries, CLASS_NAMES[task], notes, left_out=tuple(left_out), refusals=refusals)


def patient_of_name(file: str) -> str | None:
    """Returns the conservative patient id that a file name tells, or None.

    >>> patient_of_name("train/PNEUMONIA/person7_virus_21.jpeg")
    'P0007'
    >>> patient_of_name("NORMAL2-IM-0031-0001.jpeg") == patient_of_name("IM-0031-0001-0002.jpeg")
    True
    """
    name = file.rsplit("/", 1)[-1]
    for letter, rule in (("P", _ILL), ("N", _NORMAL)):
        if found := rule.match(name):
            return f"{letter}{int(found[1]):04d}"
    return None


_Patients = dict[str, tuple[str | None, str | None]]
"""Patient and site of each file that has them."""


def _patients_of_names(files: list[str], *, is_named_elsewhere: bool) -> tuple[_Patients, list[DataError]]:
    patients: _Patients = {file: (patient_of_name(file), None) for file in files}
    unknown = [file for file, (patient, _) in patients.items() if patient is None]
    if is_named_elsewhere or not unknown:
        return patients, []
    error = DataError(
        f"every file name must tell its patient (personN_bacteria_, personN_virus_ or IM-N-), "
        f"{len(unknown)} do not: {shortened(unknown)}. "
        f"Add a {TABLE} with the columns picture and patient, or set `[site] patients`."
    )
    return {file: found for file, found in patients.items() if found[0] is not None}, [error]


def _patients_of_table(table: Metadata, files: list[str]) -> tuple[_Patients, list[DataError]]:
    unlisted = [file for file in files if file not in table.listed]
    error = DataError(
        f"{METADATA} must list every picture, {len(unlisted)} of {len(files)} are not in it: "
        f"{shortened(unlisted)}. Add their rows, or take the files away."
    )
    rows = {file: table.rows[file] for file in files if file in table.rows}
    patients: _Patients = {file: (row.values["patient_id"], row.get("site")) for file, row in rows.items()}
    return patients, [error] if unlisted else []


def _labels(files: list[str], task: Task) -> tuple[dict[str, int], list[DataError]]:
    ill = {file: int(file.split("/")[1] == "PNEUMONIA") for file in files}
    if task is Task.BINARY:
        return ill, []
    found = {file: _ILL.match(file.rsplit("/", 1)[-1]) for file in files if ill[file]}
    unknown = [file for file, match in found.items() if match is None]
    error = DataError(
        f"for the task subtype every name below PNEUMONIA must say bacteria or virus, {len(unknown)} do "
        f"not: {shortened(unknown)}. Use the task binary."
    )
    well = {file: 0 for file in files if not ill[file]}
    labels = well | {file: _SUBTYPES[match[2]] for file, match in found.items() if match is not None}
    return {file: labels[file] for file in files if file in labels}, [error] if unknown else []


READER = Reader(read_chest_xray, EXPECTED, (Task.BINARY, Task.SUBTYPE))
