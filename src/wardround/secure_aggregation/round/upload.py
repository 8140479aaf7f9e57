"""A masked vector on its way: a short header with a signature, then the coordinates, packed.

    8   format and version         2   length of the name
    32  hash of the transcript     n   name of the hospital, UTF-8
    1   bits b of the ring         64  Ed25519 signature
    8   coordinates                    ceil(coordinates * b / 8) of payload (`packing`)

Numbers of the header are big-endian. The signature covers the hash of the transcript, the name, the ring, the number
of coordinates and the SHA-256 of the payload: the bytes that are sent, and nothing of the masked words that is not.
"""

import hashlib
import struct
from dataclasses import dataclass

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field
from wardround.secure_aggregation.integers.packing import check_packed, pack, packed_bytes, unpack
from wardround.secure_aggregation.integers.ring import Residues, Ring
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.pins import verify
from wardround.secure_aggregation.round.confirmation import Agreed
from wardround.secure_aggregation.round.masks import check_coordinates
from wardround.secure_aggregation.round.transcript import Transcript

_PURPOSE = "wardround/v1/upload"
_FORMAT = b"wrmask\x00\x01"
_HEADER = struct.Struct(">8s32sBQH")
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, eq=False)
class Upload:
    """The masked vector that a hospital sends.

    `transcript` is the hash of the transcript that the masks are bound to, 32 bytes; `coordinates` are those of the
    masked vector and its check, and `payload` their low b bits, packed.
    """

    hospital: str
    transcript: bytes
    ring: Ring
    coordinates: int
    payload: bytes | memoryview
    signature: bytes

    @classmethod
    def signed(cls, residues: Residues, agreed: Agreed, identity: Identity) -> "Upload":
        """Returns the upload of a masked vector (`Masks.hide`). Charge the ledger before it leaves the hospital."""
        transcript = agreed.transcript
        ring = transcript.terms.ring
        if residues.shape != (num_coordinates(transcript),) or residues.dtype != ring.dtype:
            raise ValueError(f"residues must be a masked vector of the transcript, got {residues.shape}")
        head = identity.hospital, transcript.digest, ring, residues.size, pack(residues, ring)
        return cls(*head, identity.key.sign(_PURPOSE, *cls(*head, b"")._signed_fields))

    @property
    def _signed_fields(self) -> tuple[Field, ...]:
        payload = hashlib.sha256(self.payload).digest()
        return self.transcript, self.hospital, self.ring.bits, self.coordinates, payload

    @property
    def residues(self) -> Residues:
        """The masked vector and its check coordinates, each below 2^b, (coordinate,).

        Raises:
            FederationError: the payload is not that many packed coordinates.
        """
        return unpack(self.payload, self.coordinates, self.ring)

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
        if self.ring != transcript.terms.ring or self.coordinates != num_coordinates(transcript):
            raise FederationError(
                f"The upload of {self.hospital} must have {num_coordinates(transcript)} coordinates of "
                f"{transcript.terms.ring.bits} bits, got {self.coordinates} of {self.ring.bits}. Begin a new attempt."
            )

    def to_bytes(self) -> bytes:
        """Returns the bytes that are sent."""
        name = self.hospital.encode()
        head = _HEADER.pack(_FORMAT, self.transcript, self.ring.bits, self.coordinates, len(name))
        return b"".join((head, name, self.signature, self.payload))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Upload":
        """Returns the upload of these bytes, checked for its form only (`check`). The payload shares the bytes.

        Raises:
            FederationError: these are not the bytes of an upload, or not all of them.
        """
        try:
            form, transcript, bits, coordinates, name_bytes = _HEADER.unpack_from(content)
            start = _HEADER.size + name_bytes + _SIGNATURE_BYTES
            name = content[_HEADER.size : _HEADER.size + name_bytes].decode()
            ring, payload = Ring(bits), memoryview(content)[start:]
            check_packed(payload, coordinates, ring)
            if form != _FORMAT:
                raise ValueError
        except (struct.error, ValueError, FederationError):
            raise FederationError(
                f"An upload must be whole and in the format that this version sends, got {len(content)} bytes that are "
                "not; ask for the same bytes again."
            ) from None
        return cls(name, transcript, ring, coordinates, payload, content[start - _SIGNATURE_BYTES : start])


def num_coordinates(transcript: Transcript) -> int:
    """Returns the coordinates of an upload: those of the vector, and the check."""
    return transcript.terms.length + check_coordinates(transcript.terms.ring)


def size_of_upload(length: int, ring: Ring, hospital: str) -> int:
    """Returns the bytes of an upload: ceil((length + ceil(128 / b)) b / 8), header, hospital's name and signature.

    >>> size_of_upload(1025, Ring(64), "hospital-1")
    8341
    """
    payload = packed_bytes(length + check_coordinates(ring), ring)
    return _HEADER.size + len(hospital.encode()) + _SIGNATURE_BYTES + payload
