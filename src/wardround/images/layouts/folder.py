"""Any folder of pictures: with a metadata.csv, or with one sub-folder a class.

    metadata.csv        file,label,patient_id[,site[,split]]; `file` is a path below the folder
    [<part>/]<class>/<patient>/**/picture.png        one folder a patient
    [<part>/]<class>/picture.png                     no patient named: the picture is what is protected

A part is train, val or test, under their usual names. Folders of these names are no classes and no patients, nor are
folders of images beside folders of masks. Where most
folder names stand under every class, they are refused: they are parts, kinds or numbers that begin anew in each class,
far more often than patients.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.all_pictures import BESIDE, IN_MASKS, unread_tables
from wardround.images.class_names import missing_class, numbers_first
from wardround.images.entries import OTHER_ENDINGS, Entry, Task, stem_of
from wardround.images.findings import LeftOut, no_pictures, passed_over, shortened
from wardround.images.identity import folded
from wardround.images.layouts.folder_names import no_classes, no_patients, untrained_classes
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, ByPattern, ByTable, Listing, ReaderOptions
from wardround.images.mask_names import is_of_masks, masks_beside, named_as, plain
from wardround.images.naming import TABLE
from wardround.images.store import Store
from wardround.images.table import METADATA, PARTS, files_in, part_of, read_metadata

EXPECTED = (
    f"{METADATA} (file,label,patient_id), or [<part>/]<class>/[<patient>/]picture.png with two classes or more"
)

_IMAGES = {"images", "image", "imgs", "img"}
"""Folder names of pictures, in lower case, that are no classes beside those of masks."""

_MOST_OF_ONE_MASK = 8
"""The pictures that have one mask, at most: kinds of one scan."""


def read_folder(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every picture with its class and patient, by the table if there is one, by folders otherwise.

    Raises:
        DataError: the table does not hold, parts stand beside classes, or folders that should be patients' have the
            same names under every class.
    """
    del task
    has_table = METADATA in store or options.labels is not None
    return _by_table(store, options) if has_table else _by_folders(store, options)


def _by_table(store: Store, options: ReaderOptions) -> Listing:
    patient = () if options.names is not None or TABLE in store else ("patient_id",)
    found = read_metadata(store, ("file", "label", *patient), options)
    labels = {file: folded(row.values["label"]) for file, row in found.rows.items()}
    class_names = tuple(sorted(set(labels.values()), key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(
        Entry(file, number[labels[file]], row.get("patient_id"), site=row.get("site"), split=part_of(row))
        for file, row in sorted(found.rows.items())
    )
    unlisted = sum(file not in found.listed for file in files_in(store)[0])
    notes = passed_over(unlisted, "picture", rest=f" in the folder without a row in {METADATA}")
    return Listing(entries, class_names, (*found.notes, *notes), refusals=found.refusals)


def _by_folders(store: Store, options: ReaderOptions) -> Listing:
    pictures, _ = files_in(store)
    beside_pictures = masks_beside(pictures)
    unread = _of_classes(
        [name for name in store.names() if name.lower().endswith(OTHER_ENDINGS)], pictures, options
    )
    paths = {file: file.split("/") for file in [*pictures, *unread] if file not in beside_pictures}
    refusals = []
    depth, inside = _inside(store, paths.values(), options.listed)
    if inside is not None:
        paths = {file: path[depth:] if len(path) > 1 else path for file, path in paths.items()}
    tops = sorted({path[0] for path in paths.values() if len(path) > 1})
    parts = [top for top in tops if top.casefold() in PARTS]
    if parts and parts != tops:
        refusals.append(
            DataError(
                f"published parts ({', '.join(parts)}) must not stand beside classes, got: "
                f"{shortened([top for top in tops if top not in parts])}. Lay the classes into the parts, as in "
                f"train/<class>/picture.png, or give a {METADATA}.",
                code="data-parts-beside-classes",
            )
        )
    placed = [place for file, path in paths.items() if (place := _placed(file, path)) is not None]
    listed = options.listed
    in_masks = {one.file: folder for one in placed if (folder := _folder_of_masks(one, listed))}
    beside = (
        _masks_beside({one.name for one in placed if folded(one.name) not in listed})
        or _masks_beside({one.below[0] for one in placed if one.below})
        or _named_alike(placed, in_masks)
    )
    masks = in_masks if beside is not None else {}
    kept = [one for one in placed if one.file not in masks]
    listing, wrong = _listing(kept, options)
    strange = None if beside else no_classes({one.name for one in kept if folded(one.name) not in listed})
    inside = None if strange else inside
    refusals += [error for error in (inside, beside, wrong, strange) if error is not None]
    if not (refusals or listed):
        untrained = untrained_classes(listing.entries, listing.class_names)
        refusals += [untrained] if untrained else []
    if not (refusals or TABLE in store or isinstance(options.names, ByPattern | ByTable)):
        of_patients = no_patients(listing.entries, len(listing.class_names))
        refusals += [of_patients] if of_patients else []
    num_others = sum("/" in name for name in store.names()) - sum("/" in file for file in (*pictures, *unread))
    loose = passed_over(len(paths) - len(placed), "picture", rest=" in no folder of a class")
    return replace(
        listing,
        notes=(
            *listing.notes,
            *no_pictures(num_others),
            *loose,
            *_below_one_class(listing.entries, listing.class_names),
            *_not_read(placed),
            *unread_tables(store, paths, (TABLE,)),
        ),
        left_out=(
            *listing.left_out,
            *(LeftOut(file, IN_MASKS) for file in masks),
            *(LeftOut(file, BESIDE) for file in sorted(beside_pictures)),
        ),
        refusals=options.refused(refusals),
    )


def _of_classes(unread: Sequence[str], pictures: Sequence[str], options: ReaderOptions) -> list[str]:
    """Returns files in other formats that speak of a class: not beside published parts, nor of a class not stated."""
    tops = {file.split("/")[0] for file in pictures if "/" in file}
    depth = 1 if tops and all(top.casefold() in PARTS for top in tops) else 0
    found = []
    for file in unread:
        path = file.split("/")
        if len(path) < depth + 2 or (depth and path[0] not in tops):
            continue
        if options.classes is None or folded(path[depth]) in options.listed:
            found.append(file)
    return found


def _inside(
    store: Store, paths: Iterable[Sequence[str]], classes: Collection[str]
) -> tuple[int, DataError | None]:
    """Returns the number of folders around published parts or classes, and their refusal; 0 where there are none.

    Folders below a single one are taken for classes if most of their names are words: with numbers they are patients.
    """
    deep = [path[:-1] for path in paths if len(path) > 1]
    around: list[str] = []
    while len(tops := {folders[len(around)] if len(folders) > len(around) else None for folders in deep}) == 1:
        [top] = tops
        if top is None or top.casefold() in PARTS or folded(top) in classes:
            break
        around.append(top)
    below = sorted(top for top in tops if top is not None)
    words = [name for name in below if not any(letter.isdigit() for letter in name)]
    has_parts = any(name.casefold() in PARTS for name in below)
    if not around or not (has_parts or (None not in tops and len(below) > 1 and 2 * len(words) > len(below))):
        return 0, None
    give = "Give that folder" if store.root.is_dir() else "Unpack the archive, and give that folder"
    return len(around), DataError(
        f"classes must lie at the top of the data folder or in published parts, got {shortened(below)} in the one "
        f"folder {'/'.join(around)}. {give} as the data folder; if it is a class, name it in `[data] classes`.",
        code="data-parts-inside",
    )


@dataclass(frozen=True)
class _Placed:
    """A picture with its class's folder, its part's folder, and the folders below these."""

    file: str
    name: str
    part: str | None
    below: tuple[str, ...]


def _placed(file: str, path: Sequence[str]) -> _Placed | None:
    """Returns the place of a picture, in a published part where its first folder is one; None in no class's folder."""
    depth = 1 if path[0].casefold() in PARTS else 0
    if len(path) < depth + 2:
        return None
    return _Placed(file, path[depth], path[0] if depth else None, tuple(path[depth + 1 : -1]))


def _listing(found: list[_Placed], options: ReaderOptions) -> tuple[Listing, DataError | None]:
    """Returns the pictures by class, and the refusal of folders for labels that are missing, which are no classes."""
    folders = {folded(one.name) for one in found}
    empty, meant, error = missing_class("a folder", folders, options.listed, options.left_out_values)
    class_names = tuple(sorted(folders - empty - meant, key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    kept = [one for one in found if folded(one.name) in number and not one.file.lower().endswith(OTHER_ENDINGS)]
    entries = [
        Entry(
            one.file,
            number[folded(one.name)],
            one.below[0] if one.below else None,
            split=None if one.part is None else PARTS[one.part.casefold()],
        )
        for one in sorted(kept, key=lambda one: (number[folded(one.name)], one.file))
    ]
    left_out = sum(folded(one.name) in meant for one in found)
    notes = (
        (f"{counted(left_out, 'picture was', 'pictures were')} left out, by [site] leave_out",) if left_out else ()
    )
    gone = tuple(
        LeftOut(
            one.file, f"files that are not read here (.{one.file.rpartition('.')[2].lower()})", folded(one.name)
        )
        for one in found
        if one.file.lower().endswith(OTHER_ENDINGS)
    )
    return Listing(tuple(entries), class_names, notes, left_out=gone), error


def _folder_of_masks(one: _Placed, classes: Collection[str]) -> str | None:
    """Returns the folder of masks in which a picture lies, if any; the folder of a class is none."""
    folders = one.below if folded(one.name) in classes else (one.name, *one.below)
    return next(filter(is_of_masks, folders), None)


def _masks_beside(folders: set[str]) -> DataError | None:
    """Returns the refusal of folders of images beside folders of masks."""
    images, masks = {name for name in folders if plain(name) in _IMAGES}, set(filter(is_of_masks, folders))
    return _of_masks(images, masks) if images and masks else None


def _named_alike(placed: Sequence[_Placed], in_masks: Mapping[str, str]) -> DataError | None:
    """Returns the refusal of folders of masks by their names, most of whose files are called as pictures elsewhere.

    Where many more pictures are called so, numbers begin anew in each folder, and the one is a patient's.
    """
    called = {stem for file in in_masks for stem in named_as(file)}
    images: dict[str, list[str]] = defaultdict(list)
    for one in placed if called else ():
        if one.file not in in_masks and (stem := stem_of(one.file)) in called:
            images[stem].append(one.name)
    alike = sum(any(stem in images for stem in named_as(file)) for file in in_masks)
    if 2 * alike <= len(in_masks) or sum(map(len, images.values())) > _MOST_OF_ONE_MASK * alike:
        return None
    return _of_masks({name for names in images.values() for name in names}, {*in_masks.values()})


def _of_masks(images: set[str], masks: set[str]) -> DataError:
    return DataError(
        f"folders must be classes or patients, got folders of images ({shortened(sorted(images))}) beside folders of "
        f"masks ({shortened(sorted(masks))}). For "
        "segmentation give a manifest.csv (image, patient, mask); for classification take the masks out of the "
        f"data folder, or give a {METADATA}; if the folders are classes, name them in `[data] classes`.",
        code="data-masks-beside-images",
    )


def _below_one_class(entries: Sequence[Entry], class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the note that the folders of patients below a single class may be the classes; it names no patient."""
    below = {entry.patient for entry in entries} - {None}
    if len(class_names) != 1 or len(below) < 2:
        return ()
    return (
        f"{len(below):,} folders below {class_names[0]} are read as patients; if they are classes, give it as the data "
        "folder",
    )


def _not_read(placed: Sequence[_Placed]) -> tuple[str, ...]:
    """Returns the note that folders below the patients' have few names, which may be labels or kinds of pictures."""
    found = {(one.name, *one.below[:2]) for one in placed if len(one.below) > 1}
    names = sorted({name for *_, name in found})
    if len(names) < 2 or len(found) < 2 * len(names):
        return ()
    return (
        f"folders below the patients' are not read: {shortened(names)}; if they say the class or a kind of picture, "
        f"give a {METADATA} (file,label,patient_id)",
    )


READER = Reader(read_folder, EXPECTED, (Task.CLASSIFICATION, Task.BINARY))
