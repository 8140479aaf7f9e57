"""Several byte strings as one, for a request, an answer and the process between them."""

import struct
from collections.abc import Sequence

from wardround.errors import DataError

_COUNT = struct.Struct("<I")


def framed(parts: Sequence[bytes]) -> bytes:
    """Returns parts as one string: their number, their lengths, and they themselves."""
    lengths = [_COUNT.pack(len(part)) for part in parts]
    return b"".join([_COUNT.pack(len(parts)), *lengths, *parts])


def unframed(content: bytes, most: int) -> list[bytes]:
    """Returns the parts of `framed`, at most so many.

    Raises:
        DataError: the string is no such frame (code `data-ciphertext`).
    """
    size = _COUNT.size
    count = _COUNT.unpack_from(content)[0] if len(content) >= size else most + 1
    begin = size * (1 + count)
    if count > most or len(content) < begin:
        raise _no_frame()
    parts = []
    for number in range(count):
        (length,) = _COUNT.unpack_from(content, size * (1 + number))
        parts.append(content[begin : begin + length])
        begin += length
    if begin != len(content):
        raise _no_frame()
    return parts


def _no_frame() -> DataError:
    return DataError(
        "An encrypted request or answer must be one that this release of wardround writes, got other bytes; use one "
        "release on both sides.",
        code="data-ciphertext",
    )
