"""The coordinator's notes of the masked attempt under way, in the folder of its run.

    RUN/attempt.json    from the first request for uploads to the end of the run

Released: nothing; all of it was signed by hospitals, and is public among the parties.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from wardround.boundary.documents import MOST_JSON_BYTES, Unfit, parse_json, read_regular
from wardround.federation.attempts import Confirmed
from wardround.records.writing import write_whole


@dataclass(frozen=True)
class AttemptFile:
    """The notes in a run's folder; see `AttemptNotes`."""

    path: Path

    @classmethod
    def of(cls, run: Path) -> "AttemptFile":
        """Returns the notes of a run."""
        return cls(run / "attempt.json")

    def last(self) -> Confirmed | None:
        """See `AttemptNotes`."""
        try:
            return Confirmed.from_json(parse_json(read_regular(self.path, MOST_JSON_BYTES)))
        except (OSError, Unfit, KeyError, TypeError, ValueError):
            return None  # hospitals then begin a further attempt

    def note(self, confirmed: Confirmed) -> None:
        """See `AttemptNotes`."""
        write_whole(self.path, (json.dumps(confirmed.to_json()) + "\n").encode())

    def remove(self) -> None:
        """Ends the notes with the run."""
        self.path.unlink(missing_ok=True)
