"""Masks of a BIDS folder: `derivatives/**/sub-<id>/[ses-<id>/]anat/sub-<id>_..._dseg.nii.gz`, or `_mask`.

A mask belongs to the image whose entities it has (sub, ses, acq, run, ...), beside those that derivatives add (space,
res, label, desc, ...). A `dseg` has its classes from a table `[..._]dseg.tsv` (index, name) beside it or in a folder
above; a `mask` is one class, named by `label` or `desc`. A dseg goes before masks. Masks in another space than the
image's are left out. Source: BIDS 1.9, derivatives, imaging.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.decode.nifti import ENDINGS
from wardround.images.findings import LeftOut, shortened
from wardround.images.layouts.mask_classes import BACKGROUND, mask_classes
from wardround.images.store import Store
from wardround.images.table import bytes_of_table

EXPECTED = (
    "derivatives/<name>/sub-<id>/anat/sub-<id>_dseg.nii.gz and its dseg.tsv (index, name), or ..._mask.nii.gz"
)

_MASK = re.compile(
    r"derivatives/(?:.+/)?(sub-[A-Za-z0-9]+)/(?:ses-[A-Za-z0-9]+/)?anat/\1_(?:[A-Za-z0-9-]+_)*(dseg|mask)"
)
_ADDED = ("space", "res", "den", "hemi", "atlas", "seg", "label", "desc")
"""Entities that a derivative has beside those of its source."""

_OWN_SPACES = (None, "orig", "individual", "T1w", "T2w")


@dataclass(frozen=True)
class Masks:
    """Masks by image, the names of their classes, what is left out, and refusals."""

    of_image: dict[str, str]
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    refusals: tuple[DataError, ...]


def masks_of(store: Store, images: Collection[str]) -> Masks:
    """Returns the mask of every image that has one.

    Raises:
        DataError: there is none, or their classes have no names or several (code `data-bids-masks`).
    """
    left_out, found = [], defaultdict[frozenset[tuple[str, str]], list[str]](list)
    for name in store.names():
        if _MASK.fullmatch(_stem(name)) and name.endswith(ENDINGS):
            if _entities(name).get("space") in _OWN_SPACES:
                found[_source(name)].append(name)
            else:
                left_out.append(LeftOut(name, "masks in another space than their image"))
    of_image, several = {}, []
    for image in images:
        masks = found.pop(_source(image), [])
        wholes = [mask for mask in masks if _stem(mask).endswith("_dseg")]
        left_out += [
            LeftOut(mask, "masks beside a dseg, which goes before")
            for mask in masks
            if wholes and mask not in wholes
        ]
        chosen = wholes or masks
        if len(chosen) == 1:
            of_image[image] = chosen[0]
        else:
            several += [image] if chosen else []
            left_out.append(LeftOut(image, f"images with {'several masks' if chosen else 'no mask'}"))
    left_out += [LeftOut(mask, "masks of no image that is read") for masks in found.values() for mask in masks]
    if not of_image:
        raise _refused(
            "a mask for an image", f"{counted(len(several), 'image')} with several" if several else "none"
        )
    wrong = _refused("one dseg or mask for an image", f"several for {len(several)}: {shortened(several)}")
    return Masks(of_image, _class_names(store, of_image), tuple(left_out), (wrong,) if several else ())


def _class_names(store: Store, of_image: Mapping[str, str]) -> tuple[str, ...]:
    names = {mask: _names_of(store, mask) for mask in of_image.values()}
    if len(different := sorted(set(names.values()))) > 1:
        raise _refused("the same classes in all masks", "; ".join(", ".join(each) for each in different[:3]))
    return different[0]


def _names_of(store: Store, mask: str) -> tuple[str, ...]:
    entities = _entities(mask)
    if _stem(mask).endswith("_mask"):
        return (BACKGROUND, entities.get("label") or entities.get("desc") or "mask")
    for folder in PurePosixPath(mask).parents:
        for name in store.names():
            path = PurePosixPath(name)
            is_table = path.parent == folder and (path.name == "dseg.tsv" or path.name.endswith("_dseg.tsv"))
            if is_table and _entities(name).items() <= entities.items():
                names, values = mask_classes(path.name, bytes_of_table(store, name, None))
                if values:
                    numbers = shortened([str(value) for value in values])
                    raise _refused(f"values without a gap in {path.name}", numbers)
                return names
    raise _refused("a table ..._dseg.tsv (index, name) that names the values of a dseg", f"none for {mask}")


def _source(name: str) -> frozenset[tuple[str, str]]:
    """Returns the entities of a source image: its own, or those of the derivative's source."""
    return frozenset((key, value) for key, value in _entities(name).items() if key not in _ADDED)


def _entities(name: str) -> dict[str, str]:
    """Returns the entities of a file's name.

    >>> _entities("sub-01/anat/sub-01_run-2_T1w.nii.gz")
    {'sub': '01', 'run': '2'}
    """
    parts = (part.partition("-") for part in PurePosixPath(_stem(name)).name.split("_"))
    return {key: value for key, mark, value in parts if mark}


def _stem(name: str) -> str:
    ending = next((ending for ending in (".nii.gz", ".nii", ".tsv") if name.endswith(ending)), "")
    return name.removesuffix(ending)


def _refused(must: str, came: str) -> DataError:
    return DataError(
        f"segmentation of the layout bids must have {must}, got {came}. Masks are {EXPECTED}.",
        code="data-bids-masks",
    )
