"""Frames on a stream of bytes: a kind, a length, and the bytes of one message.

    mark (4 bytes)   kind (1 byte)   length (4 bytes, big-endian)   content

The length is checked as soon as it has arrived, before any of the content is stored. A frame says nothing of what is
in it: `federation.wire` checks messages, and signatures decide between parties.
"""

import struct
from enum import IntEnum
from typing import Final

from wardround.errors import FederationError

_HEADER = struct.Struct(">4sBI")
_MARK: Final = b"WRD\x01"


class Kind(IntEnum):
    """The content of a frame."""

    MESSAGE = 1
    REFUSED = 2
    """The last frame was none, or too long, or too slow; the connection is closed after it."""
    WORKING = 3
    """A sign of life: the message is being answered. Empty; the answer, or another sign, follows."""


def framed(content: bytes, kind: Kind = Kind.MESSAGE) -> bytes:
    """Returns the frame of one message."""
    return header_of(len(content), kind) + content


def header_of(length: int, kind: Kind = Kind.MESSAGE) -> bytes:
    """Returns the bytes before a content of a length."""
    return _HEADER.pack(_MARK, kind, length)


class FrameReader:
    """Takes bytes as they arrive, and gives whole frames.

    Args:
        most_bytes: of a frame's content; a longer frame is refused at its header.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = bytearray()

    @property
    def num_held(self) -> int:
        """Bytes that have arrived and are not taken."""
        return len(self._held)

    def feed(self, arrived: bytes) -> None:
        """Takes bytes in.

        Raises:
            FederationError: they do not begin a frame, or one that is too long.
        """
        self._held += arrived
        self._header()

    def take(self) -> tuple[Kind, memoryview] | None:
        """Returns the first whole frame, once, and its content without a copy; None while there is none.

        Raises:
            FederationError: what follows an earlier frame is none.
        """
        header = self._header()
        if header is None:
            return None
        kind, length = header
        end = _HEADER.size + length
        if len(self._held) < end:
            return None
        if len(self._held) > end:  # of any number of small frames, what is behind one is not copied
            with memoryview(self._held) as held:
                content = bytes(held[_HEADER.size : end])
            del self._held[:end]
            return kind, memoryview(content)
        frame, self._held = memoryview(self._held).toreadonly(), bytearray()
        return kind, frame[_HEADER.size :]

    def _header(self) -> tuple[Kind, int] | None:
        if not _MARK.startswith(self._held[: len(_MARK)]):
            raise _refused(f"begin with its mark {_MARK!r}, got {bytes(self._held[: len(_MARK)])!r}")
        if len(self._held) < _HEADER.size:
            return None
        _, kind, length = _HEADER.unpack_from(self._held)
        if kind not in tuple(Kind):
            raise _refused(f"be of a known kind, got {kind}")
        if length > self._most_bytes:
            raise _refused(f"have at most {self._most_bytes} bytes, got {length}")
        return Kind(kind), length


def _refused(what: str) -> FederationError:
    return FederationError(
        f"A frame must {what}; nothing of it was read. Install the same version of Wardround at both ends.",
        code="federation-frame",
    )
