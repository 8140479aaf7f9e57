"""The rows of a listing: from files that are hashed and decoded, or from the phantom's drawing."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from wardround.errors import DataError
from wardround.images.archives import MAX_BYTES
from wardround.images.decode.pillow import MAX_PIXELS
from wardround.images.decode.quiet import QUIET
from wardround.images.decode.raw import Mask, Raw
from wardround.images.entries import Entry, Target
from wardround.images.layouts.phantom import PhantomOptions, draw_phantom, phantom_digests
from wardround.images.listing import Listing
from wardround.images.rows.cache import Cached, Fill, cache_key, cached_pictures
from wardround.images.rows.known import KnownDigests
from wardround.images.rows.recipe import Prepared, Recipe
from wardround.images.store import Store
from wardround.types import Progress

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")

_WORKERS = min(8, os.cpu_count() or 1)
"""Threads that hash and decode; Pillow, zlib and hashlib release the interpreter lock."""

_IN_FLIGHT, _VOLUMES_IN_FLIGHT = 2 * _WORKERS, 4
"""Shares that are decoded or wait to be written: enough that no thread idles, and memory stays small."""

_FRAMES_AT_ONCE = 16
"""Frames of one file that a thread takes together, so that the file is read and hashed once for them."""

_HEAD_BYTES = 1 << 18
"""First bytes of a file that tell how much memory it takes; most pictures are not larger."""

_MOST_KEPT = 64_000_000
"""Bytes of files that are kept from their hash until they are decoded; others are read and hashed again."""

_AT_ONCE = 16
"""Small pictures in a thread's share: handing over one costs more than to hash it."""

_SHARE_BYTES = 1_000_000
"""Bytes of files at which a share is full, so that all threads have some of a few large files."""

_MOST_BYTES = 1_500_000_000
"""Memory that all threads together take while files are read, unless one file alone takes more."""


class _Room:
    """Memory that threads share: a thread waits until its bytes fit beside the others', or no other has any."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._taken, self._changed = most_bytes, 0, threading.Condition()

    @contextmanager
    def of(self, num_bytes: int) -> Iterator[None]:
        """Holds so many bytes during the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + num_bytes <= self._most)
            self._taken += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= num_bytes
                self._changed.notify_all()


class _Contents:
    """Files of a store with their SHA-256; those that were hashed first are kept, as long as they fit."""

    def __init__(self, store: Store, known: KnownDigests, most_bytes: int) -> None:
        self._store, self._known, self._room, self._lock = store, known, most_bytes, threading.Lock()
        self._kept: dict[str, tuple[bytes, str]] = {}

    def sha256(self, name: str) -> str:
        """Returns the SHA-256 of a file's content, which is read only if the file may have changed since it was."""
        stamp = self._store.stamp(name)
        if (digest := self._known.of(name, stamp)) is not None:
            return digest
        content, digest = self.read(name)
        self._known.note(name, stamp, digest)
        with self._lock:
            if len(content) <= self._room and name not in self._kept:
                self._room -= len(content)
                self._kept[name] = content, digest
        return digest

    def distrust(self) -> None:
        """Has every file hashed anew the next time."""
        self._known.forget()

    def head(self, name: str) -> bytes:
        """Returns the first `_HEAD_BYTES` of a file."""
        kept = self._kept.get(name)
        return self._store.head(name, _HEAD_BYTES) if kept is None else kept[0][:_HEAD_BYTES]

    def read(self, name: str, head: bytes | None = None) -> tuple[bytes, str]:
        """Returns a whole file, of which `head` may be all, and the SHA-256 of what is returned."""
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        content = head if head is not None and len(head) < _HEAD_BYTES else self._store.read(name)
        return content, sha256(content).hexdigest()


Frames = list[tuple[Entry, str]]
"""Entries of the same files, with their digests: frames of one file, or a single entry."""


@dataclass(frozen=True)
class Wanted:
    """The rows that are asked for.

    Args:
        recipe: of every picture.
        cache_dir: folder of the rows.
        progress: told how many entries are decoded.
    """

    recipe: Recipe
    cache_dir: Path
    progress: Progress | None = None


def pixels_of_files(store: Store, listing: Listing, wanted: Wanted) -> tuple[list[str], Cached]:
    """Returns sha256 of every entry's content and its rows, in the order of the listing.

    Raises:
        DataError: a file changes while it is read, or the cache cannot be written. Files that are too large, cannot be
            opened or do not decode are no error here: `Cached.unreadable` has them.
    """
    entries = listing.entries
    with QUIET, ThreadPoolExecutor(_WORKERS) as pool:
        known = KnownDigests(store.root, wanted.cache_dir)
        room, contents = _Room(_MOST_BYTES), _Contents(store, known, _MOST_KEPT)

        def hashed(several: Sequence[tuple[str, ...]]) -> list[list[str] | None]:
            found: list[list[str] | None] = []
            for names in several:
                with room.of(max(map(store.size, names))):
                    try:
                        found.append([*map(contents.sha256, names)])
                    except DataError:
                        found.append(None)
            return found

        files = list(dict.fromkeys((*entry.files, *entry.mask) for entry in entries))
        shares = _shares(files, [sum(map(store.size, names)) for names in files])
        parts = dict(zip(files, chain.from_iterable(pool.map(hashed, shares)), strict=True))
        known.keep()
        digests = [_joined(entry, parts[(*entry.files, *entry.mask)]) for entry in entries]

        def opened(frames: Frames) -> list[Prepared | str]:
            entry, digest = frames[0]
            heads = {} if digest == _unopened(entry) else _heads(contents, entry)
            with room.of(_memory(store, entry, heads, listing, wanted.recipe)):
                return _opened(contents, frames, heads, listing, wanted.recipe)

        def opened_each(several: Sequence[Frames]) -> list[Prepared | str]:
            return [prepared for frames in several for prepared in opened(frames)]

        def fill() -> Iterator[Prepared | str]:
            groups = _by_file(entries, digests)
            num_bytes = [
                _SHARE_BYTES if listing.volumes or len(frames) > 1 else _num_bytes(store, frames[0][0])
                for frames in groups
            ]
            most = _VOLUMES_IN_FLIGHT if listing.volumes else _IN_FLIGHT
            for prepared in _in_turn(pool, opened_each, _shares(groups, num_bytes), most):
                yield from prepared

        source = (listing.decoder.key, MAX_PIXELS, *listing.mask_values)
        return digests, _cached(source, digests, wanted, fill, has_masks=listing.target is Target.MASKS)


def _in_turn(
    pool: ThreadPoolExecutor, work: Callable[[_Given], _Made], shares: Iterable[_Given], most: int
) -> Generator[_Made, None, None]:
    """Yields the result of every share in order, while up to `most` of them are worked on or wait."""
    waiting: deque[Future[_Made]] = deque()
    try:
        for share in shares:
            if len(waiting) == most:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, share))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def pixels_of_phantom(options: PhantomOptions, files: Iterable[str], wanted: Wanted) -> tuple[list[str], Cached]:
    """Returns the digest of every generated picture and its row; `files` are those of `list_phantom`, in its order."""
    digests = phantom_digests(options, files)

    def fill() -> Iterator[Prepared | str]:
        for picture in draw_phantom(options):
            yield wanted.recipe.prepare(Raw(picture))

    return digests, _cached(("phantom",), digests, wanted, fill, has_masks=False)


def _heads(contents: _Contents, entry: Entry) -> dict[str, bytes]:
    """Returns the first bytes of each file; none for an entry whose size is known, or that cannot be read."""
    try:
        return {} if entry.num_values else {n: contents.head(n) for n in (*entry.files, *entry.mask)}
    except DataError:  # its reason is found where it is opened
        return {}


def _memory(store: Store, entry: Entry, heads: dict[str, bytes], listing: Listing, recipe: Recipe) -> int:
    """Returns bytes that reading, decoding and preparing an entry take at most."""
    num_bytes = _num_bytes(store, entry)
    if not heads and not entry.num_values:
        return num_bytes
    return num_bytes + recipe.memory(listing.decoder.extent(entry, [*heads.values()], num_bytes))


def _num_bytes(store: Store, entry: Entry) -> int:
    return sum(map(store.size, (*entry.files, *entry.mask)))


def _cached(
    source: tuple[object, ...], digests: list[str], wanted: Wanted, fill: Fill, *, has_masks: bool
) -> Cached:
    recipe = wanted.recipe
    key = cache_key((*source, *recipe.key, has_masks), digests)
    channels, *space = recipe.shape
    shape = (len(digests) * recipe.rows, channels + has_masks, *space)
    return cached_pictures(wanted.cache_dir, key, shape, fill, wanted.progress, recipe.rows)


def _shares(items: Sequence[_Given], num_bytes: Sequence[int]) -> list[Sequence[_Given]]:
    """Returns items, of these sizes, in shares of up to `_AT_ONCE`, each closed at `_SHARE_BYTES`."""
    starts: list[int] = []
    free = 0
    for place, size in enumerate(num_bytes):
        if free <= 0 or place - starts[-1] == _AT_ONCE:
            starts.append(place)
            free = _SHARE_BYTES
        free -= size
    return [items[start:end] for start, end in pairwise([*starts, len(items)])]


def _by_file(entries: Sequence[Entry], digests: Sequence[str]) -> list[Frames]:
    """Returns entries with their digests: up to `_FRAMES_AT_ONCE` frames of one file together, others alone."""
    groups: list[Frames] = []
    for entry, digest in zip(entries, digests, strict=True):
        before = groups[-1] if groups else []
        same = before and (entry.files, entry.mask) == (before[0][0].files, before[0][0].mask)
        if same and entry.frame is not None and len(before) < _FRAMES_AT_ONCE:
            before.append((entry, digest))
        else:
            groups.append([(entry, digest)])
    return groups


def _unopened(entry: Entry) -> str:
    """Returns the digest of an entry without content, over its name."""
    return sha256(f"unopened {entry.file}".encode("utf-8", "surrogatepass")).hexdigest()


def _joined(entry: Entry, parts: list[str] | None) -> str:
    """Returns one file's own sha256; for several, and for a frame, one over theirs; over its name without content."""
    if parts is None:
        return _unopened(entry)
    if len(parts) == 1 and entry.frame is None:
        return parts[0]
    return sha256(f"{len(entry.files)} {entry.frame} {' '.join(parts)}".encode()).hexdigest()


def _opened(
    contents: _Contents, frames: Frames, heads: dict[str, bytes], listing: Listing, recipe: Recipe
) -> list[Prepared | str]:
    """Returns the rows of each entry, or the reason why there are none; the entries have the same files."""
    first = frames[0][0]
    try:
        files, masks = ([contents.read(n, heads.get(n)) for n in names] for names in (first.files, first.mask))
    except DataError as error:
        if any(digest != _unopened(entry) for entry, digest in frames):
            raise
        too_large = f"a file must have at most {MAX_BYTES:,} bytes, this one has more"
        said = too_large if error.code == "data-file-size" else "a file must open, this one does not"
        return [said] * len(frames)
    parts = [digest for _, digest in (*files, *masks)]
    for entry, digest in frames:
        if _joined(entry, parts) != digest:
            contents.distrust()
            raise DataError(f"pictures must not change while they are read, but {entry.file} did. Start again.")
    datas, of_masks = ([data for data, _ in some] for some in (files, masks))
    raws = listing.decoder.decode_each([entry for entry, _ in frames], datas, of_masks, recipe.hint)
    return [_prepared(raw, listing, recipe) for raw in raws]


def _prepared(raw: Raw | DataError, listing: Listing, recipe: Recipe) -> Prepared | str:
    """Returns the rows of one entry, or the reason why there are none."""
    if isinstance(raw, DataError):
        return str(raw)
    try:
        if (raw.mask is None) == (listing.target is Target.MASKS):
            return "a mask must lie beside every picture that is segmented, and beside no other"
        if raw.mask is not None and listing.mask_values:
            raw = replace(raw, mask=_numbered(raw.mask, listing.mask_values))
        if raw.mask is not None and raw.mask.max(initial=0) >= len(listing.class_names):
            return f"a mask must hold the classes 0 to {len(listing.class_names) - 1}, got {raw.mask.max()}"
        return recipe.prepare(raw)
    except DataError as error:
        return str(error)


def _numbered(mask: Mask, values: tuple[int, ...]) -> Mask:
    """Returns the number of the class of every pixel; a picture of 0 and 255 alone is decoded to 0 and 1 already."""
    known = dict(zip(values, range(len(values)), strict=True)) | ({1: 1} if values == (0, 255) else {})
    strange = np.setdiff1d(mask, list(known))
    if strange.size:
        listed = ", ".join(map(str, values))
        raise DataError(f"a mask must hold the values {listed} of classes.csv, got {strange[0]}")
    numbers = np.zeros(256, np.uint8)
    numbers[list(known)] = list(known.values())
    return numbers[mask]
