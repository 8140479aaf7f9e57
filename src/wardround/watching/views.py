"""Views of a run that goes on, read from files: the coordinator's from its notes, a hospital's from its own folder.

For the screen of the party whose files they are. A hospital's view has what a study was charged and may be charged,
which is the same for every patient in it, and no figure of single persons.
"""

import math
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from wardround import __version__
from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import event_of_leaves, sorted_leaves
from wardround.accounting.numbers import number_to_json
from wardround.agreed.plans import plan_of
from wardround.boundary.documents import Unfit, load_json, parse_json
from wardround.config import read_study
from wardround.config.site import read_site
from wardround.errors import RecordError
from wardround.hospital.accepted import accepted_digests, read_accepted
from wardround.ledger.file import LedgerFile
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_lines
from wardround.records.signer import HISTORY
from wardround.watching.live import STATUS, live_folder

SLOW_S = 30.0
"""Seconds without a sign of a hospital that was asked, after which it is shown as slow; others are seen to be away."""

_TAIL_BYTES = 4 << 20  # of an agent's log


@dataclass(frozen=True)
class HospitalSeen:
    """A hospital as the coordinator sees it: a state with its code, the seconds in it, and what was exchanged.

    Attributes:
        seconds_unseen: since it was last heard: an answer, or a sign of life while it computes; None before the first.
    """

    name: str
    state: str
    code: str
    seconds_in_state: float
    seconds_unseen: float | None
    work: str
    round: int
    answers: int
    losses: int
    bytes_sent: int
    bytes_received: int
    seconds: float


@dataclass(frozen=True)
class CoordinatorView:
    """A run as its coordinator sees it.

    Attributes:
        epsilon_spent: up to `spent_round`, as last recorded; None before.
        spent_round: the round of that record, 0 before; later rounds have spent more.
        epsilon: of the whole study; infinity where nothing is promised.
        delta: at which both hold.
        seconds_by_work: of exchanges, waited for.
    """

    study: str
    stage: str
    round: int
    rounds: int
    is_over: bool
    epsilon_spent: float | None
    spent_round: int
    epsilon: float
    delta: float
    hospitals: tuple[HospitalSeen, ...]
    seconds_by_work: dict[str, float]


@dataclass(frozen=True)
class StudySeen:
    """A study as a hospital sees it: what its run was charged here, and may be charged at most."""

    name: str
    digest: str
    epsilon_spent: float
    epsilon_most: float
    delta: float
    has_own_figures: bool


@dataclass(frozen=True)
class HospitalView:
    """A hospital's agent, from its folder.

    Attributes:
        is_running: an agent listens at the folder's socket.
        last: UTC of its last answer; empty before.
        seconds_by_work: of answers in the last part of the log, as is `bytes_in` and the others.
        refusals: answers in it that were failures.
    """

    hospital: str
    is_running: bool
    last: str
    round: int
    studies: tuple[StudySeen, ...]
    answers: int
    refusals: int
    bytes_in: int
    bytes_out: int
    seconds_by_work: dict[str, float]


@dataclass(frozen=True)
class RunView:
    """A simulated run, as the person at this machine sees it.

    Attributes:
        stage: the part of the work; `done` of its `total` steps, which is 0 where it has none.
        round: the last one in the record.
        epsilon_spent: up to `spent_round`, as last recorded; None before.
        spent_round: the round of that record, 0 before; later rounds have spent more.
        epsilon: of the whole study; infinity where nothing is promised.
        delta: at which both hold.
        figures: titles and values of metrics, as last recorded; released without protection.
        curve: rounds and values of the first of these figures, as far as they are recorded.
        measured_on: their patients, "test" or "validation".
        hospitals: that are asked.
        missing: those who gave nothing in that round.
        seconds_left: of the stage, at its pace so far; None where that is not known.
    """

    study: str
    stage: str
    done: int
    total: int
    round: int
    rounds: int
    epsilon_spent: float | None
    spent_round: int
    epsilon: float
    delta: float
    figures: tuple[tuple[str, float], ...]
    curve: tuple[tuple[int, float], ...]
    measured_on: str
    hospitals: int
    missing: tuple[str, ...]
    seconds_left: float | None


View = CoordinatorView | HospitalView | RunView


def spent_by(lines: Sequence[dict[str, object]]) -> tuple[int, float | None]:
    """Returns the last round whose epsilon is in the history, and that epsilon; 0 and None before.

    Raises:
        RecordError: the line is damaged.
    """
    found = [JsonObject(line, HISTORY) for line in lines if "epsilon" in line]
    return (found[-1].integer("round"), found[-1].number("epsilon")) if found else (0, None)


def json_of(view: View) -> dict[str, object]:
    """Returns a view as a JSON object."""
    kind = type(view).__name__.removesuffix("View").lower()
    promised = {} if isinstance(view, HospitalView) else {"epsilon": number_to_json(view.epsilon)}
    return asdict(view) | {"view": kind, **promised}


def view_of(path: Path) -> View:
    """Returns the view of a hospital's folder, or of a run's.

    Raises:
        RecordError: the folder is neither.
    """
    if (path / "site.toml").is_file():
        return hospital_view(path)
    if (live_folder(path) / STATUS).is_file():
        return coordinator_view(path)
    raise RecordError(
        f"`wardround status` must have a hospital's folder or the --out of wardround coordinate, got {path}, which is "
        "neither. Correct the path.",
        code="record-no-status",
    )


def coordinator_view(run: Path) -> CoordinatorView:
    """Returns a run as its coordinator sees it.

    Raises:
        RecordError: the notes cannot be read.
    """
    path = live_folder(run) / STATUS
    try:
        found = load_json(path)
        if not isinstance(found, dict):
            raise Unfit(f"it holds no JSON object but {type(found).__name__}")
    except (OSError, Unfit) as error:
        raise RecordError(f"{path} must be readable ({error}); start the coordinator again.") from None
    notes, now, epsilon, delta = JsonObject(found, str(path)), datetime.now(UTC), math.inf, 0.0
    spent_round, spent = 0, None
    if (run / "study.toml").is_file():
        plan = plan_of(read_study(run / "study.toml"))
        epsilon, delta = plan.epsilon, plan.delta
        spent_round, spent = spent_by(read_lines(run / HISTORY))
    hospitals = notes.named_objects("hospitals")
    seconds = notes.section("seconds")
    return CoordinatorView(
        study=notes.text("study"),
        stage=notes.text("stage"),
        round=notes.integer("round"),
        rounds=notes.integer("rounds"),
        is_over=notes.flag("is_over"),
        epsilon_spent=spent,
        spent_round=spent_round,
        epsilon=epsilon,
        delta=delta,
        hospitals=tuple(_seen(name, row, now) for name, row in hospitals.items()),
        seconds_by_work={work: seconds.number(work) for work in seconds.values},
    )


def hospital_view(home: Path) -> HospitalView:
    """Returns a hospital's agent and studies, from its own folder; charges and changes nothing.

    Raises:
        WardroundError: a file of the folder does not hold.
    """
    name, studies = str(read_site(home / "site.toml").hospital.name), []
    for digest in accepted_digests(home):
        study = read_accepted(home, digest)
        spent, most, delta = _charged(home, digest)
        own = (home / "evaluation" / f"{digest}.json").is_file()
        studies.append(StudySeen(study.study.name, digest, spent, most, delta, own))
    answered = _answered(home / "agent.log")
    seconds: dict[str, float] = {}
    for line in answered:
        work = line.text("work")
        seconds[work] = seconds.get(work, 0.0) + line.number("seconds")
    return HospitalView(
        hospital=name,
        is_running=_answers(home / "agent.sock"),
        last=answered[-1].text("at") if answered else "",
        round=answered[-1].integer("round") if answered else 0,
        studies=tuple(studies),
        answers=len(answered),
        refusals=sum(line.text("code", "") != "" for line in answered),
        bytes_in=sum(line.integer("bytes_in") for line in answered),
        bytes_out=sum(line.integer("bytes_out") for line in answered),
        seconds_by_work=seconds,
    )


def _seen(name: str, row: JsonObject, now: datetime) -> HospitalSeen:
    state, seen = row.text("state"), row.text("seen")
    lasted = _seconds_since(row.text("since"), now)
    unseen = _seconds_since(seen, now) if seen else None
    is_slow = state in ("asked", "computing") and min(lasted, lasted if unseen is None else unseen) > SLOW_S
    return HospitalSeen(
        name=name,
        state="slow" if is_slow else state,
        code="slow" if is_slow else row.text("code"),
        seconds_in_state=lasted,
        seconds_unseen=unseen,
        work=row.text("work"),
        seconds=row.number("seconds"),
        **{key: row.integer(key) for key in ("round", "answers", "losses", "bytes_sent", "bytes_received")},
    )


def _seconds_since(at: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(at)).total_seconds())


def _charged(home: Path, digest: str) -> tuple[float, float, float]:
    """Returns epsilon charged to a study here, the most that it may be, and delta: of its account with the most."""
    path = home / "ledger.sqlite"
    if not path.is_file():
        return 0.0, 0.0, 0.0
    with LedgerFile(path, version=__version__, copied=True) as ledger:
        parts = [part for part in ledger.book().parts.values() if part.begun.study == digest]
    spent = [
        epsilon_of(event_of_leaves(sorted_leaves(part.counts)), part.begun.delta, part.begun.accountant)
        for part in parts
    ]
    # No person is in two accounts of a study: training and test patients have one each.
    most = [part.begun.epsilon for part in parts]
    return max(spent, default=0.0), max(most, default=0.0), max((part.begun.delta for part in parts), default=0.0)


def _answered(log: Path) -> list[JsonObject]:
    """Returns the lines of answers in the last part of an agent's log."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        texts = file.read().split(b"\n")[size > _TAIL_BYTES :]
    lines = []
    for text in texts:
        try:
            line = parse_json(text.decode("utf-8", "replace"))
        except Unfit:
            continue
        if isinstance(line, dict) and line.get("event") == "answered":
            lines.append(JsonObject(line, str(log)))
    return lines


def _answers(path: Path) -> bool:
    """Returns whether a program listens at a socket; one that was killed has left the file behind."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True
