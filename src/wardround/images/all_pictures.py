"""Every picture or volume of a data folder, for a person who looks at data that the layout's reader refuses."""

import csv
import re
from collections.abc import Collection
from pathlib import PurePosixPath

from wardround.boundary.text import brief
from wardround.errors import DataError
from wardround.images.decode.nifti import ENDINGS, NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import Entry
from wardround.images.findings import LeftOut
from wardround.images.listing import NO_LABEL, Listing
from wardround.images.store import Store
from wardround.images.table import files_in

MASKS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "segmentation", "ground_truth",
    "groundtruth", "gt", "labelstr", "labelsts",
}  # fmt: skip
"""Folder names of masks, in lower case."""

IN_MASKS = "files in folders of masks"
BESIDE = "masks beside their pictures, by their names"

_MASK_NAME = re.compile(r"(.+?)[ _.-]+(?:mask|seg|segmentation|gt|annotation)s?(?:[ _-]*\d+)?", re.IGNORECASE)
"""A name that is another file's, followed by a word for masks: `a_mask.png` or `a_mask_1.png` beside `a.png`."""

_OF_MASKS = re.compile(r"(?:[ _.-]|(?<=[a-z])(?=[A-Z]))(?i:masks?|segmentations?|ground[ _-]?truth|annotations?)")
"""The end of a folder's name that calls it one of masks: `ManualMask`, `lung_masks`, `Training_GroundTruth`."""

_TABLES, _WORKBOOKS = (".csv", ".tsv"), (".xls", ".xlsx", ".ods")
_TABLE_HEAD = 1 << 16
_MOST_NOTED = 5


def list_all(store: Store, refusal: DataError) -> Listing:
    """Returns the pictures of a folder or its volumes, whichever are more, without labels; the others are left out.

    Args:
        store: the data folder.
        refusal: of the layout's reader, which becomes those of the listing.

    Raises:
        DataError: `refusal`, where nothing is left to look at.
    """
    pictures, _ = files_in(store)
    volumes = [name for name in store.names() if name.lower().endswith(ENDINGS)]
    are_volumes = len(volumes) > len(pictures)
    used, others = (volumes, pictures) if are_volumes else (pictures, volumes)
    beside = masks_beside(used)
    kept = [name for name in used if not is_mask(name) and name not in beside]
    if not kept:
        raise refusal
    left_out = [LeftOut(name, IN_MASKS) for name in used if is_mask(name)]
    left_out += [LeftOut(name, BESIDE) for name in used if name in beside and not is_mask(name)]
    left_out += [LeftOut(name, f"{'pictures' if are_volumes else 'volumes'} beside the others") for name in others]
    return Listing(
        tuple(Entry(name, 0, None) for name in kept),
        (NO_LABEL,),
        unread_tables(store, kept),
        left_out=(*left_out, *store.left_out),
        refusals=(*store.refusals, *(refusal.several or (refusal,))),
        volumes=are_volumes,
        channels=1 if are_volumes else None,
        decoder=NIFTI if are_volumes else PILLOW,
    )


def is_mask(name: str) -> bool:
    """Returns True for a file in a folder of masks."""
    return any(is_of_masks(folder) for folder in name.split("/")[:-1])


def is_of_masks(folder: str) -> bool:
    """Returns True for a folder's name that calls it one of masks.

    >>> [is_of_masks(name) for name in ("Labels", "leftMask", "lung masks", "unmasked", "benign")]
    [True, True, True, False, False]
    """
    ends = [match.end() for match in _OF_MASKS.finditer(folder)]
    return plain(folder) in MASKS or len(folder) in ends


def unread_tables(store: Store, pictures: Collection[str], read: Collection[str] = ()) -> tuple[str, ...]:
    """Returns a note for each table that names pictures and each workbook, none of which is read, but for `read`.

    The first lines of a table tell; their names are `Image Index`, `image_id`, `id`, as each public set has its own.
    """
    stems, notes = {PurePosixPath(name).stem for name in pictures}, []
    for name in store.names():
        if name.lower().endswith(_WORKBOOKS):
            notes.append(f"{name} is a workbook, which is not read; if it has labels or patients, save it as .csv")
        elif name.lower().endswith(_TABLES) and name not in read:
            column = _column_of_pictures(store.head(name, _TABLE_HEAD), stems)
            if column is not None:
                notes.append(
                    f"{name} names the pictures (column {brief(column)}), and is not read; if it has their labels or "
                    "patients, write a manifest.csv (image, patient, label) from it"
                )
    return tuple(notes[:_MOST_NOTED])


def _column_of_pictures(head: bytes, stems: Collection[str]) -> str | None:
    """Returns the title of the column in which most values are names of pictures, with their endings or without."""
    lines = head.decode("utf-8-sig", "replace").splitlines()[:50]
    try:
        rows = list(csv.reader(lines, delimiter=max(",;\t|", key=lines[0].count))) if lines else [[]]
    except csv.Error:
        return None
    for place, title in enumerate(rows[0]):
        values = [PurePosixPath(row[place].replace("\\", "/")) for row in rows[1:] if len(row) > place]
        if 2 * sum(value.stem in stems or value.name in stems for value in values) > len(values):
            return title
    return None


def masks_beside(names: Collection[str]) -> frozenset[str]:
    """Returns the files whose names call them masks of another file in their folder.

    >>> sorted(masks_beside(["a/b (1).png", "a/b (1)_mask.png", "a/b (1)_mask_2.png", "a/c_mask.png"]))
    ['a/b (1)_mask.png', 'a/b (1)_mask_2.png']
    """
    stems = {name: name.removesuffix(".gz").rpartition(".")[0] for name in names}
    others = frozenset(stems.values())
    found = {name: _MASK_NAME.fullmatch(stem) for name, stem in stems.items()}
    return frozenset(name for name, match in found.items() if match and match[1] in others)


def plain(folder: str) -> str:
    """Returns the one spelling of a folder's name."""
    return folder.casefold().replace("-", "_").replace(" ", "_")
