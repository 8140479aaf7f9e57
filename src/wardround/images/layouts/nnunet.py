"""The layout of nnU-Net v2 (Isensee et al. 2021): pictures or volumes, masks and a dataset.json.

    dataset.json                    channel_names, labels by name, file_ending[, regions_class_order][, dataset]
    imagesTr/CASE_0000.nii.gz       one file a channel: _0000, _0001, ...
    labelsTr/CASE.nii.gz

A label that is a list of numbers is a region: it is scored, and its numbers are the classes of the masks. No patient is
named; `patients.csv` names them, where somebody has one. Cases of `imagesTs` have no masks and are passed over.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from wardround.boundary.text import counted
from wardround.errors import DataError, as_one
from wardround.images.decode.nifti import ENDINGS as VOLUME_ENDINGS
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import Entry, Region, Target, Task
from wardround.images.findings import LeftOut, passed_over, shortened
from wardround.images.layouts.dataset_json import DESCRIPTION, as_dict, as_list, description_of
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import leads_outside

PICTURE_ENDINGS = (".png", ".tif", ".tiff", ".bmp")
IMAGES, MASKS, UNTESTED = "imagesTr", "labelsTr", "imagesTs"
EXPECTED = f"{DESCRIPTION} (channel_names, labels, file_ending), {IMAGES}/CASE_0000.nii.gz and {MASKS}/CASE.nii.gz"

_MOST_CLASSES = 256


def is_nnunet(description: Mapping[str, Any]) -> bool:
    """Returns True for a description in the second version's form."""
    return "channel_names" in description or "file_ending" in description


def read_nnunet(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every training case with its mask.

    Raises:
        DataError: no dataset.json, or one that does not hold or does not fit the files (code `data-nnunet`).
    """
    del task
    return listing_of(store, description_of(store, "nnunet", EXPECTED), options)


def listing_of(store: Store, description: Mapping[str, Any], options: ReaderOptions) -> Listing:
    """Returns every training case that a description and the files beside it give; see `read_nnunet`."""
    wrong = []
    channels = as_dict(description.get("channel_names"))
    if not channels or sorted(channels, key=str) != sorted(map(str, range(len(channels)))):
        wrong.append(_refused("channel_names 0, 1, ...", shortened(list(map(str, channels))) or "none"))
    try:
        class_names, regions = _classes(as_dict(description.get("labels")))
    except DataError as error:
        wrong.append(error)
    try:
        ending = _ending(description)
    except DataError as error:
        wrong.append(error)
    if wrong:
        raise as_one(wrong)
    are_volumes = ending in VOLUME_ENDINGS
    listed = as_dict(description.get("dataset"))
    cases = _listed(listed) if listed else _found(store, ending)
    colours = 1 if not are_volumes and len(channels) == 3 else len(channels)  # one file has all three colours
    if not are_volumes and colours != 1:
        raise _refused("one channel or three colours where files are pictures", counted(len(channels), "channel"))
    problems, gone = [], []
    for case, (files, mask) in cases.items():
        missing = [file for file in (*files, mask) if file not in store]
        if missing or len(files) != colours:
            what = f"{shortened(missing)} missing" if missing else f"{len(files)} of {counted(colours, 'channel')}"
            problems.append(f"{case}: {what}")
            gone.append(LeftOut(case, "cases without their mask or with another number of channels"))
    incomplete = _refused(
        f"for every case a mask and {colours} files named as {IMAGES}/CASE_0000{ending}",
        f"{counted(len(problems), 'problem')}: {shortened(problems)}",
    )
    refusals = options.refused([incomplete] if problems else [])
    broken = {one.name for one in gone}
    whole = {case: files for case, files in sorted(cases.items()) if case not in broken}
    untested = {_case(name, ending) for name in store.names() if name.startswith(f"{UNTESTED}/")} - {None}
    return Listing(
        tuple(Entry(files[0], 0, None, sources=files, mask=(mask,)) for files, mask in whole.values()),
        class_names,
        passed_over(len(untested), "case", rest=" without a mask"),
        left_out=tuple(gone),
        refusals=refusals,
        target=Target.MASKS,
        volumes=are_volumes,
        channels=len(channels),
        unions=regions,
        decoder=NIFTI if are_volumes else PILLOW,
    )


def _ending(description: Mapping[str, Any]) -> str:
    ending, known = description.get("file_ending"), (*VOLUME_ENDINGS, *PICTURE_ENDINGS)
    if ending not in known:
        raise _refused(f"a file_ending of {', '.join(known)}", f"{str(ending)[:20]!r}")
    return str(ending)


def _classes(labels: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Region, ...]]:
    """Returns names of the masks' values, and the unions that are scored: regions, or each class but the background."""
    if "ignore" in labels:
        raise _refused("no label 'ignore', for a voxel without a class cannot be trained on", "one")
    values = {str(name): as_list(value) or [value] for name, value in labels.items()}
    each = [number for several in values.values() for number in several]
    numbers = set(each) if all(type(number) is int for number in each) else set()
    if (
        sorted(numbers) != list(range(len(numbers)))
        or values.get("background") != [0]
        or not 2 <= len(numbers) <= _MOST_CLASSES
    ):
        raise _refused("labels by name, background 0 and the others 1, 2, ...", shortened(list(values)) or "none")
    alone = {several[0]: name for name, several in values.items() if len(several) == 1}
    if len(alone) != sum(len(several) == 1 for several in values.values()):
        raise _refused("another number for each label", shortened(list(values)))
    class_names = tuple(alone.get(number, f"label {number}") for number in range(len(numbers)))
    if len(set(class_names)) != len(class_names):
        raise _refused("another name for each label", shortened(list(values)))
    regions = tuple(
        Region(name, tuple(sorted(set(several)))) for name, several in values.items() if name != "background"
    )
    return class_names, regions


def _found(store: Store, ending: str) -> dict[str, tuple[tuple[str, ...], str]]:
    cases: dict[str, list[str]] = defaultdict(list)
    for name in store.names():
        if str(PurePosixPath(name).parent) == IMAGES and (case := _case(name, ending)) is not None:
            cases[case].append(name)
    if not cases:
        raise _refused(f"files named as {IMAGES}/CASE_0000{ending}", "none")
    masks = {name for name in store.names() if name.startswith(f"{MASKS}/") and name.endswith(ending)}
    strays = masks - {f"{MASKS}/{case}{ending}" for case in cases}
    if strays:
        raise _refused(
            "for every mask the files of its case", f"{len(strays)} without: {shortened(sorted(strays))}"
        )
    return {case: (tuple(sorted(files)), f"{MASKS}/{case}{ending}") for case, files in cases.items()}


def _listed(listed: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Returns the cases that a description lists itself, with paths below the data folder."""
    cases = {}
    for case, value in listed.items():
        files, mask = as_list(as_dict(value).get("images")), as_dict(value).get("label")
        names = [str(name) for name in (*files, mask) if isinstance(name, str) and not leads_outside(name)]
        if not files or len(names) != len(files) + 1:
            raise _refused("images and a label below the data folder for every case", f"another: {str(case)[:80]}")
        *tidy, last = (PurePosixPath(name).as_posix() for name in names)
        cases[str(case)] = (tuple(tidy), last)
    return cases


def _case(name: str, ending: str) -> str | None:
    """Returns the case that a file is a channel of."""
    match = re.fullmatch(r"(.+)_\d{4}", PurePosixPath(name).name.removesuffix(ending))
    return match[1] if match and name.endswith(ending) else None


def _refused(must: str, came: str) -> DataError:
    return DataError(
        f"the layout nnunet must have {must}, got {came}. It is {EXPECTED}; correct {DESCRIPTION} or the files.",
        code="data-nnunet",
    )


READER = Reader(read_nnunet, EXPECTED, (Task.SEGMENTATION,))
