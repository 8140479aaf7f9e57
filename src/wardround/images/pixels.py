"""Where the pixels of a listing come from: files that are hashed and decoded, or the phantom's drawing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from wardround.errors import DataError
from wardround.images import preprocess
from wardround.images.cache import Cached, Fill, Progress, cache_key, cached_pictures
from wardround.images.decode import MAX_BYTES, MAX_PIXELS, Picture, pillow_kept_quiet
from wardround.images.entries import Listing
from wardround.images.phantom import PhantomOptions, draw_phantom, phantom_digests

_WORKERS = 2
"""Threads that hash and decode; Pillow and hashlib release the interpreter lock."""

_BATCH = 256
"""Pictures in flight at once, so that memory stays small whatever the number of files."""


@dataclass(frozen=True)
class Wanted:
    """The pictures that are asked for.

    Args:
        image_size: height and width.
        channels: 1 or 3.
        cache_dir: where decoded pictures are kept.
        progress: told how many are decoded.
    """

    image_size: int
    channels: int
    cache_dir: Path
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Raise `DataError` for a shape that cannot be made."""
        preprocess.check_shape(self.image_size, self.channels)


def pixels_of_files(root: Path, listing: Listing, wanted: Wanted) -> tuple[list[str], Cached]:
    """Sha256 of every file and its picture, in the order of the listing.

    Raises:
        DataError: a file cannot be opened, changes while it is read, or the cache cannot be written. Files
            that open but do not decode are no error here: `Cached.unreadable` has them.
    """
    paths = [root / entry.file for entry in listing.entries]
    with pillow_kept_quiet(), ThreadPoolExecutor(_WORKERS) as pool:
        digests = list(pool.map(_digest, paths))

        def fill() -> Iterator[Picture | str]:
            for start in range(0, len(paths), _BATCH):
                batch = slice(start, start + _BATCH)
                yield from pool.map(_open, paths[batch], digests[batch], [wanted] * len(paths[batch]))

        return digests, _cached(("files", MAX_PIXELS), digests, wanted, fill)


def pixels_of_phantom(options: PhantomOptions, wanted: Wanted) -> tuple[list[str], Cached]:
    """The digest of every generated picture and the picture, in the order of `list_phantom`."""
    digests = phantom_digests(options)

    def fill() -> Iterator[Picture | str]:
        for picture in draw_phantom(options):
            yield preprocess.preprocess(picture, image_size=wanted.image_size, channels=wanted.channels)

    return digests, _cached(("phantom",), digests, wanted, fill)


def _cached(source: tuple[object, ...], digests: list[str], wanted: Wanted, fill: Fill) -> Cached:
    key = cache_key((*source, preprocess.VERSION, wanted.image_size, wanted.channels), digests)
    shape = (len(digests), wanted.channels, wanted.image_size, wanted.image_size)
    return cached_pictures(wanted.cache_dir, key, shape, fill, wanted.progress)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"every picture must be readable, got: {error}. Check its permissions.") from error


def _open(path: Path, digest: str, wanted: Wanted) -> Picture | str:
    """The picture, or the reason why there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return f"a file must have at most {MAX_BYTES:,} bytes"
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"every picture must be readable, got: {error}. Check its permissions.") from error
    if sha256(data).hexdigest() != digest:
        raise DataError(f"pictures must not change while they are read, but {path} did. Start again.")
    try:
        return preprocess.picture_from_bytes(
            data, image_size=wanted.image_size, channels=wanted.channels, in_thread=True
        )
    except DataError as error:
        return str(error)
