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

_FRAME_BYTES = 9
_DOUBLE = struct.Struct(">d")
_DEEPEST = 8  # lists inside lists
_LONGEST_INTEGER = 16  # bytes


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
        return _framed(b"f", 8, _DOUBLE.pack(value))
    return _framed(b"l", len(value), b"".join(map(canonical, value)))


def digest(purpose: str, *fields: Field) -> bytes:
    """SHA-256 of the fields under a purpose, which keeps a hash for one use from standing for another."""
    return hashlib.sha256(canonical((purpose, *fields))).digest()


def parsed(content: bytes) -> Field:
    """The value of canonical bytes, lists as tuples. Other bytes may give a value too: write it again to compare.

    Raises:
        ValueError: they are not those of any value, or of more than one, or of a number or a depth that nothing here
            has.

    >>> parsed(canonical(("ab", 1, (2.0, b"c"))))
    ('ab', 1, (2.0, b'c'))
    """
    value, end = _parsed_at(content, 0, _DEEPEST)
    if end != len(content):
        raise ValueError("bytes behind the value")
    return value


def _parsed_at(content: bytes, start: int, deepest: int) -> tuple[Field, int]:
    """The value that begins at `start`, and where the next one would."""
    kind, body = content[start : start + 1], start + _FRAME_BYTES
    length = int.from_bytes(content[start + 1 : body], "big")
    if kind == b"l" and deepest > 0:
        values: list[Field] = []
        for _ in range(length):  # each takes bytes, so that a length which is not true ends with them
            value, body = _parsed_at(content, body, deepest - 1)
            values.append(value)
        return tuple(values), body
    end = body + length
    if end > len(content):
        raise ValueError("fewer bytes than a length says")
    part = content[body:end]
    if kind == b"b":
        return part, end
    if kind == b"s":
        return part.decode(), end
    if kind == b"i" and 0 < length <= _LONGEST_INTEGER:
        return int.from_bytes(part, "big", signed=True), end
    if kind == b"f" and length == _DOUBLE.size:
        return float(_DOUBLE.unpack(part)[0]), end
    raise ValueError("not the kind and length of a value")


def _framed(kind: bytes, length: int, content: bytes) -> bytes:
    return kind + length.to_bytes(8, "big") + content
