"""Coordinates of b bits as a row of bytes, without a bit between them: what of a vector is sent.

The bytes, read as one little-endian number, are the sum of x_i 2^(b i) over the coordinates x_i < 2^b; the bits that
fill up the last byte are zero. One vector has one row of bytes, and a row of bytes stands for one vector or for none.
Modulo 2^32 and 2^64 it is the words themselves.

Secrecy is that of the words. A masked word is uniform over 2^w for any vector, so its low b bits are uniform over
2^b; the bits above them do not leave the hospital.
"""

import numpy as np

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.ring import Residues, Ring

_AT_ONCE = 1 << 15  # coordinates, a multiple of 8, so that each piece of a vector ends with a whole byte


def packed_bytes(coordinates: int, ring: Ring) -> int:
    """Returns the bytes of a packed vector: ceil(coordinates · b / 8)."""
    return -(-coordinates * ring.bits // 8)


def pack(residues: Residues, ring: Ring) -> memoryview:
    """Returns the low b bits of every coordinate, `packed_bytes` of them.

    >>> pack(np.array([0x7ABCDE, 1], np.uint32), Ring(20)).hex()
    'debc1a0000'
    """
    words = np.ascontiguousarray(residues).view(np.uint8)
    if ring.bits == ring.word_bits:
        return words.data.toreadonly()
    packed = np.empty(packed_bytes(residues.size, ring), np.uint8)
    rows = words.reshape(residues.size, ring.word_bits // 8)
    for start in range(0, residues.size, _AT_ONCE):
        bits = np.unpackbits(rows[start : start + _AT_ONCE], axis=1, count=ring.bits, bitorder="little")
        piece, first = np.packbits(bits.reshape(-1), bitorder="little"), packed_bytes(start, ring)
        packed[first : first + piece.size] = piece
    return packed.data.toreadonly()


def unpack(content: bytes | memoryview, coordinates: int, ring: Ring) -> Residues:
    """Returns the coordinates of a packed vector, (coordinate,), each below 2^b.

    Raises:
        FederationError: these are no packed coordinates: too few bytes, too many, or a bit set behind the last.
    """
    check_packed(content, coordinates, ring)
    if ring.bits == ring.word_bits:
        return np.frombuffer(content, ring.dtype)
    received, found = np.frombuffer(content, np.uint8), np.empty(coordinates, ring.dtype)
    words = found.view(np.uint8).reshape(coordinates, ring.word_bits // 8)
    whole = np.zeros((min(_AT_ONCE, coordinates), ring.word_bits), np.uint8)  # bits above the b-th stay zero
    for start in range(0, coordinates, _AT_ONCE):
        count = min(_AT_ONCE, coordinates - start)
        piece = received[packed_bytes(start, ring) : packed_bytes(start + count, ring)]
        bits = np.unpackbits(piece, count=count * ring.bits, bitorder="little")
        whole[:count, : ring.bits] = bits.reshape(count, ring.bits)
        words[start : start + count] = np.packbits(whole[:count].reshape(-1), bitorder="little").reshape(count, -1)
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
