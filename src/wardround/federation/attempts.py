"""An attempt at a masked round that every hospital has confirmed, as a coordinator notes it before it asks for uploads.

A hospital that has uploaded sends the same bytes when it is asked the same, at no charge. So a coordinator that was
ended in between asks again with the noted attempt, and the round costs no further one. All of it is signed and public.
"""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from wardround.errors import FederationError
from wardround.secure_aggregation.round.cohort import transcript_of
from wardround.secure_aggregation.round.confirmation import Agreed, Confirmation
from wardround.secure_aggregation.round.round_key import Announcement
from wardround.secure_aggregation.round.transcript import Terms
from wardround.types import HospitalName


@dataclass(frozen=True)
class Confirmed:
    """An attempt that is ready for its uploads.

    Attributes:
        round: of the study; 0 where patients are counted.
        number: of the request, from 1 in each process.
        attempt: ascends over interruptions as well.
        names: of the hospitals in it.
        announcements: of them, in this order.
        confirmations: of them, in this order.
    """

    round: int
    number: int
    attempt: int
    names: tuple[HospitalName, ...]
    announcements: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]

    def is_of(self, terms: Terms) -> bool:
        """Returns whether all hospitals in it confirmed these terms: of this round, from these weights."""
        try:
            members = [Announcement.from_bytes(each).member for each in self.announcements]
            told = tuple(Confirmation.from_bytes(each) for each in self.confirmations)
            Agreed(transcript_of(terms, members), told)
        except FederationError:
            return False
        return sorted(self.names) == sorted(member.hospital for member in members)

    def to_json(self) -> dict[str, object]:
        """Returns the attempt as a JSON object."""
        said = {name: [each.hex() for each in getattr(self, name)] for name in ("announcements", "confirmations")}
        return asdict(self) | said

    @classmethod
    def from_json(cls, said: Any) -> "Confirmed":
        """Returns the attempt that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        announcements, confirmations = (
            tuple(bytes.fromhex(each) for each in said[name]) for name in ("announcements", "confirmations")
        )
        names = tuple(HospitalName(str(name)) for name in said["names"])
        number, attempt = int(said["number"]), int(said["attempt"])
        return cls(int(said["round"]), number, attempt, names, announcements, confirmations)


class AttemptNotes(Protocol):
    """The memory of the last attempt. Contract: it is whole on disk when `note` returns, or it is the one before."""

    def last(self) -> Confirmed | None:
        """Returns the last attempt that was noted; None where none was, or it cannot be read."""

    def note(self, confirmed: Confirmed) -> None:
        """Notes an attempt in place of the one before."""


class NoNotes:
    """Notes nothing: of hospitals in this process no attempt outlives the process."""

    def last(self) -> None:
        """See `AttemptNotes`."""

    def note(self, confirmed: Confirmed) -> None:
        """See `AttemptNotes`."""
