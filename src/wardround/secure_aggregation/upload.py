"""A masked vector on its way: a short header with a signature, then the residues, little-endian.

    8   format and version         2   length of the name
    32  hash of the transcript     n   name of the hospital, UTF-8
    1   bits of the ring           64  Ed25519 signature
    8   coordinates                    coordinates * bits / 8 of payload

Numbers of the header are big-endian. The signature covers the hash of the transcript, the name, the ring, the number
of coordinates and the SHA-256 of the payload.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field
from wardround.secure_aggregation.identity import Identity
from wardround.secure_aggregation.masks import check_coordinates
from wardround.secure_aggregation.pins import verify
from wardround.secure_aggregation.ring import Residues, Ring
from wardround.secure_aggregation.transcript import Transcript

_PURPOSE = "wardround/v1/upload"
_FORMAT = b"wrmask\x00\x01"
_HEADER = struct.Struct(">8s32sBQH")
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, eq=False)
class Upload:
    """What a hospital sends.

    Attributes:
        hospital: its name.
        transcript: hash of the transcript that the masks are bound to, 32 bytes.
        ring: that the residues are in.
        residues: the masked vector and its check coordinates, (coordinate,).
        signature: 64 bytes.
    """

    hospital: str
    transcript: bytes
    ring: Ring
    residues: Residues
    signature: bytes

    @classmethod
    def signed(cls, residues: Residues, transcript: Transcript, identity: Identity) -> "Upload":
        """The upload of a masked vector (`Masks.hide`). Charge the ledger before it leaves the hospital."""
        ring = transcript.terms.ring
        if residues.shape != (num_coordinates(transcript),) or residues.dtype != ring.dtype:
            raise ValueError(f"residues must be a masked vector of the transcript, got {residues.shape}")
        unsigned = cls(identity.hospital, transcript.digest, ring, residues, b"")
        return cls(*unsigned._head, residues, identity.key.sign(_PURPOSE, *unsigned._signed_fields))

    @property
    def _head(self) -> tuple[str, bytes, Ring]:
        return self.hospital, self.transcript, self.ring

    @property
    def _signed_fields(self) -> tuple[Field, ...]:
        payload = hashlib.sha256(np.ascontiguousarray(self.residues).data).digest()
        return self.transcript, self.hospital, int(self.ring), self.residues.size, payload

    def check(self, transcript: Transcript) -> None:
        """Refuses an upload that is not of a hospital of this transcript, whole and signed.

        Raises:
            FederationError: the hospital takes no part, the signature does not hold, or the masks are bound to another
                transcript, ring or length.
        """
        member = transcript.member(self.hospital)
        if not verify(member.identity, self.signature, _PURPOSE, *self._signed_fields):
            raise FederationError(
                f"The upload of {self.hospital} must carry its signature, and does not; it was changed on the way. Ask "
                "for the same bytes again, or begin a new attempt."
            )
        if self.transcript != transcript.digest:
            raise FederationError(
                f"The upload of {self.hospital} must be masked for this round, and is for another transcript: another "
                "round or attempt, or it was told something else. Begin a new attempt."
            )
        if self.ring != transcript.terms.ring or self.residues.size != num_coordinates(transcript):
            raise FederationError(
                f"The upload of {self.hospital} must have {num_coordinates(transcript)} coordinates of "
                f"{transcript.terms.ring} bits, got {self.residues.size} of {self.ring}. Begin a new attempt."
            )

    def to_bytes(self) -> bytes:
        """The bytes that are sent."""
        name = self.hospital.encode()
        head = _HEADER.pack(_FORMAT, self.transcript, self.ring, self.residues.size, len(name))
        return b"".join((head, name, self.signature, np.ascontiguousarray(self.residues).data))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Upload":
        """What was sent; nothing of it has been checked but its form (`check`). The residues share the bytes.

        Raises:
            FederationError: these are not the bytes of an upload, or not all of them.
        """
        try:
            form, transcript, bits, coordinates, name_bytes = _HEADER.unpack_from(content)
            ring, start = Ring(bits), _HEADER.size + name_bytes + _SIGNATURE_BYTES
            name = content[_HEADER.size : _HEADER.size + name_bytes].decode()
            if form != _FORMAT or len(content) != start + coordinates * ring.num_bytes:
                raise ValueError
        except (struct.error, ValueError):
            raise FederationError(
                f"An upload must be whole and in the format that this version sends, got {len(content)} bytes that are "
                "not; ask for the same bytes again."
            ) from None
        residues = np.frombuffer(content, ring.dtype, offset=start)
        return cls(name, transcript, ring, residues, content[start - _SIGNATURE_BYTES : start])


def num_coordinates(transcript: Transcript) -> int:
    """Coordinates of an upload: those of the vector, and the check."""
    return transcript.terms.length + check_coordinates(transcript.terms.ring)


def upload_bytes(transcript: Transcript, hospital: str) -> int:
    """Size of the upload of a hospital, header and all."""
    payload = num_coordinates(transcript) * transcript.terms.ring.num_bytes
    return _HEADER.size + len(hospital.encode()) + _SIGNATURE_BYTES + payload
