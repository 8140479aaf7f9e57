"""Every picture or volume of a data folder, for a person who looks at data that the layout's reader refuses."""

import csv
from collections.abc import Collection
from itertools import islice

from wardround.errors import DataError
from wardround.images.class_names import number_of
from wardround.images.decode.nifti import ENDINGS, NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import Entry, stem_of
from wardround.images.findings import LeftOut
from wardround.images.identity import folded
from wardround.images.listing import NO_LABEL, Listing
from wardround.images.mask_names import MASKS, masks_beside, plain
from wardround.images.store import Store
from wardround.images.table import files_in

IN_MASKS = "files in folders of masks"
BESIDE = "masks beside their pictures, by their names"

_TABLES, _WORKBOOKS = (".csv", ".tsv"), (".xls", ".xlsx", ".ods")
_TABLE_HEAD = 1 << 16
_MOST_OPENED, _MOST_NOTED = 20, 5


def list_all(store: Store, refusal: DataError, classes: Collection[str]) -> Listing:
    """Returns the pictures of a folder or its volumes, whichever are more, without labels; the others are left out.

    Args:
        store: the data folder.
        refusal: of the layout's reader, which becomes those of the listing.
        classes: of the study, whose folders are none of masks.

    Raises:
        DataError: `refusal`, where nothing is left to look at.
    """
    pictures, _ = files_in(store)
    volumes = [name for name in store.names() if name.lower().endswith(ENDINGS)]
    are_volumes = len(volumes) > len(pictures)
    used, others = (volumes, pictures) if are_volumes else (pictures, volumes)
    beside = masks_beside(used)
    masks = {name for name in used if _is_mask(name, classes)}
    kept = [name for name in used if name not in masks and name not in beside]
    if not kept:
        raise refusal
    left_out = [LeftOut(name, IN_MASKS) for name in used if name in masks]
    left_out += [LeftOut(name, BESIDE) for name in used if name in beside and name not in masks]
    left_out += [LeftOut(name, f"{'pictures' if are_volumes else 'volumes'} beside the others") for name in others]
    return Listing(
        tuple(Entry(name, 0, None) for name in kept),
        (NO_LABEL,),
        unread_tables(store, kept),
        left_out=(*left_out, *store.left_out),
        refusals=(*store.refusals, *(refusal.several or (refusal,))),
        volumes=are_volumes,
        decoder=NIFTI if are_volumes else PILLOW,
    )


def _is_mask(name: str, classes: Collection[str]) -> bool:
    return any(plain(folder) in MASKS and folded(folder) not in classes for folder in name.split("/")[:-1])


def unread_tables(store: Store, pictures: Collection[str], read: Collection[str] = ()) -> tuple[str, ...]:
    """Returns notes of the tables that name pictures and of workbooks, none of which is read, but for `read`.

    The first lines of a table tell; their names are `Image Index`, `image_id`, `id`, as each public set has its own.
    Those at the top are looked at first, and a limited number of them. No note has a title, which is a name where the
    table has no header, nor the name of a file below the top, which may be a person's.
    """
    tables = [
        name
        for name in store.names()
        if name.lower().endswith((*_TABLES, *_WORKBOOKS)) and name.lower() not in read
    ]
    tables.sort(key=lambda name: name.count("/"))
    stems = {stem_of(name) for name in pictures} if tables else set()
    notes = (_note_of(store, name, stems) for name in tables[:_MOST_OPENED])
    return tuple(dict.fromkeys(islice(filter(None, notes), _MOST_NOTED)))


def table_naming(store: Store, pictures: Collection[str]) -> str | None:
    """Returns the first table at the top of the folder that names most of its rows' pictures; None without one."""
    stems = {stem_of(name) for name in pictures}
    tables = [name for name in store.names() if "/" not in name and name.lower().endswith(_TABLES)]
    named = (name for name in tables[:_MOST_OPENED] if _names_pictures(store.head(name, _TABLE_HEAD), stems))
    return next(named, None)


def _note_of(store: Store, name: str, stems: Collection[str]) -> str | None:
    is_deep = "/" in name
    if name.lower().endswith(_WORKBOOKS):
        what = "a file in a folder" if is_deep else name
        return f"{what} is a workbook, which is not read; if it has labels or patients, save it as .csv"
    if not _names_pictures(store.head(name, _TABLE_HEAD), stems):
        return None
    return (
        f"{'a table in a folder' if is_deep else name} names the pictures, and is not read; if it has their labels or "
        "patients, call its columns image, patient and label, and give it as `[site] labels` with the layout manifest"
    )


def _names_pictures(head: bytes, stems: Collection[str]) -> bool:
    """Returns True for a table with a column of which most values are names of pictures, with endings or without.

    Numbers are names where none occurs twice: an age of 34 is no name of `34.png`.
    """
    lines = head.decode("utf-8-sig", "replace").splitlines()[:50]
    try:
        rows = list(csv.reader(lines, delimiter=max(",;\t|", key=lines[0].count))) if lines else [[]]
    except csv.Error:
        return False
    for place in range(len(rows[0])):
        values = [row[place].replace("\\", "/").rpartition("/")[2] for row in rows[1:] if len(row) > place]
        named = [value for value in values if value in stems or stem_of(value) in stems]
        repeated = len({*named}) < len(named) and all(number_of(value) is not None for value in named)
        if 2 * len(named) > len(values) and not repeated:
            return True
    return False
