"""One row of bytes for one value, and no other value with the same row: what is hashed and signed here.

Every value is a kind, a length and its contents, in that order, so that no two different lists of fields run
together: ("ab", "c") and ("a", "bc") differ, and so do 1, 1.0 and "1".
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Field: TypeAlias = "bytes | str | int | float | Sequence[Field]"


def canonical(value: Field) -> bytes:
    """Bytes of a value: a letter for its kind, eight bytes of length (of a list: how many), contents.

    Text is UTF-8, an integer signed big-endian in the fewest bytes, a real number the IEEE 754 double.

    Raises:
        ValueError: a number that is not finite, a truth value, or a mapping, whose values would be lost; none is a
            field of anything agreed on.

    >>> canonical(("ab", "c")) == canonical(("a", "bc"))
    False
    """
    if isinstance(value, bool | Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"a canonical field must be bytes, text, a finite number or a list of them, got {value!r}"
        )
    if isinstance(value, bytes):
        return _framed(b"b", len(value), value)
    if isinstance(value, str):
        content = value.encode()
        return _framed(b"s", len(content), content)
    if isinstance(value, int):
        content = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        return _framed(b"i", len(content), content)
    if isinstance(value, float):
        return _framed(b"f", 8, struct.pack(">d", value))
    return _framed(b"l", len(value), b"".join(map(canonical, value)))


def digest(purpose: str, *fields: Field) -> bytes:
    """SHA-256 of the fields under a purpose, which keeps a hash for one use from standing for another."""
    return hashlib.sha256(canonical((purpose, *fields))).digest()


def _framed(kind: bytes, length: int, content: bytes) -> bytes:
    return kind + length.to_bytes(8, "big") + content
