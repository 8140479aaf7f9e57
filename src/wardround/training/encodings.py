"""Encodings of every picture of a set, computed once, in parallel, and kept: memory-mapped rows of numbers.

An encoding that is not trained follows from one picture and from public numbers alone, so it costs no privacy; like the
pictures it is private and is kept in the hospital's own cache. The name of a file is a hash of the encoder, of torch's
version, and of the pictures' bytes: other pictures or another encoder have another file.

A frozen network encodes a picture alone, an encoding without parameters some together; each call is on one thread, and
as many run at once as torch may use threads, so the number of threads changes no bit. Parts of the file appear one by
one: an interrupted encoding goes on from the last part.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.boundary.machine import machine_faults
from wardround.boundary.private import appears_whole, make_private_folder
from wardround.boundary.rows import check_room, mapped_rows
from wardround.models.backbones.own import OnnxRows
from wardround.models.card import frozen_sha256, normalisation_of
from wardround.models.network import Network
from wardround.per_patient.process import one_thread
from wardround.types import Pictures, Progress

FORMAT = 1
"""Raised whenever a network of equal constants and parameters would give other encodings."""

PART = 128
"""Pictures in one part of the file: at most so many are encoded again after an interruption."""

_STRIDED_PART = 16
"""Those of a stride: an encoding of every so many voxels of a volume may still be large."""

_MOST_AT_ONCE = 64
"""Pictures in one call of an encoding without parameters."""


@dataclass(frozen=True)
class Lattice:
    """Training inputs of some pixels or voxels of each picture, at the same places of all pictures.

    Attributes:
        stride: every so many along each axis (`strided`).
        inputs: (picture, feature, *space); no bit of a picture's depends on another picture.
    """

    stride: int
    inputs: Tensor


def encoded(network: Network, pixels: Pictures) -> Tensor:
    """Returns inputs of every picture, (picture, ...): the encoding is fixed, public, and of each picture alone."""
    at_once = _at_once(network)
    starts = range(0, len(pixels), at_once)
    with torch.no_grad():
        return torch.cat([network.encode(torch.from_numpy(np.array(pixels[at : at + at_once]))) for at in starts])


def is_arithmetic(network: Network) -> bool:
    """Returns whether the encoding has no parameters: its sums have an order of their own for each picture."""
    return next(network.encode.parameters(), None) is None and not isinstance(network.encode, OnnxRows)


def _at_once(network: Network) -> int:
    """Returns the most pictures of one call: of a frozen network one, whose last bits follow from a batch's size."""
    return _MOST_AT_ONCE if is_arithmetic(network) else 1


def encodings(
    network: Network, pixels: Pictures, cache_dir: Path, progress: Progress, *, stride: int | None = None
) -> Tensor:
    """Returns the encodings of all pictures, (picture, ...), float32, mapped from a file that is made if missing.

    Args:
        network: one that is encoded once; any with a stride.
        pixels: (picture, channel, *space), uint8; may be a memory map.
        cache_dir: folder of the files, created for its owner alone if missing.
        progress: told after every call of the encoder, while there is something to compute.
        stride: keeps the encoding of every so many pixels along each axis of space (`strided`) alone.

    Guarantee:
        No bit of a row depends on the other pictures, nor on the number of threads.

    A second process that wants the same waits for the first.

    Raises:
        DataError: the cache has no room.
        MachineError: the folder cannot be read or written.
    """
    path = cache_dir / "encodings" / f"{_key(network, pixels, stride)}.npy"
    found = _mapped(path, len(pixels))
    while found is None:
        with _alone(path.with_suffix(".parts")) as parts:
            found = _mapped(path, len(pixels))  # another process may have made it meanwhile
            if found is not None:
                with suppress(OSError):
                    parts.rmdir()
            elif parts.is_dir():
                _make(path, parts, network, pixels, progress, stride)
                found = _mapped(path, len(pixels))
                assert found is not None, "the file was written whole"
    return torch.from_numpy(found)


def strided(values: Tensor, stride: int) -> Tensor:
    """Returns every so many pixels along each axis of space, (picture, channel, *space), from half a stride on."""
    every = slice(stride // 2, None, stride)
    return values[(slice(None), slice(None), *(every,) * (values.ndim - 2))]


@contextmanager
def _alone(parts: Path) -> Iterator[Path]:
    """Waits until no other process makes these encodings; gives the folder of parts, which one may have removed."""
    handle = None
    while handle is None:
        make_private_folder(parts)
        with machine_faults(parts), suppress(FileNotFoundError):  # another process has just removed it
            handle = os.open(parts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # a network's file system may lock no folder
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield parts
    finally:
        os.close(handle)


def _make(
    path: Path, parts: Path, network: Network, pixels: Pictures, progress: Progress, stride: int | None
) -> None:
    size = PART if stride is None else _STRIDED_PART
    starts = range(0, len(pixels), size)
    rows: list[npt.NDArray[np.float32]] = []
    for start in starts:
        part, count = parts / f"{start:09d}.npy", min(size, len(pixels) - start)
        kept = _mapped(part, count)
        if kept is None:
            kept = _encoded(network, pixels, range(start, start + count), progress, stride)
            check_room(parts, (2 * len(pixels) - start) * (kept.nbytes // count), "the encodings and their parts")
            with appears_whole(part) as file:
                np.save(file, kept)
            kept = _mapped(part, count)  # the set may be larger than memory
            assert kept is not None, "the part was written whole"
        rows.append(kept)
    with appears_whole(path) as file:
        shape = (len(pixels), *rows[0].shape[1:])
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for kept in rows:
            file.write(kept.tobytes())
    shutil.rmtree(parts, ignore_errors=True)


def _encoded(
    network: Network, pixels: Pictures, some: range, progress: Progress, stride: int | None
) -> npt.NDArray[np.float32]:
    """Returns the encodings of some pictures, (picture, ...); an interruption waits for those under way only."""

    def together(start: int) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            group = pixels[start : min(start + at_once, some.stop)]
            encoding: Tensor = network.encode(torch.from_numpy(np.array(group)))
        return (encoding if stride is None else strided(encoding, stride)).numpy()

    at_once = _at_once(network) if stride is None else 1
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(together, start) for start in some[::at_once]]
        rows, done = [], some.start
        try:
            for future in futures:
                rows.append(future.result())
                done += len(rows[-1])
                progress(done, len(pixels))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return np.concatenate(rows)


def _mapped(path: Path, count: int) -> npt.NDArray[np.float32] | None:
    """Returns the rows of a complete file, copied on write; None where there is none that can be used.

    Raises:
        MachineError: its disk fails.
    """
    rows = mapped_rows(path, "c")
    if rows is None or rows.dtype != np.dtype("<f4") or rows.ndim < 2 or len(rows) != count:
        return None
    return rows


def _key(network: Network, pixels: Pictures, stride: int | None) -> str:
    facts = [
        FORMAT, torch.__version__, network.name, network.stage, list(pixels.shape),
        normalisation_of(network), frozen_sha256(network), *([] if stride is None else [stride]),
    ]  # fmt: skip
    sha256 = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for start in range(0, len(pixels), PART):
        sha256.update(np.ascontiguousarray(pixels[start : start + PART]).reshape(-1).data)
    return sha256.hexdigest()[:40]
