"""Where sampling and noise come from: AES-256 in counter mode, keyed by the operating system or by a seed.

Every draw is made from a `Stream`, and every stream has a name: (study, hospital, purpose, round, attempt).
Two names never share a key, so two hospitals never share a noise stream. In earnest the key is 32 bytes from
the operating system; a seeded study derives it from the seed and the name, which makes the run reproducible
and *not private*: whoever knows the seed can subtract the noise.

Arithmetic caveat, printed in every statement: the normal variates are floating point (Box-Muller on a
63-bit uniform, so the tail reaches 9.3 standard deviations), not samples of an exact discrete distribution. The
floating-point attack of Mironov (2012, https://doi.org/10.1145/2382196.2382264) is answered by the integer
mechanism of secure aggregation, not here.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Float64 = npt.NDArray[np.float64]

_CHUNK = 1 << 16  # variates drawn at a time: small enough for the processor's cache
_CHUNKS_FOR_THREADS = 16


class Stream:
    """Cryptographic random numbers under one 32-byte key; one key, one stream."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"key must be 32 bytes, got {len(key)}")
        self._key, self._calls = key, 0
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_os(cls) -> Self:
        """A stream nobody can repeat; an entropy failure of the operating system raises OSError."""
        return cls(os.urandom(32))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Independent 64-bit words, (count,)."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype=np.uint64)

    def uniform(self, count: int) -> Float64:
        """Independent uniforms of 53 bits in (0, 1), (count,); never 0 and never 1."""
        return ((self.words(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> Float64:
        """Independent standard normal variates, (count,), by Box and Muller (1958)."""
        out = np.zeros(count, dtype=np.float64)
        self.add_normal(out, 1.0)
        return out

    def add_normal(self, values: npt.NDArray[np.floating[Any]], std: float) -> None:
        """Adds independent normal noise of a standard deviation to every value, in place.

        Every call has a key of its own, derived from the stream's; the pieces of a long row have counters of
        their own under it, so that they can be drawn side by side and come out the same.
        """
        self._calls += 1
        key = hashlib.sha256(b"wardround/v1/normal" + self._key + self._calls.to_bytes(8, "big")).digest()
        starts = range(0, values.size, _CHUNK)

        def fill(index: int) -> None:
            piece = values[starts[index] : starts[index] + _CHUNK]
            piece += std * _normal_piece(key, index, piece.size)

        if len(starts) < _CHUNKS_FOR_THREADS:
            for index in range(len(starts)):
                fill(index)
        else:
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                list(pool.map(fill, range(len(starts))))

    def seed(self) -> int:
        """One 63-bit integer, for a library that wants a seed."""
        return int(self.words(1)[0] >> np.uint64(1))


def _normal_piece(key: bytes, index: int, count: int) -> Float64:
    """Variates of one piece of a row; its counters start where no other piece of that key reaches."""
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


@dataclass(frozen=True)
class Randomness:
    """Hands out named streams: from the operating system, or derived from `seed`.

    Attributes:
        seed: None in earnest. An integer makes every stream a function of the seed and its name.
        study: name of the study, part of every derived key.
    """

    seed: int | None
    study: str = ""

    @property
    def is_private(self) -> bool:
        """False when whoever knows the seed can repeat the noise."""
        return self.seed is None

    def stream(self, *name: str | int) -> Stream:
        """The stream of that name. Seeded: always the same. Unseeded: a new one at every call."""
        if self.seed is None:
            return Stream.from_os()
        # Lengths are written before contents, so that ("a", "bc") and ("ab", "c") are two streams.
        parts = (str(part).encode() for part in ("wardround/v1/stream", self.seed, self.study, *name))
        return Stream(hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest())
