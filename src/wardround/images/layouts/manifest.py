"""Any data at all, as one table says it: `manifest.csv`, one row an image.

    image       a picture, or a NIfTI volume; all of one kind
    patient     whose it is
    label       its class, for classification and grading
    mask        a picture or volume of class numbers, for segmentation; classes.csv (index,name) names them
    site, split, group:<name>       where there are any: the hospital, train/val/test, a subgroup such as group:sex

Files are named below the data folder, with `/`. Every row is checked before anything is made of it.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from wardround.errors import DataError
from wardround.images.decode.nifti import ENDINGS as VOLUME_ENDINGS
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import PICTURE_ENDINGS, Entry, Target, Task
from wardround.images.findings import shortened
from wardround.images.identity import folded
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import (
    Row,
    empty_columns,
    leads_outside,
    numbers_first,
    read_rows,
    refuse,
    without_left_out,
)

MANIFEST = "manifest.csv"
CLASSES = "classes.csv"
EXPECTED = f"{MANIFEST} (image,patient and label or mask)"
LOSSY_ENDINGS = (".jpeg", ".jpg")
"""A mask in one of these would have classes that no person drew."""

SPLITS = ("train", "val", "test")
BACKGROUND = "background"
"""The name of class 0 of a mask where classes.csv leaves it out."""

_GROUP = "group:"
_WANTED = {
    Task.CLASSIFICATION: "label",
    Task.GRADING: "label",
    Task.SEGMENTATION: "mask",
}
_MAX_CLASSES = 256


def read_manifest(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every image of `manifest.csv`, with its label (classification, grading) or mask (segmentation).

    Class names are the labels, those that are numbers first and by value; for masks they are those of classes.csv.

    Raises:
        DataError: everything that is wrong with the table, in one sentence with line numbers; or pictures and
            volumes in one table; or, for masks, a classes.csv that does not hold.
    """
    if task not in _WANTED:
        raise DataError(
            f"the layout manifest must be read for one of the tasks {', '.join(_WANTED)}, got {task.value!r}. "
            "Choose one of them.",
            code="data-task",
        )
    if MANIFEST not in store:
        raise DataError(
            f"the layout manifest must look like {EXPECTED}, but there is no {MANIFEST}.", code="data-no-manifest"
        )
    wanted = _WANTED[task]
    rows = read_rows(store, MANIFEST, ("image", "patient"))
    if rows and wanted not in rows[0].values:
        raise DataError(
            f"{MANIFEST} must have the column {wanted} for the task {task.value}; found: "
            f"{', '.join(rows[0].values)}. Add it, or choose another task.",
            code="data-column-missing",
        )
    names, listed = frozenset(store.names()), rows
    rows, left_out = without_left_out(MANIFEST, listed, (wanted, "patient"), options.leave_out)
    refuse(MANIFEST, _problems(rows, wanted, names))
    rows.sort(key=lambda row: _tidy(row.values["image"]))
    is_mask = wanted == "mask"
    labels = {folded(row.values["label"]) for row in rows} if not is_mask else set()
    class_names = _mask_classes(store) if is_mask else tuple(sorted(labels, key=numbers_first))
    if len(class_names) < 2 and options.classes is None:
        raise DataError(
            f"{MANIFEST} must have two labels or more, found: {', '.join(class_names) or 'none'}. "
            "Add images of a second class.",
            code="data-one-class",
        )
    number = {} if is_mask else {name: label for label, name in enumerate(class_names)}
    entries = tuple(_entry(row, number) for row in rows)
    volumes = bool(entries) and entries[0].file.lower().endswith(VOLUME_ENDINGS)
    return Listing(
        entries,
        class_names,
        (*left_out, *_unlisted(listed, names)),
        target=Target.MASKS if is_mask else Target.GRADES if task is Task.GRADING else Target.CLASSES,
        volumes=volumes,
        decoder=NIFTI if volumes else PILLOW,
    )


def _entry(row: Row, number: dict[str, int]) -> Entry:
    mask = () if number else (_tidy(row.values["mask"]),)
    split = row.get("split")
    return Entry(
        _tidy(row.values["image"]),
        number[folded(row.values["label"])] if number else 0,
        row.values["patient"],
        site=row.get("site"),
        split=split.lower() if split else None,
        mask=mask,
        groups=row.groups,
    )


def _problems(rows: Sequence[Row], wanted: str, names: frozenset[str]) -> list[str]:
    problems = []
    seen: dict[str, int] = {}
    first = next((_kind(row.values["image"]) for row in rows if _kind(row.values["image"])), None)
    for row in rows:
        if empty := empty_columns(row, ("image", "patient", wanted)):
            problems.append(f"line {row.line} has no {' and no '.join(empty)}")
        split = row.get("split")
        if split and split.lower() not in SPLITS:
            problems.append(f"line {row.line}: split is none of {', '.join(SPLITS)}: {split}")
        image = row.values["image"]
        if not image:
            continue
        wrong = _wrong_file(image, first, names)
        if not wrong and seen.setdefault(_tidy(image), row.line) != row.line:
            wrong = f"{image} is in line {seen[_tidy(image)]} already"
        if not wrong and wanted == "mask" and row.values["mask"]:
            wrong = _wrong_mask(row.values["mask"], image, first, names)
        if wrong:
            problems.append(f"line {row.line}: {wrong}")
    return problems


def _wrong_file(file: str, kind: str | None, names: frozenset[str]) -> str | None:
    """Returns the fault of a file that a row names, or None."""
    if "\\" in file:
        return f"{file} must be written with /"
    if leads_outside(file):
        return f"{file} lies outside the data folder"
    own = _kind(file)
    if own is None:
        known = ", ".join((*PICTURE_ENDINGS, *VOLUME_ENDINGS))
        return f"{file} is neither a picture nor a volume ({known})"
    if own != kind:
        return f"{file} is a {own}, and the first row names a {kind}; keep them in two tables"
    return None if _tidy(file) in names else f"{file} is missing"


def _wrong_mask(mask: str, image: str, kind: str | None, names: frozenset[str]) -> str | None:
    """Returns the fault of the mask that a row names, or None."""
    if _tidy(mask) == _tidy(image):
        return f"{mask} is named as image and as mask"
    if mask.lower().endswith(LOSSY_ENDINGS):
        return f"the mask {mask} is a JPEG, which changes class numbers; save it as PNG"
    wrong = _wrong_file(mask, kind, names)
    return wrong and f"mask {wrong}"


def _kind(file: str) -> str | None:
    name = file.lower()
    if name.endswith(VOLUME_ENDINGS):
        return "volume"
    return "picture" if name.endswith(PICTURE_ENDINGS) else None


def _tidy(file: str) -> str:
    """Returns a name as the store has it: `./a//b.png` is `a/b.png`."""
    return str(PurePosixPath(file))


def _mask_classes(store: Store) -> tuple[str, ...]:
    """Returns the names of mask values, from classes.csv; value 0 is the background unless it says otherwise."""
    if CLASSES not in store:
        raise DataError(
            f"masks must come with a {CLASSES} (index,name) that says what their values mean, but there is none. "
            "Write one, such as: index,name / 1,liver / 2,tumour.",
            code="data-no-classes",
        )
    rows = read_rows(store, CLASSES, ("index", "name"))
    problems = [
        f"line {row.line} must have a whole number as index and a name"
        for row in rows
        if not (row.values["index"].isascii() and row.values["index"].isdigit() and row.values["name"])
    ]
    refuse(CLASSES, problems)
    named: dict[int, str] = {}
    for row in rows:
        # A long index is out of range in any case, and Python converts no number of thousands of digits.
        index = int(row.values["index"][:9])
        if named.setdefault(index, row.values["name"]) != row.values["name"]:
            problems.append(f"line {row.line}: index {index} has two names")
    refuse(CLASSES, problems)
    named.setdefault(0, BACKGROUND)
    if not 2 <= len(named) <= _MAX_CLASSES or max(named) != len(named) - 1:
        raise DataError(
            f"{CLASSES} must number the classes 1, 2, ... without a gap, up to {_MAX_CLASSES - 1} (0 is the "
            f"background), got: {shortened([str(index) for index in sorted(named)])}. Number them anew.",
            code="data-class-numbers",
        )
    return tuple(named[index] for index in range(len(named)))


def _unlisted(rows: Sequence[Row], names: frozenset[str]) -> tuple[str, ...]:
    listed = {_tidy(row.values[column]) for row in rows for column in ("image", "mask") if row.get(column)}
    count = sum(_kind(name) is not None and name not in listed for name in names)
    return (f"{count} images in the folder are not in {MANIFEST} and were passed over",) if count else ()


READER = Reader(read_manifest, EXPECTED, (Task.CLASSIFICATION, Task.GRADING, Task.SEGMENTATION))
