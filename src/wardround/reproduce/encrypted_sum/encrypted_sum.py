"""The sum of a round's encrypted uploads, which the coordinator and every hospital form for themselves."""

from typing import Any

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import MOST_CIPHERTEXT_BYTES, Bfv, num_blocks
from wardround.reproduce.encrypted_sum.joint_key import JointKey, unreadable
from wardround.reproduce.encrypted_sum.signed_parts import Kind, SignedParts
from wardround.secure_aggregation.canonical import digest
from wardround.secure_aggregation.round.transcript import Transcript

CHECK_NUMBERS = 4
"""Zeros encrypted behind every vector. In the sum they are zeros again if all secrets belong to the key: 160 bits."""


class EncryptedSum:
    """Adds encrypted uploads up as they arrive, each checked before it is added; it can open nothing.

    Args:
        transcript: of the attempt.
        key: that they must be encrypted under.
        bfv: the scheme.
    """

    def __init__(self, transcript: Transcript, key: JointKey, bfv: Bfv) -> None:
        self._transcript, self._key, self._bfv = transcript, key, bfv
        self._digests: dict[str, bytes] = {}
        self._blocks: list[Any] = []

    @property
    def missing(self) -> tuple[str, ...]:
        """As under masks."""
        names = (member.hospital for member in self._transcript.members)
        return tuple(name for name in names if name not in self._digests)

    def add(self, content: bytes) -> None:
        """As under masks."""
        upload = SignedParts.from_bytes(
            content, Kind.UPLOAD, num_ciphertexts(self._transcript), MOST_CIPHERTEXT_BYTES
        )
        upload.check(self._transcript, self._key.digest)
        if upload.hospital in self._digests:
            raise FederationError(f"{upload.hospital} must upload once, and did twice; the second was not added.")
        try:
            self._blocks = self._bfv.added(self._blocks, upload.parts)
        except ValueError:
            raise unreadable(upload) from None
        self._digests[upload.hospital] = upload.digest

    def digest_of(self, hospital: str) -> bytes | None:
        """Hash of a hospital's upload; None before it has come."""
        return self._digests.get(hospital)

    def whole(self) -> tuple[list[Any], bytes]:
        """The sum's ciphertexts and the hash of what was added.

        Raises:
            FederationError: an upload is missing.
        """
        if self.missing:
            raise FederationError(
                f"Every hospital of an attempt must upload, and {', '.join(self.missing)} did not; nothing can be "
                "opened. Begin a new attempt with the others, with new keys and new noise."
            )
        added = [self._digests[member.hospital] for member in self._transcript.members]
        return self._blocks, digest("wardround/v1/uploads", self._key.digest, added)


def num_ciphertexts(transcript: Transcript) -> int:
    """Ciphertexts of an upload: those of the vector and of the check."""
    return num_blocks(transcript.terms.length + CHECK_NUMBERS)
