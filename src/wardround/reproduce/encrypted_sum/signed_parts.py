"""Bytes that only another library can read, on their way under the signature of a hospital.

    8   format and version         2   length of the name         4   length of a part    } as often
    1   kind                       4   parts                      its bytes               } as there are parts
    32  hash of the transcript     n   name of the hospital, UTF-8
    32  hash of what came before   64  Ed25519 signature

Numbers are big-endian. The signature covers the kind, the hash of the transcript, the name, the hash of what came
before and the SHA-256 of all parts with their lengths. Reading splits and measures; it interprets nothing.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import chain

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.pins import verify
from wardround.secure_aggregation.round.transcript import Transcript

_PURPOSE = "wardround/v1/signed-parts"
_FORMAT = b"wrpart\x00\x01"
_HEADER = struct.Struct(">8sB32s32sHI")
_LENGTH = struct.Struct(">I")
_SIGNATURE_BYTES = 64


class Kind(IntEnum):
    """What the parts are; a message of one kind never stands for another."""

    KEY = 1
    UPLOAD = 2
    OPENING = 3


@dataclass(frozen=True, eq=False)
class SignedParts:
    """A message of a hospital.

    Attributes:
        kind: of its parts.
        hospital: its name.
        transcript: hash of the transcript that it belongs to, 32 bytes.
        follows: hash of what it rests on, 32 bytes: the key before it, the joint key, the uploads.
        parts: the bytes themselves.
        signature: 64 bytes.
    """

    kind: Kind
    hospital: str
    transcript: bytes
    follows: bytes
    parts: Sequence[bytes]
    signature: bytes

    @classmethod
    def signed(
        cls, kind: Kind, parts: Sequence[bytes], follows: bytes, transcript: Transcript, identity: Identity
    ) -> "SignedParts":
        """A message of this hospital."""
        unsigned = cls(kind, identity.hospital, transcript.digest, follows, parts, b"")
        signature = identity.key.sign(_PURPOSE, *unsigned._signed_fields)
        return cls(kind, identity.hospital, transcript.digest, follows, parts, signature)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all parts and their lengths."""
        hashed = hashlib.sha256()
        for content in chain.from_iterable((_LENGTH.pack(len(part)), part) for part in self.parts):
            hashed.update(content)
        return hashed.digest()

    @property
    def _signed_fields(self) -> tuple[Field, ...]:
        return int(self.kind), self.transcript, self.hospital, self.follows, self.digest

    def check(self, transcript: Transcript, follows: bytes) -> None:
        """Refuses a message that is not of a hospital of this transcript, or that rests on something else.

        Raises:
            FederationError: the hospital takes no part, the signature does not hold, or the hashes are others.
        """
        what = self.kind.name.lower()
        if not verify(transcript.member(self.hospital).identity, self.signature, _PURPOSE, *self._signed_fields):
            raise FederationError(
                f"The {what} of {self.hospital} must carry its signature, and does not; it was changed on the way. Ask "
                "for the same bytes again, or begin a new attempt."
            )
        if self.transcript != transcript.digest:
            raise FederationError(
                f"The {what} of {self.hospital} must be for this round, and is for another transcript: another round "
                "or attempt, or it was told something else. Begin a new attempt."
            )
        if self.follows != follows:
            raise FederationError(
                f"The {what} of {self.hospital} must rest on the keys and uploads that are here, and rests on others; "
                "nothing is opened. Begin a new attempt."
            )

    def to_bytes(self) -> bytes:
        """The bytes that are sent."""
        name = self.hospital.encode()
        head = _HEADER.pack(_FORMAT, self.kind, self.transcript, self.follows, len(name), len(self.parts))
        framed = chain.from_iterable((_LENGTH.pack(len(part)), part) for part in self.parts)
        return b"".join((head, name, self.signature, *framed))

    @classmethod
    def from_bytes(cls, content: bytes, kind: Kind, num_parts: int, most_bytes: int) -> "SignedParts":
        """What was sent; nothing of it has been checked but its form and its size (`check`).

        Args:
            content: as it came.
            kind: that it must be.
            num_parts: that it must have.
            most_bytes: of one part.

        Raises:
            FederationError: these are not the bytes of such a message, or not all of them.
        """
        try:
            form, found, transcript, follows, name_bytes, count = _HEADER.unpack_from(content)
            place = _HEADER.size + name_bytes + _SIGNATURE_BYTES
            name = content[_HEADER.size : _HEADER.size + name_bytes].decode()
            if form != _FORMAT or found != kind or count != num_parts:
                raise ValueError
            parts = []
            for _ in range(num_parts):
                (length,) = _LENGTH.unpack_from(content, place)
                place += _LENGTH.size + length
                if length > most_bytes or place > len(content):
                    raise ValueError
                parts.append(content[place - length : place])
            if place != len(content):
                raise ValueError
        except (struct.error, ValueError):
            raise FederationError(
                f"The {kind.name.lower()} of a hospital must be whole, {num_parts} parts of at most {most_bytes} bytes "
                f"in the format that this version sends, got {len(content)} bytes that are not; ask for the same bytes "
                "again."
            ) from None
        signature = content[_HEADER.size + name_bytes :][:_SIGNATURE_BYTES]
        return cls(kind, name, transcript, follows, parts, signature)
