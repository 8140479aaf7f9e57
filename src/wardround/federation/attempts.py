"""An attempt at a masked round that every hospital has confirmed, as a coordinator notes it before it asks for uploads.

A hospital that has uploaded sends the same bytes when it is asked the same, at no charge. So a coordinator that was
ended in between asks again with the noted attempt, and the round costs no further one. All of it is signed and public.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from wardround.boundary.documents import Unfit, load_json
from wardround.boundary.private import write_whole
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


@dataclass(frozen=True)
class AttemptNotes:
    """The coordinator's memory of the last attempt, from the first request for uploads to the end of a run.

    Released: nothing.

    Attributes:
        path: of the file, which is whole on disk when `note` returns, or is the one before; None notes nothing: of
            hospitals in this process no attempt outlives the process.
    """

    path: Path | None = None

    @classmethod
    def of(cls, run: Path) -> "AttemptNotes":
        """Returns the notes in the folder of a run."""
        return cls(run / "attempt.json")

    def last(self) -> Confirmed | None:
        """Returns the last attempt that was noted; None where none was, or it cannot be read."""
        if self.path is None:
            return None
        try:
            return Confirmed.from_json(load_json(self.path))
        except (OSError, Unfit, KeyError, TypeError, ValueError):
            return None  # hospitals then begin a further attempt

    def note(self, confirmed: Confirmed) -> None:
        """Notes an attempt in place of the one before."""
        if self.path is not None:
            write_whole(self.path, (json.dumps(confirmed.to_json()) + "\n").encode())

    def remove(self) -> None:
        """Ends the notes with the run."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


NO_NOTES: Final = AttemptNotes()
