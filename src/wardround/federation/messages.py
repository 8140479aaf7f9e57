"""The messages between the coordinator and a hospital; nothing else is sent.

A request carries work; a reply carries what the work asks for and the event it was charged as. A failure is a code and
a stage: never a path, an id or a sentence, because those may say something about a patient. The hospital's own log has
the rest. `wardround.federation.wire` has the bytes of each.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from wardround.accounting.events import Event
from wardround.accounting.numbers import number_to_json
from wardround.types import HospitalName, Vector
from wardround.work import Work


class FailureCode(StrEnum):
    """The reason for which a hospital did not answer."""

    REFUSED_BUDGET = "refused-budget"
    REFUSED_POLICY = "refused-policy"
    REFUSED_ATTEMPT = "refused-attempt"
    """The attempt was asked for with other content, a later one was, or it is not under way: begin a new one."""
    REFUSED_SPARE = "refused-spare"
    """A further attempt at a round, and the study pays for no more of them."""
    LEDGER = "ledger"
    PROTOCOL = "protocol"
    """Another party does not keep to the protocol: the run ends."""
    DATA = "data"
    INTERNAL = "internal"
    NO_ANSWER = "no-answer"
    REFUSED_STUDY = "refused-study"
    """The hospital has not accepted this study, or cannot be opened for it."""
    REFUSED_COORDINATOR = "refused-coordinator"
    """The request is signed with a key that the hospital has not pinned, or that its policy leaves out."""
    REFUSED_SIGNATURE = "refused-signature"
    """A request or an answer was changed on the way, or is for or from another party."""
    REFUSED_REPLAY = "refused-replay"
    """The request was sent before another one that the hospital has answered."""
    QUIET_HOURS = "quiet-hours"
    """The hospital answers nothing at this time of its day; the failure says in how many seconds it does again."""
    REFUSED_FRAME = "refused-frame"
    """A message, or the reply to it, is none of this protocol or too long, or the hospital's socket is closed to us."""
    TIMEOUT = "timeout"
    """The hospital is connected, and did not answer by the deadline."""
    GONE = "gone"
    """The hospital cannot be reached."""


class Stage(StrEnum):
    """The part of an answer in which it stopped."""

    ADMISSION = "admission"
    TRAINING = "training"
    TRANSPORT = "transport"


@dataclass(frozen=True)
class Request:
    """One question to one hospital.

    Attributes:
        study: digest of the study file; a hospital answers only for the study it agreed to.
        round: from 1; 0 is before the first round.
        attempt: from 1, ascending within a round. A deployed hospital sends the answer to a repeated request again; a
            further attempt is a new release, and is charged as one.
    """

    study: str
    round: int
    attempt: int
    work: Work


@dataclass(frozen=True)
class Answer:
    """A noised vector.

    Attributes:
        update: (parameter,) or, for counts, (1,) or (class,). Noised as the plan says.
        event: what the hospital's ledger was charged for it.
        velocity: of the heavy ball after local steps, (parameter,), where the request asks for it; computed from
            the same noised sums as the update.
    """

    update: Vector = field(repr=False)
    event: Event
    velocity: Vector | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Signed:
    """An announcement or a confirmation of a masked attempt, signed, as `secure_aggregation` writes it."""

    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Uploaded:
    """A sum under masks, signed, as `secure_aggregation` writes it.

    The event is what the hospital's ledger was charged for it.
    """

    content: bytes = field(repr=False)
    event: Event


@dataclass(frozen=True)
class Received:
    """The opened sum was taken in, and all of the noise is in it."""


@dataclass(frozen=True)
class Hello:
    """A hospital as it is before the first round; none of it depends on a patient.

    Attributes:
        input_shape: (channel, *space) of a preprocessed picture.
        weights_sha256: hash of the initial weights of its network.
        threads: of a matrix product; another number may round differently.
        last_attempt: round and attempt of its last upload under masks, (0, 0) before the first.
    """

    study: str
    version: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    weights_sha256: str
    threads: int
    last_attempt: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Receipt:
    """The charges of a hospital's ledger for one study.

    Attributes:
        releases: noised releases of rounds that were charged for the study.
        counts: noised counts that were charged for the study.
        epsilon_spent: of all charges of this run, at `delta`; what its patients spent elsewhere is not said.
        delta: of the ledger.
        ledger_head: hash of the ledger's last entry, sealed where the receipt is signed (`hospital.known_ledgers`).
        evaluations: noised sums that test patients were charged for, beside the releases of the patients trained on;
            0 for a study that trains nobody, whose releases they are.
        evaluation_epsilon: of these charges, at `delta`.
        public_key: Ed25519, 32 bytes; empty where the hospital has no key.
        signature: over the canonical form of the other fields; empty where the hospital has no key.
    """

    study: str
    hospital: HospitalName
    releases: int
    counts: int
    epsilon_spent: float
    delta: float
    ledger_head: str
    evaluations: int = 0
    evaluation_epsilon: float = 0.0
    public_key: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)

    def to_json(self) -> dict[str, object]:
        """Returns the receipt as a JSON object, from which its signature can be checked."""
        keys = {"public_key": self.public_key.hex(), "signature": self.signature.hex()}
        spent = {name: number_to_json(getattr(self, name)) for name in ("epsilon_spent", "evaluation_epsilon")}
        return {**vars(self), **spent, **keys}


Reply: TypeAlias = Answer | Signed | Uploaded | Received | Hello | Receipt


@dataclass(frozen=True)
class Failure:
    """A question without an answer.

    Attributes:
        retry_s: seconds after which the same question may have one; 0 where that is not known.
    """

    code: FailureCode
    stage: Stage
    retry_s: int = 0

    def __str__(self) -> str:
        """Returns the failure in words."""
        again = f", ask again in {self.retry_s // 60 + 1} min" if self.retry_s else ""
        return f"{self.code} during {self.stage}{again}"

    @property
    def is_unreached(self) -> bool:
        """True if nothing says that the hospital heard the question, so that its log has nothing of it."""
        return self.code in (FailureCode.GONE, FailureCode.TIMEOUT)


UNREACHED = "See that its agent runs, and at the socket that was named; then give the same command again."
"""The next step after a failure that `is_unreached`."""

Requests = dict[HospitalName, Request]
Answers = dict[HospitalName, Answer]
Replies = dict[HospitalName, Reply]
Failures = dict[HospitalName, Failure]


@dataclass(frozen=True)
class Total:
    """The sum of several hospitals' updates, of which no single one need be seen.

    Attributes:
        update: (parameter,), noised as the plan says; None where no hospital answered.
        events: what the ledger of each hospital in the sum was charged.
        failures: the hospitals that are not in it.
    """

    update: Vector | None
    events: dict[HospitalName, Event]
    failures: Failures
