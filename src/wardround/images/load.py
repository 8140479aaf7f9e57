"""The one way in: from the name of a layout and a folder to patients with decoded pictures."""

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from wardround.errors import DataError
from wardround.images.cache import Progress
from wardround.images.entries import Listing, Task
from wardround.images.findings import shortened
from wardround.images.group import Duplicates, digest_of, group_by_patient
from wardround.images.patients import ImageSet
from wardround.images.phantom import PhantomOptions, list_phantom
from wardround.images.pixels import Wanted, pixels_of_files, pixels_of_phantom
from wardround.images.readers import LAYOUTS, PHANTOM, READERS

_Choice = TypeVar("_Choice", bound=StrEnum)


def load_images(
    layout: str,
    root: Path | None,
    *,
    cache_dir: Path,
    image_size: int = 64,
    channels: int = 1,
    task: str = Task.BINARY,
    skip_unreadable: bool = False,
    duplicates: str = Duplicates.MERGE,
    phantom: PhantomOptions | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Patients with all their images, decoded, from a folder in one of the known layouts.

    Every file's content is hashed each time, so a changed picture is noticed; decoding happens once.

    Args:
        layout: one of `wardround.images.readers.LAYOUTS`.
        root: the data folder; None for the layout `phantom`.
        cache_dir: where decoded pictures are kept.
        image_size: height and width of the pictures.
        channels: 1 or 3.
        task: `binary`, or `subtype` where the layout knows one.
        skip_unreadable: leave files out that cannot be decoded, as a finding, instead of refusing the set.
        duplicates: identical files under two patients: `merge` the patients, `keep` them or `refuse` the set.
        phantom: the population of the layout `phantom`; None takes the default one.
        progress: told how many pictures are decoded, while there is something to decode.

    Raises:
        DataError: a folder, layout, table, picture or class that is missing or does not hold.
    """
    wanted = Wanted(image_size, channels, cache_dir, progress)
    wanted_task = _choice(Task, task, "task")
    wanted_duplicates = _choice(Duplicates, duplicates, "duplicates")
    if layout == PHANTOM:
        if root is not None or wanted_task is not Task.BINARY:
            raise DataError("the layout phantom must have no folder and the task binary. Leave both out.")
        options = phantom or PhantomOptions()
        listing = list_phantom(options)
        digests, cached = pixels_of_phantom(options, wanted)
    else:
        if phantom is not None:
            raise DataError(f"phantom options must go with the layout phantom, got {layout!r}. Leave them out.")
        listing = _listing(layout, root, wanted_task)
        assert root is not None, "_listing refuses a missing folder"
        digests, cached = pixels_of_files(root, listing, wanted)
    _check_readable(listing, cached.unreadable, skip_unreadable)
    patients, findings = group_by_patient(listing, digests, frozenset(cached.unreadable), wanted_duplicates)
    present = {label for patient in patients for label in patient.labels}
    absent = [name for label, name in enumerate(listing.class_names) if label not in present]
    if absent:
        raise DataError(
            f"every class must have at least one patient, got none of: {', '.join(absent)}. "
            "Check the folder, or choose a task without this class."
        )
    return ImageSet(layout, root, listing.class_names, patients, cached.pixels, findings, digest_of(patients))


def _choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise DataError(f"{name} must be one of {', '.join(kind)}, got {value!r}. Choose one of them.") from None


def _listing(layout: str, root: Path | None, task: Task) -> Listing:
    if layout not in READERS:
        raise DataError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}. Choose one of them.")
    if root is None:
        raise DataError(f"the layout {layout} must have a data folder, got none. Set data.path, or pass --data.")
    if not root.is_dir():
        raise DataError(f"the data folder must exist, got {root}. Check its path.")
    try:
        listing = READERS[layout].read(root, task)
    except OSError as error:
        raise DataError(f"the data folder must be readable, got: {error}. Check its permissions.") from error
    except DataError as error:
        if "must look like" not in str(error):
            raise
        raise DataError(f"{error} {_elsewhere(layout, root)}") from None
    if not listing.entries:
        raise DataError(
            f"the layout {layout} must look like {READERS[layout].expected}, but no picture lies there. "
            f"{_elsewhere(layout, root)}"
        )
    return listing


def _elsewhere(layout: str, root: Path) -> str:
    others = ", ".join(name for name in LAYOUTS if name != layout)
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
    found = shortened(names) or "nothing"
    return f"In {root} lies: {found}. Correct the folder, or choose another layout ({others})."


def _check_readable(listing: Listing, unreadable: dict[int, str], skip_unreadable: bool) -> None:
    if unreadable and not skip_unreadable:
        names = [f"{listing.entries[row].file} ({unreadable[row].rstrip('.')})" for row in sorted(unreadable)]
        raise DataError(
            f"every picture must be readable, {len(names)} of {len(listing.entries)} are not: "
            f"{shortened(names, shown=3)}. Replace them, or set skip_unreadable to leave them out."
        )
