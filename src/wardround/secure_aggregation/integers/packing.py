"""Coordinates of b bits as a row of bytes, without a bit between them: what of a vector is sent.

The bytes, read as one little-endian number, are the sum of x_i 2^(b i) over the coordinates x_i < 2^b; the bits that
fill up the last byte are zero. One vector has one row of bytes, and a row of bytes stands for one vector or for none.
Modulo 2^32 and 2^64 it is the words themselves.

Secrecy is that of the words. A masked word is uniform over 2^w whatever it hides, so its low b bits are uniform over
2^b; the bits above them do not leave the hospital.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.ring import Residues, Ring

_Uint64: TypeAlias = npt.NDArray[np.uint64]
_WORD = np.dtype("<u8")
_PIECES_AT_ONCE = 1 << 17  # 1 MiB: in the cache of one core, and many enough for what a call of NumPy costs


def packed_bytes(coordinates: int, ring: Ring) -> int:
    """Returns the bytes of a packed vector: ceil(coordinates · b / 8)."""
    return -(-coordinates * ring.bits // 8)


def pack(residues: Residues, ring: Ring) -> memoryview:
    """Returns the low b bits of every coordinate, `packed_bytes` of them.

    >>> pack(np.array([0x7ABCDE, 1], np.uint32), Ring(20)).hex()
    'debc1a0000'
    """
    if ring.bits == ring.word_bits:
        return np.ascontiguousarray(residues).view(np.uint8).data.toreadonly()
    layout = _Layout.of(ring)
    groups = -(-residues.size // layout.coordinates)
    packed = np.empty((groups, layout.words), _WORD)
    for start in range(0, groups, layout.groups_at_once):
        part = residues[start * layout.coordinates : (start + layout.groups_at_once) * layout.coordinates]
        count = -(-part.size // layout.coordinates)
        whole = _filled(part, count * layout.coordinates, ring.dtype)
        pieces = np.ascontiguousarray(_joined(whole, ring).reshape(count, layout.pieces).T)
        words, shifted = np.zeros((layout.words, count), _WORD), np.empty(count, _WORD)
        for piece, (word, offset) in zip(pieces, layout.places, strict=True):
            words[word] |= np.left_shift(piece, _WORD.type(offset), out=shifted)
            if offset + layout.width > 64:
                words[word + 1] |= np.right_shift(piece, _WORD.type(64 - offset), out=shifted)
        packed[start : start + count] = words.T
    return packed.reshape(-1).view(np.uint8)[: packed_bytes(residues.size, ring)].data.toreadonly()


def unpack(content: bytes | memoryview, coordinates: int, ring: Ring) -> Residues:
    """Returns the coordinates of a packed vector, (coordinate,), each below 2^b.

    Raises:
        FederationError: these are no packed coordinates: too few bytes, too many, or a bit set behind the last.
    """
    check_packed(content, coordinates, ring)
    if ring.bits == ring.word_bits:
        return np.frombuffer(content, ring.dtype)
    layout, found = _Layout.of(ring), np.empty(coordinates, ring.dtype)
    received, group_bytes = np.frombuffer(content, np.uint8), layout.words * _WORD.itemsize
    for start in range(0, -(-coordinates // layout.coordinates), layout.groups_at_once):
        part = received[start * group_bytes : (start + layout.groups_at_once) * group_bytes]
        count = -(-part.size // group_bytes)
        whole = _filled(part, count * group_bytes, np.dtype(np.uint8)).view(_WORD)
        words = np.ascontiguousarray(whole.reshape(count, layout.words).T)
        pieces, shifted = np.empty((layout.pieces, count), _WORD), np.empty(count, _WORD)
        for piece, (word, offset) in zip(pieces, layout.places, strict=True):
            np.right_shift(words[word], _WORD.type(offset), out=piece)
            if offset + layout.width > 64:
                piece |= np.left_shift(words[word + 1], _WORD.type(64 - offset), out=shifted)
        first = start * layout.coordinates
        parted = _parted(np.ascontiguousarray(pieces.T).ravel(), ring)
        found[first : first + parted.size] = parted[: coordinates - first]
    return found


def check_packed(content: bytes | memoryview, coordinates: int, ring: Ring) -> None:
    """Refuses bytes that are no packed coordinates; looks at how many there are, and at the last.

    Raises:
        FederationError: too few bytes, too many, or a bit set behind the last coordinate.
    """
    expected = packed_bytes(coordinates, ring)
    padding = 8 * expected - coordinates * ring.bits
    if len(content) != expected or (padding and content[-1] >> (8 - padding)):
        raise FederationError(
            f"{coordinates} coordinates of {ring.bits} bits must be {expected} bytes whose last {padding} bits are 0, "
            f"got {len(content)} bytes that are not; ask for the same bytes again."
        )


class _Layout(NamedTuple):
    """The layout of the bits of a group of coordinates in 64-bit words.

    A piece is a coordinate of more than 32 bits, or two neighbours of fewer; a group is the fewest pieces that fill
    whole words.
    """

    width: int  # bits of a piece
    pieces: int  # of a group
    words: int  # of a group
    coordinates: int  # of a group

    @classmethod
    def of(cls, ring: Ring) -> "_Layout":
        in_a_piece = 64 // ring.word_bits
        width = in_a_piece * ring.bits
        common = math.gcd(width, 64)
        return cls(width, 64 // common, width // common, 64 // common * in_a_piece)

    @property
    def groups_at_once(self) -> int:
        return _PIECES_AT_ONCE // self.pieces

    @property
    def places(self) -> list[tuple[int, int]]:
        """Word and bit in which each piece of a group begins."""
        return [divmod(number * self.width, 64) for number in range(self.pieces)]


def _filled(values: npt.NDArray[Any], size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values in one piece of memory, with zeros behind them if they are fewer."""
    if values.size == size and values.flags.c_contiguous and values.flags.aligned:
        return values
    whole = np.zeros(size, dtype)
    whole[: values.size] = values
    return whole


def _joined(residues: Residues, ring: Ring) -> _Uint64:
    """Pieces of the coordinates: their low bits, two of them in one if they are words of 32."""
    if ring.word_bits == 64:
        return ring.lowest(residues).view(_WORD)
    both, bits = ring.lowest(residues).view(_WORD), _WORD.type(ring.bits)
    lower = both & _WORD.type((1 << 32) - 1)
    both >>= _WORD.type(32)
    both <<= bits
    both |= lower
    return both


def _parted(pieces: _Uint64, ring: Ring) -> Residues:
    """Coordinates of the pieces; what a piece has above its width is left out."""
    if ring.word_bits == 64:
        return ring.lowest(pieces)
    mask = _WORD.type((1 << ring.bits) - 1)
    upper = pieces >> _WORD.type(ring.bits)
    upper &= mask
    upper <<= _WORD.type(32)
    upper |= pieces & mask
    return upper.view(ring.dtype)
