"""The frame of a message: a fixed prefix, a canonical JSON header, then raw arrays back to back.

    10  "wardround", zero           n   header: canonical JSON, ASCII
    2   version of the format       0s  to the next multiple of 8
    4   n, bytes of the header      arrays, each filled with zeros to the next multiple of 8

Numbers are little-endian. A header names each array by its kind and length, such as {"float32": 11000000}; offsets
follow from the order of the fields, so that no two arrays can overlap and no byte is left over. A header is read only
if writing what was read gives the same text: a repeated key, a blank or NaN is refused with that one comparison.

There is no checksum. Transports authenticate what they carry, an attacker would compute the checksum anew, and the
length is exact, so that a cut message is refused without one.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from wardround.accounting.events import canonical_json
from wardround.boundary.documents import DEEPEST, parse_json
from wardround.errors import FederationError

Raw: TypeAlias = bytes | memoryview
"""A message, or the contents of one array: contiguous and little-endian."""

VERSION: Final = 1
MOST_HEADER_BYTES: Final = 1 << 20

ITEM_BYTES: Final = {"float32": 4, "int64": 8, "bytes": 1}
"""Bytes of one item of each kind of array."""

_MAGIC = b"wardround\0"
_PREFIX = struct.Struct("<10sHI")
_ALIGNMENT = 8


class Arrays:
    """The arrays of a message, taken one after the other; the first begins at byte `start`."""

    def __init__(self, content: Raw, start: int) -> None:
        self._content = memoryview(content).toreadonly()
        self._next = start

    def take(self, kind: str, count: int, name: str) -> memoryview:
        """Returns the bytes of the next array without a copy.

        Raises:
            FederationError: the message ends before the array does, or is not filled with zeros.
        """
        start, end = self._next, self._next + count * ITEM_BYTES[kind]
        self._next = _aligned(end)
        if self._next > len(self._content):
            raise FederationError(
                f"`{name}` must lie inside the message, got {count} items of {kind} and fewer bytes. Send it again."
            )
        _check_zeros(self._content[end : self._next])
        return self._content[start:end]

    def finish(self) -> None:
        """Refuses bytes behind the last array.

        Raises:
            FederationError: there are some.
        """
        left = len(self._content) - self._next
        if left:
            raise FederationError(f"A message must end with its last array, got {left} more bytes. Send it again.")


def pack(header: Mapping[str, object], arrays: Sequence[Raw]) -> bytes:
    """Returns the bytes of a message; the arrays are copied once.

    Raises:
        FederationError: the header is longer than `MOST_HEADER_BYTES`.
    """
    text = canonical_json(header).encode("ascii")
    if len(text) > MOST_HEADER_BYTES:
        raise FederationError(
            f"A header must have at most {MOST_HEADER_BYTES} bytes, got {len(text)}. Send fewer or shorter names."
        )
    parts: list[Raw] = [_PREFIX.pack(_MAGIC, VERSION, len(text)), text, _fill(_PREFIX.size + len(text))]
    for array in arrays:
        parts += [array, _fill(memoryview(array).nbytes)]
    return b"".join(parts)


def unpack(content: Raw, most_bytes: int) -> tuple[Mapping[str, object], Arrays]:
    """Returns the header and the arrays of a message; sizes are checked before anything is parsed.

    Raises:
        FederationError: the message is too long, cut, of another version, or its header is not canonical JSON.
    """
    if len(content) > most_bytes:
        raise FederationError(
            f"A message must have at most {most_bytes} bytes, got {len(content)}. Nothing was read."
        )
    if len(content) < _PREFIX.size:
        raise FederationError(
            f"A message must have {_PREFIX.size} bytes or more, got {len(content)}. Send it again."
        )
    magic, version, length = _PREFIX.unpack_from(content)
    if magic != _MAGIC:
        raise FederationError("A message must begin with Wardround's mark, got another. Send it again.")
    if version != VERSION:
        raise FederationError(
            f"A message must be in version {VERSION} of the format, got version {version}. "
            "Install the same version of Wardround at the coordinator and at all hospitals."
        )
    end = _PREFIX.size + length
    if length > MOST_HEADER_BYTES or _aligned(end) > len(content):
        raise FederationError(
            f"A header must lie inside the message and have at most {MOST_HEADER_BYTES} bytes, got {length} in a "
            f"message of {len(content)}. Send it again."
        )
    _check_zeros(memoryview(content)[end : _aligned(end)])
    return _parsed(bytes(content[_PREFIX.size : end])), Arrays(content, _aligned(end))


def _parsed(text: bytes) -> Mapping[str, object]:
    try:
        header = parse_json(text)
        same = isinstance(header, dict) and canonical_json(header).encode("ascii") == text
    except ValueError:  # no JSON, no ASCII, NaN, too deep, or an integer that nothing here counts to
        same = False
    if not same:
        raise FederationError(
            "A header must be a JSON object as this version writes it: ASCII, keys sorted and each once, no blanks, "
            f"finite numbers, {DEEPEST} levels at most. Send the message again with the same version of Wardround."
        )
    return header  # type: ignore[no-any-return]  # a dict, by the check above


def _check_zeros(filling: memoryview) -> None:
    if any(filling):
        raise FederationError(
            "Arrays must be filled with zeros to a multiple of 8 bytes, got others. Send it again."
        )


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _fill(num_bytes: int) -> bytes:
    return bytes(_aligned(num_bytes) - num_bytes)
