"""Any folder of pictures: with a metadata.csv, or with one sub-folder a class.

    metadata.csv        file,label,patient_id[,site[,split]]; `file` is a path below the folder
    [<part>/]<class>/<patient>/**/picture.png        one folder a patient
    [<part>/]<class>/picture.png                     no patient named: the picture is what is protected

A part is train, val or test, under their usual names. Folders of these names are no classes and no patients. Where most
folder names stand under every class, they are refused: they are parts, kinds or numbers that begin anew in each class,
far more often than patients.
"""

from collections import defaultdict
from collections.abc import Sequence

from wardround.errors import DataError
from wardround.images.entries import Entry, Task
from wardround.images.findings import shortened
from wardround.images.identity import folded
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, ByPattern, ByTable, Listing, ReaderOptions
from wardround.images.naming import TABLE
from wardround.images.store import Store
from wardround.images.table import METADATA, files_in, numbers_first, read_metadata

EXPECTED = (
    f"{METADATA} (file,label,patient_id), or [<part>/]<class>/[<patient>/]picture.png with two classes or more"
)

_PARTS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folder names of published parts, in lower case, and the part that each is."""


def read_folder(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every picture with its class and patient, by the table if there is one, by folders otherwise.

    Raises:
        DataError: the table does not hold, there are fewer than two classes and the study names none, parts stand
            beside classes, or folders that should be patients' have the same names under every class.
    """
    del task
    listing = _by_table(store, options.leave_out) if METADATA in store else _by_folders(store, options)
    if len(listing.class_names) < 2 and options.classes is None:
        raise DataError(
            f"the layout folder must look like {EXPECTED}; found the classes: "
            f"{', '.join(listing.class_names) or 'none'}. Add pictures of a second class."
        )
    return listing


def _by_table(store: Store, leave_out: Sequence[str]) -> Listing:
    rows, listed = read_metadata(store, ("file", "label", "patient_id"), leave_out)
    labels = {row.values["file"]: folded(row.values["label"]) for row in rows}
    class_names = tuple(sorted(set(labels.values()), key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(
        Entry(
            row.values["file"],
            number[labels[row.values["file"]]],
            row.values["patient_id"],
            site=row.get("site"),
            split=row.get("split"),
        )
        for row in sorted(rows, key=lambda row: row.values["file"])
    )
    unlisted, left_out = sum(file not in listed for file in files_in(store)[0]), len(listed) - len(rows)
    notes = [f"{left_out} rows of {METADATA} were left out, by [site] leave_out"] if left_out else []
    notes += [f"{unlisted} pictures in the folder are not in {METADATA} and were passed over"] if unlisted else []
    return Listing(entries, class_names, tuple(notes))


def _by_folders(store: Store, options: ReaderOptions) -> Listing:
    pictures, _ = files_in(store)
    tops = sorted({file.split("/", 1)[0] for file in pictures if "/" in file})
    parts = [top for top in tops if top.casefold() in _PARTS]
    if parts and parts != tops:
        raise DataError(
            f"published parts ({', '.join(parts)}) must not stand beside classes, got: "
            f"{shortened([top for top in tops if top not in parts])}. Lay the classes into the parts, as in "
            f"train/<class>/picture.png, or give a {METADATA}.",
            code="data-parts-beside-classes",
        )
    depth = 1 if parts else 0
    paths = {file: path for file in pictures if len(path := file.split("/")) > depth + 1}
    classes = {file: folded(path[depth]) for file, path in paths.items()}
    class_names = tuple(sorted(set(classes.values()), key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = []
    for file, name in sorted(classes.items(), key=lambda pair: (number[pair[1]], pair[0])):
        path = paths[file]
        patient = path[depth + 1] if len(path) > depth + 2 else None
        entries.append(Entry(file, number[name], patient, split=_PARTS[path[0].casefold()] if parts else None))
    if not (TABLE in store or isinstance(options.names, ByPattern | ByTable)):
        _check_patients(entries, len(class_names))
    num_others = sum("/" in name for name in store.names()) - sum("/" in file for file in pictures)
    notes = [f"{num_others} files that are no pictures were passed over"] if num_others else []
    if loose := sum(file.count("/") == depth for file in pictures) if parts else 0:
        notes.append(f"{loose} pictures in a part have no class and were passed over")
    return Listing(tuple(entries), class_names, tuple(notes))


def _check_patients(entries: Sequence[Entry], num_classes: int) -> None:
    """Refuses folder names that are not patients': most of them stand under every class."""
    classes: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        if entry.patient is not None:
            classes[folded(entry.patient).casefold()].add(entry.label)
    everywhere = [patient for patient, found in classes.items() if len(found) == num_classes]
    if num_classes > 1 and 2 * len(everywhere) > len(classes):
        raise DataError(
            f"folders below a class must be patients, but {len(everywhere)} of {len(classes)} folder names stand under "
            f"every class: {shortened(sorted(everywhere))}. If they are patients, set `[site] patients` to "
            "{pattern = '^[^/]+/([^/]+)/'}; if numbers begin anew in each class, to {pattern = '^([^/]+/[^/]+)/'}; "
            f"if they are parts or kinds, name the patients in a {TABLE} (picture, patient).",
            code="data-patient-in-every-class",
        )


READER = Reader(read_folder, EXPECTED, (Task.CLASSIFICATION, Task.BINARY))
