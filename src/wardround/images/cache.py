"""Pictures decoded once, in a memory-mapped file that is found again by what it was made from.

The name of a cache file is a hash of the files' contents and of how they were scaled: a changed picture or
another size is another file, and nothing has to be invalidated. A file appears under its name only when it is
complete, so a killed run leaves nothing that a later one would trust, and two runs that start at once write
the same bytes.

The folder holds medical pictures: it is created for its owner alone (mode 0700).
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wardround.errors import DataError
from wardround.images.decode import Picture
from wardround.types import Pictures

FORMAT = 1
"""Raised whenever the meaning of a cache file changes."""

Progress = Callable[[int, int], None]
"""Called with how many pictures are done, and how many there are."""

Fill = Callable[[], Iterator[Picture | str]]
"""Every picture in order, or the reason why there is none."""


@dataclass(frozen=True)
class Cached:
    """Decoded pictures, and the rows that could not be decoded with the reason for each."""

    pixels: Pictures
    unreadable: dict[int, str]


def cache_key(recipe: Sequence[object], digests: Sequence[str]) -> str:
    """The name under which pictures made by `recipe` from contents with these digests are kept."""
    facts = [f"wardround cache {FORMAT}", *map(str, recipe), *digests]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:40]


def cached_pictures(
    cache_dir: Path,
    key: str,
    shape: tuple[int, int, int, int],
    fill: Fill,
    progress: Progress | None,
) -> Cached:
    """The pictures under `key`, opened read-only; made with `fill` if they are not there yet.

    Args:
        cache_dir: created if missing.
        key: from `cache_key`.
        shape: (picture, channel, height, width).
        fill: gives `shape[0]` pictures; called only when the cache has none.
        progress: told after every picture.

    Raises:
        DataError: the cache cannot be written.
    """
    path = cache_dir / f"{key}.npy"
    found = _opened(path, shape)
    if found is not None:
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_space(cache_dir, int(np.prod(shape)))
        with _appears_whole(path) as file:
            reasons = _write(file, shape, fill(), progress)
            # The list is in place before the pictures are: who finds pictures, finds their list.
            with _appears_whole(_list_of(path)) as list_file:
                list_file.write(json.dumps(reasons, sort_keys=True).encode())
    except OSError as error:
        raise DataError(
            f"the picture cache must be writable and have {np.prod(shape) / 1e6:.0f} MB of room, got: "
            f"{error.strerror or error} ({cache_dir}). Free some space or choose another cache folder."
        ) from error
    written = _opened(path, shape)
    if written is None:
        raise DataError(f"the picture cache {path} changed while it was written. Delete it and start again.")
    return written


def _opened(path: Path, shape: tuple[int, ...]) -> Cached | None:
    """A complete cache file, or None where there is none that can be used."""
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
        reasons = json.loads(_list_of(path).read_bytes())
        unreadable = {int(row): str(reason) for row, reason in reasons.items()}
    except (OSError, ValueError, AttributeError):
        return None
    is_as_asked = pixels.shape == shape and pixels.dtype == np.uint8
    return Cached(pixels, unreadable) if is_as_asked else None


def _list_of(path: Path) -> Path:
    return path.with_suffix(".unreadable.json")


def _check_space(folder: Path, num_bytes: int) -> None:
    """Refuse before an hour of decoding rather than after it."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(0, f"only {free / 1e6:.0f} MB free")


@contextlib.contextmanager
def _appears_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when the block ends well, and leaves nothing when it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write(
    file: IO[bytes], shape: tuple[int, ...], pictures: Iterator[Picture | str], progress: Progress | None
) -> dict[str, str]:
    """Write a .npy front to back; a memory map would meet a full disk with SIGBUS instead of an error."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    reasons = {}
    blank = bytes(int(np.prod(shape[1:])))
    count = 0
    for row, picture in enumerate(pictures):
        if isinstance(picture, str):
            reasons[str(row)] = picture
            file.write(blank)
        else:
            assert picture.shape == shape[1:], "every picture has the one shape"
            file.write(picture.tobytes())
        count = row + 1
        if progress is not None:
            progress(count, shape[0])
    assert count == shape[0], "every entry has one row"
    return reasons
