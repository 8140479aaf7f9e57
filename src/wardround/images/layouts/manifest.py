"""Any data at all, as one table says it: `manifest.csv`, one row an image.

    image       a picture, or a NIfTI volume; all of one kind
    patient     whose it is
    label       its class, for classification and grading
    mask        a picture or volume of class numbers, for segmentation; classes.csv (index,name) names them, also
                numbers with a gap, such as 1, 2, 4
    site, split, group:<name>       where there are any: the hospital, train/val/test, a subgroup such as group:sex

Files are named relative to the data folder, or to the folder of a table that lies elsewhere. Every row is checked
before anything is made of it.
"""

from collections.abc import Mapping, Sequence

from wardround.errors import DataError
from wardround.images.class_names import numbers_first
from wardround.images.csv_file import Row, Table
from wardround.images.decode.nifti import ENDINGS as VOLUME_ENDINGS
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import PICTURE_ENDINGS, Entry, Task
from wardround.images.findings import passed_over
from wardround.images.identity import folded
from wardround.images.layouts.mask_classes import MaskClasses, mask_classes
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.naming import TABLE
from wardround.images.store import Store
from wardround.images.table import (
    Files,
    bytes_of_table,
    checked,
    names_for,
    part_of,
    pictures_of,
    refusal,
    table_of,
    wrong_part,
)

MANIFEST = "manifest.csv"
CLASSES = "classes.csv"
EXPECTED = f"{MANIFEST} (image,patient and label or mask)"
LOSSY_ENDINGS = (".jpeg", ".jpg")
"""A mask in one of these would have classes that no person drew."""


def read_manifest(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every image of `manifest.csv`, with its label (classification, grading) or mask (segmentation).

    Class names are the labels, those that are numbers first and by value; for masks they are those of classes.csv.

    Raises:
        DataError: everything that is wrong with the table, in one sentence with line numbers; or pictures and
            volumes in one table; or, for masks, a classes.csv that does not hold.
    """
    if MANIFEST not in store and options.labels is None:
        raise DataError(
            f"the layout manifest must look like {EXPECTED}, but there is no {MANIFEST}.", code="data-no-manifest"
        )
    wanted = "mask" if task is Task.SEGMENTATION else "label"
    required = ("image",) if options.names is not None or TABLE in store else ("image", "patient")
    table = table_of(store, MANIFEST, options, required, names_for("image", "patient"))
    if wanted not in table.columns:
        raise DataError(
            f"{table.name} must have the column {wanted} for the task {task.value}; found: "
            f"{', '.join(table.columns)}. Call the column of the {wanted}s so, or choose another task.",
            code="data-column-missing",
        )
    files = Files(store, options.labels)
    found = checked(table, [column for column in ("image", "patient", wanted) if column in table.columns], options)
    rows, problems = pictures_of("image", found, files)
    good, faults = _that_hold(rows, wanted, files)
    refusals = options.refused(refusal(table, [*found.problems, *problems, *faults], found.words))
    is_mask = wanted == "mask"
    labels = {folded(row.values["label"]) for row in good.values()} if not is_mask else set()
    of_masks = _mask_classes(store) if is_mask else None
    class_names = of_masks.names if of_masks else tuple(sorted(labels, key=numbers_first))
    number = {} if is_mask else {name: label for label, name in enumerate(class_names)}
    entries = tuple(_entry(file, good[file], number, files) for file in sorted(good))
    volumes = bool(entries) and entries[0].file.lower().endswith(VOLUME_ENDINGS)
    return Listing(
        entries,
        class_names,
        (*found.notes, *_unlisted(table, files, store.names())),
        refusals=refusals,
        target=task.target,
        mask_values=of_masks.values if of_masks else (),
        volumes=volumes,
        decoder=NIFTI if volumes else PILLOW,
    )


def _entry(file: str, row: Row, number: dict[str, int], files: Files) -> Entry:
    return Entry(
        file,
        number[folded(row.values["label"])] if number else 0,
        row.get("patient"),
        site=row.get("site"),
        split=part_of(row),
        mask=() if number else (files.find(row.values["mask"], is_mask=True)[0],),
        groups=row.groups,
    )


def _that_hold(rows: Mapping[str, Row], wanted: str, files: Files) -> tuple[dict[str, Row], list[str]]:
    """Returns the rows whose files are of one kind, with a mask that fits where one is wanted, and the other faults."""
    good, problems = {}, []
    first = next((kind for file in rows if (kind := _kind(file))), None)
    for file, row in rows.items():
        wrong = wrong_part(row)
        if wrong is None and (fault := _wrong_kind(file, first)):
            wrong = f"line {row.line}: {fault}"
        if wrong is None and wanted == "mask" and (fault := _wrong_mask(row.values["mask"], file, first, files)):
            wrong = f"line {row.line}: {fault}"
        if wrong is None:
            good[file] = row
        else:
            problems.append(wrong)
    return good, problems


def _wrong_kind(file: str, kind: str | None) -> str | None:
    """Returns the fault of a file that is not of the kind of the first, or None."""
    own = _kind(file)
    if own is None:
        known = ", ".join((*PICTURE_ENDINGS, *VOLUME_ENDINGS))
        return f"{file} is neither a picture nor a volume ({known}); save it as one"
    return None if own == kind else f"{file} is a {own}, and the first row names a {kind}; keep them in two tables"


def _wrong_mask(written: str, image: str, kind: str | None, files: Files) -> str | None:
    """Returns the fault of the mask that a row names, or None."""
    mask, fault = files.find(written, is_mask=True)
    if fault is not None:
        return f"mask {fault}"
    if mask == image:
        return f"{mask} is named as image and as mask"
    if mask.lower().endswith(LOSSY_ENDINGS):
        return f"the mask {mask} is a JPEG, which changes class numbers; cut it at 128, and save 0 and 255 as PNG"
    wrong = _wrong_kind(mask, kind)
    return wrong and f"mask {wrong}"


def _kind(file: str) -> str | None:
    name = file.lower()
    if name.endswith(VOLUME_ENDINGS):
        return "volume"
    return "picture" if name.endswith(PICTURE_ENDINGS) else None


def _mask_classes(store: Store) -> MaskClasses:
    """Returns the names of mask values, from classes.csv."""
    if CLASSES not in store:
        raise DataError(
            f"masks must come with a {CLASSES} (index,name) that says what their values mean, but there is none. "
            "Write one, such as: index,name / 1,liver / 2,tumour.",
            code="data-no-classes",
        )
    return mask_classes(CLASSES, bytes_of_table(store, CLASSES, None))


def _unlisted(table: Table, files: Files, names: Sequence[str]) -> tuple[str, ...]:
    listed = {
        files.find(row.values[column], is_mask=column == "mask")[0]
        for row in table.rows
        for column in ("image", "mask")
        if row.get(column)
    }
    count = sum(_kind(name) is not None and name not in listed for name in names)
    return passed_over(count, "image", rest=f" in the folder without a row in {table.name}")


READER = Reader(read_manifest, EXPECTED, (Task.CLASSIFICATION, Task.GRADING, Task.SEGMENTATION))
