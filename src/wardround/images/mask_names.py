"""Names that call a file or a folder one of masks."""

import re
from collections.abc import Collection

from wardround.images.entries import stem_of

MASKS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "segmentation", "ground_truth",
    "groundtruth", "gt", "labelstr", "labelsts",
}  # fmt: skip
"""Folder names of masks, in lower case."""

_MASK_NAME = re.compile(r"(.+?)[ _.-]+(?:mask|seg|segmentation|gt|annotation)s?(?:[ _-]*\d+)?", re.IGNORECASE)
"""A name that is another file's, followed by a word for masks: `a_mask.png` or `a_mask_1.png` beside `a.png`."""

WORD_START = r"(?:^|[ _.-]|(?<=[a-z0-9])(?=[A-Z]))"
"""The start of a word in a folder's name, written `a_word`, `a word` or `aWord`."""

_OF_MASKS = re.compile(
    WORD_START + r"(?i:masks?|segs?|segmentations?|ground[ _-]?truth|gts?|labels|annotations?)(?:\d+|[ _.-].*)?\Z"
)
"""The name of a folder of masks: `ManualMask`, `benign GT`, `lungMasks2`, `HAM10000_segmentations_lesion_tschandl`."""


def is_of_masks(folder: str) -> bool:
    """Returns True for a folder's name that calls it one of masks.

    >>> [is_of_masks(name) for name in ("Labels", "leftMask", "lung masks_png", "benign GT", "unmasked", "benign")]
    [True, True, True, True, False, False]
    """
    return plain(folder) in MASKS or _OF_MASKS.search(folder) is not None


def masks_beside(names: Collection[str]) -> frozenset[str]:
    """Returns the files whose names call them masks of another file in their folder.

    >>> sorted(masks_beside(["a/b (1).png", "a/b (1)_mask.png", "a/b (1)_mask_2.png", "a/c_mask.png"]))
    ['a/b (1)_mask.png', 'a/b (1)_mask_2.png']
    """
    stems = {name: name.removesuffix(".gz").rpartition(".")[0] for name in names}
    others = frozenset(stems.values())
    found = {name: _MASK_NAME.fullmatch(stem) for name, stem in stems.items()}
    return frozenset(name for name, match in found.items() if match and match[1] in others)


def named_as(name: str) -> tuple[str, ...]:
    """Returns the stems that the picture of a mask may have: the mask's, and that without a word for masks.

    >>> named_as("masks/a.png"), named_as("masks/a_mask.nii.gz")
    (('a',), ('a_mask', 'a'))
    """
    stem = stem_of(name)
    match = _MASK_NAME.fullmatch(stem)
    return (stem, match[1]) if match else (stem,)


def plain(folder: str) -> str:
    """Returns the one spelling of a folder's name."""
    return folder.casefold().replace("-", "_").replace(" ", "_")
