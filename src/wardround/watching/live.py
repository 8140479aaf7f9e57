"""The coordinator's notes of a run that goes on: who was asked, who answered, who is away, and since when.

    RUN.live/    status.json   log.jsonl    beside the run's folder, 0700 and 0600

Beside it, because seconds follow the secret size of a sample: they are the coordinator's to see, who can time answers
anyway, and no part of the record, which may be handed on. None of it names a patient.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from wardround.boundary.private import make_private_folder, open_private, write_whole
from wardround.errors import MachineError
from wardround.federation.messages import Failure, FailureCode, Reply, Request
from wardround.types import HospitalName

STATUS, LOG = "status.json", "log.jsonl"


def live_folder(run: Path) -> Path:
    """Returns the folder of the notes on a run."""
    run = run.absolute()  # "." has no name
    return run.with_name(f"{run.name}.live")


@dataclass
class Contact:
    """One hospital, as the coordinator last saw it.

    Attributes:
        state: "waiting" before the first request, "asked", "computing", "answered", "away" or "failed".
        since: UTC, of that state.
        seen: UTC, when it was last heard; empty before.
        code: of a failure, or "gone" while it cannot be reached; else empty.
        work: that it was asked for last.
        round: of it.
        answers: given so far.
        losses: connections that were lost.
        seconds: that it was waited for, over all answers.
    """

    state: str = "waiting"
    since: str = ""
    seen: str = ""
    code: str = ""
    work: str = ""
    round: int = 0
    answers: int = 0
    losses: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0


@dataclass
class Status:
    """A run as its coordinator sees it; `seconds` are by work, of the hospital that took longest in each exchange."""

    study: str
    digest: str
    rounds: int
    began: str
    updated: str = ""
    stage: str = ""
    round: int = 0
    is_over: bool = False
    hospitals: dict[str, Contact] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Live:
    """Writes the notes: an `Observer` of the run, and the `Watcher` of its channel.

    Args:
        run: folder of the run.
        study: name of the study.
        digest: of the study.
        rounds: of the study.
        hospitals: of the study, in order.
    """

    def __init__(
        self, run: Path, study: str, digest: str, rounds: int, hospitals: tuple[HospitalName, ...]
    ) -> None:
        self._folder = live_folder(run)
        with suppress(OSError, MachineError):  # a folder that cannot be made is the run's to explain
            make_private_folder(self._folder)
        now = _now()
        contacts = {str(name): Contact(since=now) for name in hospitals}
        self._status = Status(study, digest, rounds, now, hospitals=contacts)
        self._write("begun")

    def stage(self, text: str) -> None:
        """See `Observer`."""
        self._status.stage = text
        self._write("stage", text=text)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        del total, detail
        self._status.round = done
        self._write("round", round=done)

    def asked(self, hospital: HospitalName, request: Request, num_bytes: int) -> None:
        """See `Watcher`."""
        contact = self._status.hospitals[hospital]
        contact.state, contact.since, contact.code = "asked", _now(), ""
        contact.work, contact.round = request.work.name, request.round
        contact.bytes_sent += num_bytes
        self._write("asked", hospital=hospital, work=contact.work, round=contact.round, bytes=num_bytes)

    def working(self, hospital: HospitalName) -> None:
        """See `Watcher`."""
        contact = self._status.hospitals[hospital]
        before, contact.seen = contact.seen, _now()
        if contact.state == "computing":
            if before[:_TO_SECONDS] != contact.seen[:_TO_SECONDS]:  # any number of signs may come in a second
                self._write_status()
            return
        contact.state, contact.since = "computing", contact.seen
        self._write(contact.state, hospital=hospital, work=contact.work, round=contact.round)

    def away(self, hospital: HospitalName) -> None:
        """See `Watcher`."""
        contact = self._status.hospitals[hospital]
        if contact.state == "away":
            return
        contact.state, contact.since, contact.code = "away", _now(), FailureCode.GONE.value
        contact.losses += 1
        self._write("away", hospital=hospital, work=contact.work, round=contact.round, code=contact.code)

    def ended(self, hospital: HospitalName, outcome: Reply | Failure, num_bytes: int, seconds: float) -> None:
        """See `Watcher`."""
        contact = self._status.hospitals[hospital]
        failed = isinstance(outcome, Failure)
        contact.state, contact.since = "failed" if failed else "answered", _now()
        contact.code = outcome.code.value if isinstance(outcome, Failure) else ""
        if not failed:
            contact.seen = contact.since
        contact.answers += not failed
        contact.bytes_received, contact.seconds = contact.bytes_received + num_bytes, contact.seconds + seconds
        self._write(
            contact.state, hospital=hospital, work=contact.work, round=contact.round, code=contact.code,
            bytes=num_bytes, seconds=round(seconds, 3),
        )  # fmt: skip

    def exchanged(self, work: str, seconds: float) -> None:
        """See `Watcher`."""
        self._status.seconds[work] = self._status.seconds.get(work, 0.0) + seconds

    def close(self) -> None:
        """Writes that the program has ended."""
        self._status.is_over = True
        self._write("ended")

    def _write(self, event: str, **fields: object) -> None:
        self._status.updated = at = _now()
        line = json.dumps(
            {"at": at, "event": event, **{key: value for key, value in fields.items() if value != ""}}
        )
        with suppress(OSError, MachineError):  # a full disk must not end the run for its notes
            with os.fdopen(open_private(self._folder / LOG, os.O_WRONLY | os.O_APPEND), "w") as log:
                log.write(line + "\n")
            self._write_status()

    def _write_status(self) -> None:
        with suppress(OSError, MachineError):
            write_whole(self._folder / STATUS, json.dumps(asdict(self._status)).encode(), durable=False)


_TO_SECONDS = len("2000-01-01T00:00:00")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
