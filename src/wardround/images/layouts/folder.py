"""Any folder of pictures: with a metadata.csv, or with one sub-folder a class.

    metadata.csv        file,label,patient_id[,site[,split]]; `file` is a path below the folder
    <class>/<patient>/**/picture.png        one folder a patient
    <class>/picture.png                     no patient named: every picture is a patient of its own

The last is a guess that weakens the guarantee wherever it is wrong; a finding says so.
"""

from wardround.errors import DataError
from wardround.images.entries import Entry, Task
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import METADATA, files_in, numbers_first, read_metadata

EXPECTED = f"{METADATA} (file,label,patient_id), or <class>/[<patient>/]picture.png with two classes or more"


def read_folder(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every picture with its class and patient, by the table if there is one, by folders otherwise.

    Raises:
        DataError: the table does not hold, or there are fewer than two classes and the study names none.
    """
    del task
    listing = _by_table(store) if METADATA in store else _by_folders(store)
    if len(listing.class_names) < 2 and options.classes is None:
        raise DataError(
            f"the layout folder must look like {EXPECTED}; found the classes: "
            f"{', '.join(listing.class_names) or 'none'}. Add pictures of a second class."
        )
    return listing


def _by_table(store: Store) -> Listing:
    rows = read_metadata(store, ("file", "label", "patient_id"))
    class_names = tuple(sorted({row.values["label"] for row in rows}, key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(
        Entry(
            row.values["file"],
            number[row.values["label"]],
            row.values["patient_id"],
            site=row.get("site"),
            split=row.get("split"),
        )
        for row in sorted(rows, key=lambda row: row.values["file"])
    )
    listed = {entry.file for entry in entries}
    count = sum(file not in listed for file in files_in(store)[0])
    notes = (f"{count} pictures in the folder are not in {METADATA} and were passed over",) if count else ()
    return Listing(entries, class_names, notes)


def _by_folders(store: Store) -> Listing:
    folders = sorted({name.split("/", 1)[0] for name in store.names() if "/" in name})
    found = {folder: files_in(store, folder) for folder in folders}
    class_names = tuple(sorted((name for name, (files, _) in found.items() if files), key=numbers_first))
    parts = [(label, file, file.split("/")) for label, name in enumerate(class_names) for file in found[name][0]]
    entries = tuple(Entry(file, label, path[1] if len(path) > 2 else file) for label, file, path in parts)
    num_others = sum(others for _, others in found.values())
    notes = (f"{num_others} files that are no pictures were passed over",) if num_others else ()
    unnamed = sum(entry.patient == entry.file for entry in entries)
    return Listing(entries, class_names, notes, unnamed=unnamed)


READER = Reader(read_folder, EXPECTED, (Task.CLASSIFICATION, Task.BINARY))
