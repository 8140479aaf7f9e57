"""Before anything is sent: every hospital signs the hash of what it was told, and compares it with all the others.

The masks need no such comparison, for hospitals that disagree produce a sum that is noise. It finds the
disagreement while it still costs nothing: no upload has left, and nothing was charged to a ledger.
"""

from dataclasses import dataclass

from wardround.errors import FederationError
from wardround.secure_aggregation.keys.identity import Identity, check_name
from wardround.secure_aggregation.keys.pins import verify
from wardround.secure_aggregation.round.transcript import Transcript
from wardround.secure_aggregation.round.wire import from_wire, malformed, to_wire

_PURPOSE = "wardround/v1/confirmation"
_FORMAT = b"wrconf\x00\x01"

MOST_BYTES = 1 << 10
"""The size of a confirmation."""


@dataclass(frozen=True)
class Confirmation:
    """A hospital's signature over the hash of its transcript."""

    hospital: str
    transcript: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Returns the bytes that are sent."""
        return to_wire(_FORMAT, (self.hospital, self.transcript, self.signature))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Confirmation":
        """Returns the confirmation of these bytes, checked for its form only (`Agreed`).

        Raises:
            FederationError: these are not the bytes of a confirmation, or not all of them.
        """
        match from_wire(content, _FORMAT, MOST_BYTES, "A confirmation"):
            case (str(hospital), bytes(transcript), bytes(signature)) if (
                len(transcript) == 32 and len(signature) == 64
            ):
                check_name(hospital)
                return cls(hospital, transcript, signature)
        raise malformed("A confirmation")


def confirm(transcript: Transcript, identity: Identity) -> Confirmation:
    """Returns this hospital's confirmation: the hash of its transcript, signed."""
    signature = identity.key.sign(_PURPOSE, transcript.digest, identity.hospital)
    return Confirmation(identity.hospital, transcript.digest, signature)


@dataclass(frozen=True)
class Agreed:
    """A transcript that every hospital in it has confirmed; there is no other.

    Making one is checking it, so that what asks for it, masks and uploads, cannot be had before all have confirmed.

    Raises:
        FederationError: one is missing or stands twice, a signature does not hold, or a hospital was told something
            else.
    """

    transcript: Transcript
    confirmations: tuple[Confirmation, ...]

    def __post_init__(self) -> None:
        """Checks them."""
        found = sorted(confirmation.hospital for confirmation in self.confirmations)
        expected = [member.hospital for member in self.transcript.members]
        if found != expected:
            raise FederationError(
                f"Every hospital of the round must confirm it once ({', '.join(expected)}), got "
                f"{', '.join(found) or 'none'}; nothing is sent. Begin a new attempt."
            )
        for confirmation in self.confirmations:
            identity = self.transcript.member(confirmation.hospital).identity
            signed = confirmation.transcript, confirmation.hospital
            if not verify(identity, confirmation.signature, _PURPOSE, *signed):
                raise FederationError(
                    f"The confirmation of {confirmation.hospital} must carry its signature, and does not; nothing is "
                    "sent."
                )
            if confirmation.transcript != self.transcript.digest:
                raise FederationError(
                    f"{confirmation.hospital} must have been told the same as this hospital, and was told something "
                    "else of the model, the mechanism or the cohort; nothing is sent. Compare the terms by telephone."
                )
