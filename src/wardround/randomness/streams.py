"""Named streams of cryptographic randomness: AES-256 in counter mode, keyed by the operating system or by a seed.

Every draw is made from a `Stream`, and every stream has a name: (study, hospital, purpose, round, attempt). Two names
never share a key, so two hospitals never share a noise stream. Draws that belong to one patient each are made by
`Stream.uniform_of`, which is keyed by the patient and not by the position in a list. In a real deployment the key is 32
bytes from the operating system. A seeded study derives the key from the seed and the name: the run is reproducible and
*not private*, because any party that knows the seed can subtract the noise.

Arithmetic caveat, printed in every statement: the normal variates are floating point (Box-Muller on a
63-bit uniform, so the tail reaches 9.3 standard deviations), not samples of an exact discrete distribution. Onto an
array of single precision they are drawn in single precision, which takes half the work (`_add_single`). The
floating-point attack of Mironov (2012, https://doi.org/10.1145/2382196.2382264) is answered by the integer
mechanism of secure aggregation, not here. Laplace and Gumbel variates are logarithms of uniforms of 52 bits: they lie
on a coarse set of floating-point numbers whose tail ends (a Laplace variate at 37 scales, which a real one passes once
in 1e16 draws), and the same attack applies to sums with them.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from wardround.randomness.places import Names

Float64 = npt.NDArray[np.float64]

_CHUNK = 1 << 18  # variates drawn at a time: enough that threads seldom wait for the interpreter
_CHUNKS_FOR_THREADS = 8
"""Chunks below which one thread draws alone: torch's threads wait actively after a step, and others find no core."""
_ZEROS = memoryview(bytes(4 * _CHUNK))
_TAIL = np.uint32(1 << 12)
"""A radius whose 32-bit uniform is below this many steps gets 31 bits more."""


class Stream:
    """Stream of cryptographic random numbers under one 32-byte key; one key, one stream.

    Pickled, a stream moves: it can no longer be drawn from here, so that no number is drawn twice.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"key must be 32 bytes, got {len(key)}")
        self._key, self._calls, self._words = key, 0, 0

    def __getstate__(self) -> tuple[bytes, int, int]:
        state = self._key, self._calls, self._words
        self.__dict__.clear()
        return state

    def __setstate__(self, state: tuple[bytes, int, int]) -> None:
        self._key, self._calls, self._words = state

    def go_on_as(self, moved: "Stream") -> None:
        """Goes on where a stream ends that this one was moved to; that one can no longer be drawn from."""
        self.__setstate__(moved.__getstate__())

    @cached_property
    def _cipher(self) -> CipherContext:
        blocks, half = divmod(self._words, 2)
        cipher = Cipher(algorithms.AES256(self._key), modes.CTR(blocks.to_bytes(16, "big"))).encryptor()
        cipher.update(bytes(8 * half))
        return cipher

    @classmethod
    def from_os(cls) -> Self:
        """Returns a stream that cannot be repeated; an entropy failure of the operating system raises OSError."""
        return cls(os.urandom(32))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Returns independent 64-bit words, (count,)."""
        words = np.frombuffer(self._cipher.update(bytes(8 * count)), dtype=np.uint64)
        self._words += count
        return words

    def uniform(self, count: int) -> Float64:
        """Returns independent uniforms of 52 bits in (0, 1), (count,); never 0 and never 1.

        With 53 the largest of them would round to 1.
        """
        return _uniform(self.words(count))

    def uniform_of(self, names: Names) -> Float64:
        """Returns one uniform of 52 bits in (0, 1) for each patient, (patient,): AES-256 of the patient's name.

        Every call has its own key, derived from the stream's. A patient's uniform is a function of that key and the
        patient's name alone, so the draws of all others stay as they are when a patient is added or removed. Under a
        secret key the uniforms of distinct names are independent, as those of `uniform` are.

        Args:
            names: distinct, from `wardround.randomness.places.names_of`, (patient, 2).
        """
        self._calls += 1
        key = hashlib.sha256(b"wardround/v1/by-name" + self._key + self._calls.to_bytes(8, "big")).digest()
        # One block a name, each name once: the counter of other uses is replaced by the name.
        cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        blocks = cipher.update(names.astype("<u8").tobytes())
        return _uniform(np.frombuffer(blocks, dtype="<u8")[::2].astype(np.uint64))

    def add_normal(self, values: npt.NDArray[np.floating[Any]], std: float) -> None:
        """Adds independent normal noise of a standard deviation to every value, in place.

        Every call has its own key, derived from the stream's. The chunks of a long array have separate counters under
        that key, so that threads can draw them side by side with the same result.
        """
        self._calls += 1
        key = hashlib.sha256(b"wardround/v1/normal" + self._key + self._calls.to_bytes(8, "big")).digest()
        starts = range(0, values.size, _CHUNK)

        def fill(index: int, scratch: "_Scratch") -> None:
            chunk = values[starts[index] : starts[index] + _CHUNK]
            if values.dtype == np.float32:
                _add_single(chunk, std, key, index, scratch)
            else:
                chunk += std * _normal_chunk(key, index, chunk.size)

        def fill_some(indices: range) -> None:
            scratch = _Scratch(min(_CHUNK, values.size))
            for index in indices:
                fill(index, scratch)

        workers = min(4, os.cpu_count() or 1) if len(starts) >= _CHUNKS_FOR_THREADS else 1
        if workers == 1:
            fill_some(range(len(starts)))
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill_some, [range(first, len(starts), workers) for first in range(workers)]))

    def seed(self) -> int:
        """Returns one 63-bit integer, for a library that takes a seed."""
        return int(self.words(1)[0] >> np.uint64(1))


def _uniform(words: npt.NDArray[np.uint64]) -> Float64:
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def laplace(stream: Stream, count: int) -> Float64:
    """Returns independent Laplace variates of scale 1, (count,): an exponential one with a fair sign."""
    signs = np.where(stream.words(count) >> np.uint64(63), 1.0, -1.0)
    return np.asarray(signs * -np.log(stream.uniform(count)), dtype=np.float64)


def gumbel(stream: Stream, count: int) -> Float64:
    """Returns independent standard Gumbel variates, (count,).

    The largest of a_i + gumbel_i is number i with probability exp(a_i) / sum of exp(a_j).
    """
    return np.asarray(-np.log(-np.log(stream.uniform(count))), dtype=np.float64)


def _normal_chunk(key: bytes, index: int, count: int) -> Float64:
    """Returns variates of one chunk of an array; its counters start where no other chunk of that key reaches."""
    half = (count + 1) // 2
    start = (index << 32).to_bytes(16, "big")
    words = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor().update(bytes(12 * half))
    # The radius keeps 63 bits of its uniform: with the usual 53 the tail would end at 8.6 deviations.
    uniform = (np.frombuffer(words, np.int64, half) & np.int64(2**63 - 1)) + 0.5
    radius = np.sqrt(-2.0 * np.log(uniform * 2.0**-63))
    angle = np.frombuffer(words, np.int32, half, 8 * half).astype(np.float32) * np.float32(np.pi * 2.0**-31)
    out = np.empty(2 * half, dtype=np.float64)
    np.multiply(radius, np.cos(angle), out=out[:half])
    np.multiply(radius, np.sin(angle), out=out[half:])
    return out[:count]


class _Scratch:
    """Memory of one thread, so that chunks of an array need not allocate their own."""

    def __init__(self, count: int) -> None:
        half = (count + 1) // 2
        self.words = bytearray(8 * half + 15)
        self.double = np.empty(half, np.float64)
        self.arrays = tuple(np.empty(half, np.float32) for _ in range(3))


def _add_single(chunk: npt.NDArray[np.float32], std: float, key: bytes, index: int, scratch: _Scratch) -> None:
    """Adds variates of one chunk to an array of single precision.

    A radius comes from 32 bits, or, once in a million, from 63 bits, because 32 are too coarse for the tail. Its
    logarithm is taken in double precision: near the centre a single-precision uniform would be one.
    """
    half = (chunk.size + 1) // 2
    start = (index << 32).to_bytes(16, "big")
    cipher = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()
    cipher.update_into(_ZEROS[: 8 * half], scratch.words)
    words = np.frombuffer(scratch.words, np.uint32, 2 * half)
    uniform = scratch.double[:half]
    radius, angle, part = (each[:half] for each in scratch.arrays)
    np.add(words[:half], 0.5, out=uniform)
    uniform *= 2.0**-32
    tail = np.nonzero(words[:half] < _TAIL)[0]
    if tail.size:
        more = np.frombuffer(cipher.update(bytes(4 * tail.size)), np.uint32) >> 1
        uniform[tail] = (words[:half][tail] * 2.0**31 + more + 0.5) * 2.0**-63
    np.log(uniform, out=uniform)
    np.multiply(uniform, -2.0 * std * std, out=radius, casting="same_kind")
    np.sqrt(radius, out=radius)
    np.multiply(words[half:].view(np.int32), np.float32(np.pi * 2.0**-31), out=angle, casting="unsafe")
    np.multiply(np.cos(angle, out=part), radius, out=part)
    chunk[:half] += part
    np.multiply(np.sin(angle, out=part), radius, out=part)
    chunk[half:] += part[: chunk.size - half]


@dataclass(frozen=True)
class Randomness:
    """Source of named streams: from the operating system, or derived from `seed`.

    Attributes:
        seed: None in a real deployment. An integer makes every stream a function of the seed and its name.
        study: name of the study, part of every derived key.
    """

    seed: int | None
    study: str = ""

    @property
    def is_private(self) -> bool:
        """False when the noise can be repeated by any party that knows the seed."""
        return self.seed is None

    def stream(self, *name: str | int) -> Stream:
        """Returns the stream of that name. Seeded: always the same. Unseeded: a new one at every call."""
        if self.seed is None:
            return Stream.from_os()
        # Lengths are written before contents, so that ("a", "bc") and ("ab", "c") are two streams.
        parts = (str(part).encode() for part in ("wardround/v1/stream", self.seed, self.study, *name))
        return Stream(hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest())
