"""Pictures decoded once, in a memory-mapped file that is found again by what it was made from.

The name of a cache file is a hash of the files' contents and of how they were scaled: a changed picture or
another size is another file, and nothing has to be invalidated. A file appears under its name only when it is
complete, so a killed run leaves nothing that a later one would trust, and two runs that start at once write
the same bytes.

The folder holds medical pictures: it is created for its owner alone (mode 0700).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wardround.boundary.documents import load_json
from wardround.boundary.private import appears_whole, make_private_folder, write_whole
from wardround.boundary.rows import check_room, mapped_rows
from wardround.errors import DataError
from wardround.images.rows.recipe import MOST_CUT_OFF, Prepared, Rows
from wardround.types import Progress

FORMAT = 3
"""Raised whenever the meaning of a cache file, or the decoding of a picture, changes."""


Fill = Callable[[], Iterator[Prepared | str]]
"""The rows of every entry in order, or the reason why there are none."""


@dataclass(frozen=True)
class Cached:
    """Decoded pictures.

    Args:
        rows: (row, channel, *space), memory-mapped and read-only; an entry has the same number of rows as any other.
        unreadable: entries that could not be decoded, with the reason for each; their rows are zero.
        extents: of each entry its first row, and one past its last, that is more than padding; an entry that is
            not in it fills all of its rows.
        cut_off: entries of which more than `MOST_CUT_OFF` lies outside of their rows; none where an earlier version
            wrote the cache.
    """

    rows: Rows
    unreadable: dict[int, str]
    extents: dict[int, tuple[int, int]]
    cut_off: frozenset[int]


def cache_key(recipe: Sequence[object], digests: Sequence[str]) -> str:
    """Returns the name under which pictures made by `recipe` from contents with these digests are kept."""
    facts = [f"wardround cache {FORMAT}", *map(str, recipe), *digests]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:40]


def cached_pictures(
    cache_dir: Path,
    key: str,
    shape: tuple[int, ...],
    fill: Fill,
    progress: Progress | None,
    rows_per_entry: int = 1,
) -> Cached:
    """Returns the pictures under `key`, opened read-only; made with `fill` if they are not there yet.

    Args:
        cache_dir: created if missing.
        key: from `cache_key`.
        shape: (row, channel, *space).
        fill: gives `shape[0]` rows, an equal number an entry; called only when the cache has none.
        progress: told after every entry.
        rows_per_entry: of every entry.

    Raises:
        DataError: the cache has no room.
        MachineError: the cache cannot be written.
    """
    path = cache_dir / f"{key}.npy"
    found = _opened(path, shape)
    if found is not None:
        return found
    make_private_folder(cache_dir)
    check_room(cache_dir, int(np.prod(shape)), "the decoded pictures")
    with appears_whole(path) as file:
        notes = _write(file, shape, rows_per_entry, fill(), progress)
        # The notes are in place before the pictures are: who finds pictures, finds their notes.
        write_whole(_notes_of(path), json.dumps(notes, sort_keys=True).encode())
    written = _opened(path, shape)
    if written is None:
        raise DataError(f"the picture cache {path} changed while it was written. Delete it and start again.")
    return written


def _opened(path: Path, shape: tuple[int, ...]) -> Cached | None:
    """Returns a complete cache file, or None where there is none that can be used.

    Raises:
        MachineError: its disk fails.
    """
    rows = mapped_rows(path)
    if rows is None:
        return None
    try:
        notes = load_json(_notes_of(path))
        unreadable = {int(entry): str(reason) for entry, reason in notes["unreadable"].items()}
        extents = {int(entry): (int(first), int(end)) for entry, (first, end) in notes["extents"].items()}
        cut_off = frozenset(map(int, notes.get("cut_off", ())))
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None
    is_as_asked = rows.shape == shape and rows.dtype == np.uint8
    return Cached(rows, unreadable, extents, cut_off) if is_as_asked else None


def _notes_of(path: Path) -> Path:
    return path.with_suffix(".notes.json")


def _write(
    file: IO[bytes],
    shape: tuple[int, ...],
    rows_per_entry: int,
    entries: Iterator[Prepared | str],
    progress: Progress | None,
) -> dict[str, object]:
    """Writes a .npy front to back; a memory map would meet a full disk with SIGBUS instead of an error."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    unreadable: dict[str, object] = {}
    extents: dict[str, object] = {}
    cut_off: list[int] = []
    blank = bytes(rows_per_entry * int(np.prod(shape[1:])))
    num_entries, done = shape[0] // rows_per_entry, 0
    for number, entry in enumerate(entries):
        if isinstance(entry, str):
            unreadable[str(number)] = entry
            file.write(blank)
        else:
            assert entry.rows.shape == (rows_per_entry, *shape[1:]), "every entry has the one shape"
            file.write(entry.rows.tobytes())
            if entry.extent != (0, rows_per_entry):
                extents[str(number)] = entry.extent
            if entry.cut_off > MOST_CUT_OFF:
                cut_off.append(number)
        done = number + 1
        if progress is not None:
            progress(done, num_entries)
    assert done == num_entries, "every entry has its rows"
    return {"unreadable": unreadable, "extents": extents, "cut_off": cut_off}
