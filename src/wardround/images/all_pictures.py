"""Every picture or volume of a data folder, for a person who looks at data that the layout's reader refuses."""

import re
from collections.abc import Collection

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
        left_out=(*left_out, *store.left_out),
        refusals=(*store.refusals, *(refusal.several or (refusal,))),
        volumes=are_volumes,
        channels=1 if are_volumes else None,
        decoder=NIFTI if are_volumes else PILLOW,
    )


def is_mask(name: str) -> bool:
    """Returns True for a file in a folder of masks."""
    return any(plain(folder) in MASKS for folder in name.split("/")[:-1])


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
