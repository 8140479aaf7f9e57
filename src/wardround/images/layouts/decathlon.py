"""The layout of the Medical Segmentation Decathlon (Antonelli et al. 2022): volumes, masks and a dataset.json.

    dataset.json        name, modality, labels, training: [{"image": "./imagesTr/a.nii.gz", "label": ...}, ...]
    imagesTr/*.nii.gz   labelsTr/*.nii.gz

No patient is named in it; `patients.csv` (picture, patient[, site]) names them, where somebody has one. Volumes without
a mask (`test`) are passed over.
"""

from pathlib import PurePosixPath
from typing import Any

from wardround.boundary.text import counted
from wardround.errors import DataError, as_one
from wardround.images.decode.nifti import ENDINGS, NIFTI
from wardround.images.entries import Entry, Region, Target, Task
from wardround.images.findings import LeftOut, passed_over, shortened
from wardround.images.layouts.dataset_json import DESCRIPTION, as_dict, as_list, description_of
from wardround.images.layouts.nnunet import is_nnunet, listing_of
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import leads_outside

EXPECTED = f"{DESCRIPTION}, imagesTr/*.nii.gz and labelsTr/*.nii.gz"

_UNIONS: dict[frozenset[str], tuple[tuple[str, frozenset[str]], ...]] = {
    # Task01: the three regions of the BraTS challenge.
    frozenset({"edema", "non-enhancing tumor", "enhancing tumour"}): (
        ("enhancing tumour", frozenset({"enhancing tumour"})),
        ("tumour core", frozenset({"enhancing tumour", "non-enhancing tumor"})),
        ("whole tumour", frozenset({"enhancing tumour", "non-enhancing tumor", "edema"})),
    ),
    # Task03: the liver is scored with what grows in it.
    frozenset({"liver", "cancer"}): (
        ("liver", frozenset({"liver", "cancer"})),
        ("cancer", frozenset({"cancer"})),
    ),
}


def read_decathlon(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every training volume with its mask; a folder in nnU-Net's form is read as `nnunet` reads it.

    Raises:
        DataError: no dataset.json, or one that does not fit the files.
    """
    del task
    description = description_of(store, "decathlon", EXPECTED)
    if is_nnunet(description):
        return listing_of(store, description, options)
    listed = as_list(description.get("training"))
    if not listed:
        raise DataError(f"{DESCRIPTION} must list volumes under 'training', got none. Restore it.")
    pairs, problems = _pairs(store, description)
    missing = DataError(
        f"every volume of {DESCRIPTION} must have its two files, {counted(len(problems), 'problem')}: "
        f"{shortened(problems)}. Restore the files, or take the entries out."
    )
    refusals = [missing] if problems else []
    try:
        names = _class_names(description)
    except DataError as error:
        raise as_one([error, *refusals]) from None
    refusals = [*options.refused(refusals)]
    entries = [Entry(image, 0, None, split="train", mask=(mask,)) for image, mask in sorted(pairs)]
    return Listing(
        tuple(entries),
        names,
        passed_over(len(as_list(description.get("test"))), "volume", rest=" without a mask"),
        left_out=tuple(LeftOut(problem, "entries without their two files") for problem in problems),
        refusals=tuple(refusals),
        target=Target.MASKS,
        volumes=True,
        channels=max(1, len(as_dict(description.get("modality")))),
        unions=unions_of(names),
        decoder=NIFTI,
    )


def unions_of(class_names: tuple[str, ...]) -> tuple[Region, ...]:
    """Returns the unions that a known task is scored by; none for another task."""
    index = {name.lower(): k for k, name in enumerate(class_names)}
    unions = _UNIONS.get(frozenset(index) - {class_names[0].lower()}, ())
    return tuple(Region(name, tuple(sorted(index[part] for part in parts))) for name, parts in unions)


def _pairs(store: Store, description: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    pairs, problems, seen = [], [], set[str]()
    for number, item in enumerate(as_list(description["training"]), start=1):
        both = [_path(as_dict(item).get(key)) for key in ("image", "label")]
        image, mask = both
        if image is None or mask is None:
            problems.append(f"entry {number} names no image and label (.nii, .nii.gz) below the folder")
        elif missing := [name for name in both if name not in store]:
            problems.append(f"{' and '.join(str(name) for name in missing)} missing")
        elif image in seen:
            problems.append(f"{image} is listed twice")
        else:
            seen.add(image)
            pairs.append((image, mask))
    return pairs, problems


def _class_names(description: dict[str, Any]) -> tuple[str, ...]:
    labels = as_dict(description.get("labels"))
    numbered = {int(key): str(name) for key, name in labels.items() if str(key).isascii() and str(key).isdigit()}
    if (
        len(numbered) != len(labels)
        or sorted(numbered) != list(range(len(numbered)))
        or not 2 <= len(numbered) <= 256
    ):
        raise DataError(
            f"{DESCRIPTION} must name the classes 0, 1, 2 ... under 'labels', 0 the background, got: "
            f"{shortened(list(map(str, labels)))}. Correct it."
        )
    return tuple(numbered[k] for k in range(len(numbered)))


def _path(value: object) -> str | None:
    """Returns a name below the folder that ends as a volume does, or None."""
    if not isinstance(value, str):
        return None
    name = value.strip()
    if leads_outside(name) or not name.lower().endswith(ENDINGS):
        return None
    return PurePosixPath(name).as_posix()


READER = Reader(read_decathlon, EXPECTED, (Task.SEGMENTATION,))
