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
        raise no_ciphertext("they are no frame")
    parts = []
    for number in range(count):
        (length,) = _COUNT.unpack_from(content, size * (1 + number))
        parts.append(content[begin : begin + length])
        begin += length
    if begin != len(content):
        raise no_ciphertext("they are no frame")
    return parts


def no_ciphertext(reason: str) -> DataError:
    """Returns the error of bytes that are none of this release's (code `data-ciphertext`)."""
    return DataError(
        "Encrypted rows, keys and answers must be those of `wardround predict` and `wardround serve --encrypted`, got "
        f"other bytes ({reason}); use one release of wardround on both sides.",
        code="data-ciphertext",
    )
