"""The one way in: from the name of a layout and a folder to patients with decoded pictures."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from wardround.boundary.text import brief, steers
from wardround.errors import DataError, as_one
from wardround.images.advice import advice
from wardround.images.all_pictures import list_all
from wardround.images.arrays import open_container
from wardround.images.entries import Target, Task
from wardround.images.findings import LeftOut, causes, shortened
from wardround.images.group import digest_of, group_by_patient
from wardround.images.layouts.phantom import PhantomOptions, list_phantom
from wardround.images.layouts.readers import LAYOUTS, PHANTOM, reader_of
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.naming import with_persons
from wardround.images.patients import ImageSet
from wardround.images.rows.pixels import Wanted, pixels_of_files, pixels_of_phantom
from wardround.images.rows.recipe import PictureRecipe, Recipe, VolumeRecipe
from wardround.images.store import Store
from wardround.types import Progress


def load_images(
    layout: str,
    root: Path | PhantomOptions | None,
    *,
    cache_dir: Path,
    recipes: Sequence[Recipe] = (PictureRecipe(64, 1),),
    task: str | None = None,
    skip_unreadable: bool = False,
    options: ReaderOptions = NO_OPTIONS,
    progress: Progress | None = None,
) -> ImageSet:
    """Patients with all their images, decoded, from a folder or an archive in one of the known layouts.

    A file's content is hashed when it is new, or when its size, a time or its inode has changed, so that a changed
    picture is noticed; decoding happens once.

    Args:
        layout: one of `wardround.images.layouts.readers.LAYOUTS`.
        root: the data folder, a .zip or a .tar; of the layout `phantom` its population. None is refused.
        cache_dir: folder of decoded pictures.
        recipes: of pictures, of volumes, or one of each where it is not known what lies there: see `fitting_recipe`.
        task: one of the layout's own; None takes its first.
        skip_unreadable: leave files out that cannot be decoded, as a finding, instead of refusing the set.
        options: of the layout's reader, and the way in which the site names persons.
        progress: told how many pictures are decoded, while there is something to decode.

    Raises:
        DataError: a folder, layout, table, picture or class that is missing or does not hold.
        MissingExtra: the layout needs a package that is not installed.
    """
    if isinstance(root, PhantomOptions):
        listing = list_generated(root, task, options)
        recipe = fitting_recipe(listing, recipes)
        files = [entry.file for entry in listing.entries]
        digests, cached = pixels_of_phantom(root, files, Wanted(recipe, cache_dir, progress))
    else:
        with open_layout(layout, root, looking=options.looking) as store:
            list_or_look = look_at_entries if options.looking else list_entries
            listing = list_or_look(layout, store, task, options)
            recipe = fitting_recipe(listing, recipes)
            digests, cached = pixels_of_files(store, listing, Wanted(recipe, cache_dir, progress))
    unreadable = cached.unreadable
    damaged = tuple(_unreadable(listing, row, unreadable[row]) for row in sorted(unreadable))
    if unreadable and not skip_unreadable:
        raise DataError(
            f"every picture must be readable, {len(damaged)} of {len(listing.entries)} are not: "
            f"{causes(damaged, shown=3)}. Replace them, or set skip_unreadable to leave them out.",
            code="data-unreadable",
        )
    listing = replace(listing, left_out=(*damaged, *listing.left_out))

    def rows_of(number: int) -> range:
        first, end = cached.extents.get(number, (0, recipe.rows))
        return range(number * recipe.rows + first, number * recipe.rows + end)

    patients, findings = group_by_patient(listing, digests, frozenset(unreadable), rows_of)
    has_masks = listing.target is Target.MASKS
    if not patients:
        nothing = DataError(
            f"a set must have a picture that can be used, got none of {len(listing.entries)}: "
            f"{causes(listing.left_out)}. Correct what is said there.",
            code="data-nothing-left",
        )
        raise as_one([*listing.refusals, nothing])
    present = {label for patient in patients for label in patient.labels}
    empty = () if has_masks else _empty_classes(listing, present)
    if empty and options.classes is None and not options.looking:
        raise DataError(
            f"every class must have at least one patient, got none of: {'; '.join(empty)}. Correct what is said there, "
            "or name the classes of the study in `[data] classes`, of which a site may lack some.",
            code="data-empty-class",
        )
    notes = listing.notes
    if empty and options.classes is not None:
        said = ", ".join(_empty_classes(listing, present, shown=0))
        notes = (*notes, f"no picture is of the study's class {said}")
    findings = replace(
        findings,
        cut_off=len(cached.cut_off),
        notes=notes,
        left_out=listing.left_out,
        empty_classes=empty,
        refusals=listing.refusals,
    )
    return ImageSet(
        name=layout,
        root=root if isinstance(root, Path) else None,
        class_names=listing.class_names,
        patients=patients,
        pixels=cached.rows[:, :-1] if has_masks else cached.rows,
        findings=findings,
        digest=digest_of(patients),
        target=listing.target,
        masks=cached.rows[:, -1] if has_masks else None,
        regions=listing.regions,
        spacing=recipe.spacing,
        rows_each=recipe.rows,
        persons=listing.persons,
    )


def _unreadable(listing: Listing, number: int, reason: str) -> LeftOut:
    entry = listing.entries[number]
    label = None if listing.target is Target.MASKS else listing.class_names[entry.label]
    return LeftOut(entry.file, f"cannot be read: {reason.rstrip('.')}", label)


def _empty_classes(listing: Listing, present: set[int], shown: int = 2) -> tuple[str, ...]:
    """Returns the classes without a picture with the causes; causes that are no class's own stand at the end."""
    empty = [name for label, name in enumerate(listing.class_names) if label not in present]
    if not empty:
        return ()
    said = []
    for name in empty:
        why = causes([one for one in listing.left_out if one.label == name], shown)
        said.append(f"{name} ({why})" if why else name)
    others = causes([one for one in listing.left_out if one.label is None], shown)
    return (*said[:-1], f"{said[-1]}; left out of all classes: {others}" if others else said[-1])


def list_entries(layout: str, store: Store, task: str | None, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns the entries of a folder or an archive with their patients, without decoding anything.

    Raises:
        DataError: it does not hold the layout, or names some patients and not others.
    """
    reader, wanted = reader_of(layout), _task(layout, task)
    try:
        listing = reader.read(store, wanted, options)
    except DataError as error:
        if "must look like" not in str(error):
            raise
        raise DataError(f"{error} {advice(layout, store)}", code=error.code) from None
    refusals = (*store.refusals, *listing.refusals, *options.refused(_wrong_names(listing)))
    listing = replace(listing, refusals=refusals, left_out=(*listing.left_out, *store.left_out))
    if not listing.entries:
        if listing.refusals:  # somebody only looks, and nothing is left to look at
            raise as_one(listing.refusals)
        raise DataError(
            f"the layout {layout} must look like {reader.expected}, but no picture lies so. "
            f"{advice(layout, store)}"
        )
    listing = options.classified(with_persons(listing, options.names, store, looking=options.looking))
    names = listing.class_names
    if len(names) < 2 and options.classes is None and not options.looking:
        raise DataError(
            f"the layout {layout} must have two classes or more, got {', '.join(names) or 'none'}. It looks like "
            f"{reader.expected}; add pictures of a second class{''.join(f'; {note}' for note in listing.notes)}.",
            code="data-one-class",
        )
    if wanted is not Task.BINARY or len(names) <= 2:
        return listing
    many = DataError(
        f"the task binary must have two classes, got {len(names)}: {shortened(list(names))}. Choose classification.",
        code="data-binary",
    )
    return replace(listing, refusals=(*listing.refusals, *options.refused([many])))


def list_generated(phantom: PhantomOptions, task: str | None, options: ReaderOptions) -> Listing:
    """Returns the entries of a generated set with their patients.

    Raises:
        DataError: another task than binary, or classes that are not the phantoms'.
    """
    if task not in (None, Task.BINARY):
        raise DataError(
            f"the task of {PHANTOM} must be {Task.BINARY}, got {task!r}. Leave it out.", code="data-task"
        )
    return options.classified(with_persons(list_phantom(phantom), options.names, None))


def fitting_recipe(listing: Listing, recipes: Sequence[Recipe]) -> Recipe:
    """Returns the recipe for what is listed, pictures or volumes; one of volumes takes the channels that they have.

    Raises:
        DataError: all recipes are for the other (code `data-volume-size`).
    """
    for recipe in recipes:
        if isinstance(recipe, VolumeRecipe) and listing.volumes:
            return replace(recipe, channels=listing.channels)
        if isinstance(recipe, PictureRecipe) and not listing.volumes:
            return recipe
    raise DataError(
        "volumes must have a size in voxels, got none. Set volume_size in [data], for instance [64, 64, 64]."
        if listing.volumes
        else "volume_size must go with volumes, and these are pictures. Use image_size.",
        code="data-volume-size",
    )


def look_at_entries(layout: str, store: Store, task: str | None, options: ReaderOptions) -> Listing:
    """Returns what `list_entries` does; where that is refused, every picture that lies there, and the refusals.

    Raises:
        DataError: no such layout or task, or nothing is left to look at.
    """
    _task(layout, task)
    try:
        return list_entries(layout, store, task, options)
    except DataError as error:
        return with_persons(list_all(store, error, options.listed), options.names, store, looking=True)


@contextmanager
def open_layout(layout: str | None, root: Path | None, *, looking: bool = False) -> Iterator[Store]:
    """Opens the data folder or archive of a known layout, or of one that is still to be guessed; see `open_container`.

    Raises:
        DataError: an unknown layout, no folder, or an archive that is not to be trusted.
    """
    if layout == PHANTOM:
        raise DataError("the layout phantom must have no folder. Leave it out.")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}. Choose one of them.")
    if root is None:
        raise DataError(f"the layout {layout} must have a data folder, got none. Set [site] path, or pass --data.")
    if not root.exists():
        raise DataError(f"the data folder must exist, got {root}. Check its path.")
    with closing(open_container(root, looking=looking)) as store:
        yield store


def _task(layout: str, task: str | None) -> Task:
    known = reader_of(layout).tasks
    if task is None:
        return known[0]
    if task not in known:
        raise DataError(
            f"the task of {layout} must be one of {', '.join(known)}, got {task!r}. Choose one of them.",
            code="data-task",
        )
    return Task(task)


def _wrong_names(listing: Listing) -> list[DataError]:
    """Returns the refusal of names of classes, hospitals and groups that could steer a terminal, if there are any."""
    sites = {entry.site for entry in listing.entries if entry.site is not None}
    groups = {text for entry in listing.entries for group in entry.groups for text in group}
    wrong = sorted(name for name in {*listing.class_names, *sites, *groups} if steers(name))
    error = DataError(
        "names of classes, sites and groups must have no control characters, got "
        f"{shortened([brief(name) for name in wrong], shown=3)}. Rename them.",
        code="data-name",
    )
    return [error] if wrong else []
