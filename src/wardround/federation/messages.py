"""What travels between the coordinator and a hospital, and nothing else does.

A request carries a model; a reply carries an update and the event it was charged as. A failure is a code and
a stage: never a path, an id or a sentence, because those may say something about a patient. The hospital's own
log has the rest.
"""

from dataclasses import dataclass
from enum import StrEnum

from wardround.accounting.events import Event
from wardround.types import HeadFit, HospitalName, LocalSteps, Selection, Vector


class Task(StrEnum):
    """What a hospital may be asked to do."""

    COUNT = "count"
    """The number of its patients, noised."""
    CLASS_COUNTS = "class-counts"
    """The number of its patients by class, noised."""
    GRADIENT_SUM = "gradient-sum"
    """The sum of its sampled patients' clipped gradients, with the hospital's noise."""
    LOCAL_STEPS = "local-steps"
    """The change of the model over several private steps of its own."""
    SELECTIVE = "selective"
    """Some of the changes of its own replica over several steps."""
    FIT_HEAD = "fit-head"
    """The weights of a linear head, fitted to the end and noised."""


class FailureCode(StrEnum):
    """Why a hospital did not answer."""

    REFUSED_BUDGET = "refused-budget"
    REFUSED_POLICY = "refused-policy"
    LEDGER = "ledger"
    DATA = "data"
    INTERNAL = "internal"
    NO_ANSWER = "no-answer"


class Stage(StrEnum):
    """Where in answering it stopped."""

    ADMISSION = "admission"
    TRAINING = "training"
    TRANSPORT = "transport"


@dataclass(frozen=True)
class Request:
    """One question to one hospital.

    Attributes:
        task: what is asked.
        study: digest of the study file; a hospital answers only for the study it agreed to.
        round: from 1; 0 is the count before the first round.
        attempt: from 1; a repeated attempt of an unseeded run is a new release, and is charged as one.
        weights: the model to start from, (parameter,), or the part that `selection` names; None for counts.
        local: settings of local steps, for tasks that take them.
        clipping_norm: this round's clipping norm, where the plan lets it adapt.
        selection: which parameters are exchanged, for `Task.SELECTIVE` alone.
        fit: the objective, for `Task.FIT_HEAD` alone.
    """

    task: Task
    study: str
    round: int
    attempt: int
    weights: Vector | None = None
    local: LocalSteps | None = None
    clipping_norm: float | None = None
    selection: Selection | None = None
    fit: HeadFit | None = None


@dataclass(frozen=True)
class Reply:
    """What leaves a hospital.

    Attributes:
        update: (parameter,) or, for a count, (1,). Noised as the plan says.
        event: what the hospital's ledger was charged for it.
        velocity: of the heavy ball after local steps, (parameter,), where the request asks for it; computed from
            the same noised sums as the update.
    """

    update: Vector
    event: Event
    velocity: Vector | None = None


@dataclass(frozen=True)
class Failure:
    """A question without an answer."""

    code: FailureCode
    stage: Stage


Requests = dict[HospitalName, Request]
Replies = dict[HospitalName, Reply]
Failures = dict[HospitalName, Failure]


@dataclass(frozen=True)
class Total:
    """The sum of several hospitals' updates, of which no single one can be seen.

    Attributes:
        update: (parameter,), noised as the plan says; None where nobody answered.
        events: what the ledger of each hospital in the sum was charged.
        failures: the hospitals that are not in it.
    """

    update: Vector | None
    events: dict[HospitalName, Event]
    failures: Failures
