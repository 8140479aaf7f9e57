"""A hospital's side of a round: it checks, charges its ledger, trains, and lets go of one reply.

What leaves: an update (a noised count, a clipped gradient sum with the hospital's part of the noise, or the
change of the model over noised steps) and the event it was charged as. When: only after the charge is on disk.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Event, NoEvent, SelfComposedEvent
from wardround.accounting.ledger import Ledger
from wardround.accounting.ledger_entry import GENESIS
from wardround.accounting.terms import Trust
from wardround.agent.correlated import CorrelatedRounds
from wardround.agent.memory import Memory
from wardround.agent.policy import COUNTS, Policy
from wardround.agent.selective import selective_update
from wardround.errors import BudgetExhausted, LedgerError, RecordError
from wardround.federation.messages import Failure, FailureCode, Failures, Reply, Request, Requests, Stage, Task
from wardround.privacy.clipping import ClippedSum
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.randomness import Randomness, Stream
from wardround.training.convex import fit_head
from wardround.training.local import class_of_patients, local_steps
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Sample, Workbench
from wardround.types import HospitalName, Vector

_log = logging.getLogger("wardround.agent")
_STEPPED = frozenset({Task.LOCAL_STEPS, Task.SELECTIVE})
Answers = dict[HospitalName, Reply | Failure]


@dataclass(frozen=True)
class Agent:
    """One hospital.

    Attributes:
        name: the hospital.
        patients: its training patients.
        plan: the privacy plan of the study it agreed to.
        policy: what it answers.
        ledger: its privacy ledger for these patients.
        randomness: where its sampling and noise come from.
        workbench: the network; simulated hospitals share one.
        memory: what it keeps for itself between rounds.
        num_classes: classes that patients are counted by.
    """

    name: HospitalName
    patients: TrainingPatients
    plan: PrivacyPlan
    policy: Policy
    ledger: Ledger
    randomness: Randomness
    workbench: Workbench
    memory: Memory = field(default_factory=Memory)
    num_classes: int = 2

    def agrees(self, request: Request, *, masked: bool = False) -> bool:
        """Whether this hospital agreed to what is asked, and its plan protects the answer; nothing is charged.

        `masked` says that the answer leaves under masks. A plan whose noise is shares on a grid covers no other.
        """
        return masked == (self.plan.shares is not None) and self.policy.allows(request) and self._fits(request)

    def admit(self, request: Request, *, masked: bool = False) -> Failure | None:
        """Check, then spend: None once the charge for this request is in the ledger, else why not."""
        try:
            if not self.agrees(request, masked=masked):
                return Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
            due = self._due(request)
            self.ledger.charge(
                due,
                study=request.study,
                release_id=f"{request.round}/{request.task}/{request.attempt}",
                purpose=request.task.value,
                planned=1 if self.correlated is not None else self.policy.planned(request),
                seeded=not self.randomness.is_private,
            )
        except BudgetExhausted as error:
            _log.warning("%s refuses round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)
        except LedgerError as error:
            _log.error("%s cannot charge round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.LEDGER, Stage.ADMISSION)
        except RecordError as error:
            _log.error("%s cannot read its notes for round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.DATA, Stage.ADMISSION)
        return None

    @property
    def correlated(self) -> CorrelatedRounds | None:
        """What it remembers of a run whose rounds share their noise; None where they do not."""
        correlation = self.plan.correlation
        return None if correlation is None else CorrelatedRounds(self.memory, correlation)

    def _due(self, request: Request) -> Event:
        """What the ledger is charged now: nothing in a run of correlated rounds that it was charged for."""
        rounds, seeded = self.correlated, not self.randomness.is_private
        if rounds is None or seeded or request.task in COUNTS or not rounds.has_begun(request.round):
            return self.event_of(request)  # a seeded repetition finds its own charge
        if self.ledger.head() == GENESIS:
            raise LedgerError(
                "A run that has begun must stand in the ledger, and it is empty; restore it.", code="ledger-empty"
            )
        return NoEvent()

    def _fits(self, request: Request) -> bool:
        """Whether the plan protects what answering would let go of."""
        if request.local is not None and (request.task not in _STEPPED or request.local.steps < 1):
            return False  # steps say how often an answer is charged: never less than once
        if request.task in COUNTS:
            public = self.plan.on_pictures is not None  # numbers of patients are, and labels were noised
            return self.plan.is_counted or public or not self.plan.is_private
        if request.task is Task.FIT_HEAD:
            return self._protects_fit(request)
        if isinstance(self.plan.on_update, OutputPerturbation):
            return False  # its noise is enough for a fitted head alone
        if request.task is Task.GRADIENT_SUM and self.plan.on_update is not None:
            return False  # sums have no noise then
        if request.task is Task.GRADIENT_SUM:
            in_turn = self.correlated is None or self.correlated.fits(request)
            return in_turn and self.plan.accepts(request.clipping_norm)
        if request.local is None:
            return True
        if self.plan.correlation is not None:
            return False  # local steps have noise of their own
        if self.plan.on_update is not None:
            return not request.local.keep_velocity  # no noise was added to it
        # Each step needs all of its noise at once, and a divisor that says nothing of this hospital's patients.
        alone = self.plan.trust is Trust.NOBODY and request.local.denominator is not None
        return alone or not self.plan.noises_gradients

    def _protects_fit(self, request: Request) -> bool:
        if request.fit is None or not self.plan.is_private:
            return request.fit is not None
        mechanism = self.plan.on_update
        return isinstance(mechanism, OutputPerturbation) and mechanism.fit == request.fit

    def event_of(self, request: Request) -> Event:
        """What answering the request costs this hospital's patients."""
        if request.task in COUNTS:
            return self.plan.count_event
        if request.local is not None and self.plan.on_update is None:
            return SelfComposedEvent(self.plan.release_event, request.local.steps)
        if self.plan.correlation is not None and request.round > 1:
            return NoEvent()  # the first round pays for all of them
        return self.plan.release_event

    def repeated(self, request: Request) -> Reply | None:
        """The reply that was made when this was asked before, where that must be sent again; else None."""
        if self.correlated is None or request.task in COUNTS:
            return None
        update = self.correlated.repeated(request)
        return None if update is None else Reply(update, self.event_of(request))

    def sample(self, request: Request) -> Sample:
        """The patients of this round, drawn in secret."""
        if self.correlated is not None:
            stream = self.randomness.stream(self.name, "cohorts")
            return Sample(self.patients, self.correlated.chosen(request.round, len(self.patients), stream))
        return Sample(self.patients, self.plan.sample(len(self.patients), self._stream("sampling", request)))

    def release(self, request: Request, clipped: ClippedSum, sample: Sample) -> Reply:
        """The reply to a gradient sum: the sum with this hospital's part of the noise."""
        if self.correlated is not None:
            noise = self._stream("noise", request)
            return Reply(self.correlated.release(request, clipped, self.plan, noise), self.event_of(request))
        whole = self.plan.in_units(clipped, len(sample.chosen), request.clipping_norm)
        update = self.plan.hospital_release(whole, self._stream("noise", request))
        return Reply(update, self.event_of(request))

    def gradients(self, request: Request) -> Iterator[Vector]:
        """The gradient of each patient of this round, drawn in secret, not clipped. Private, each of them."""
        if request.weights is None:
            raise ValueError("gradients need weights")
        yield from self.workbench.patient_gradients(request.weights, self.sample(request), self._dropout(request))

    def clipped_total(self, request: Request) -> npt.NDArray[np.float64]:
        """The sum of the clipped gradients of this round's patients, drawn in secret. Private until noised."""
        if request.weights is None:
            raise ValueError("gradients need weights")
        return self.workbench.clipped_total(
            request.weights, self.sample(request), self.plan.clipping_norm, self._dropout(request)
        )

    def _dropout(self, request: Request) -> int:
        return self.randomness.stream(self.name, "dropout", request.round, request.attempt).seed()

    def noise_bytes(self, request: Request) -> Callable[[int], bytes]:
        """Where a whole-number share of noise comes from, in pieces of 8 bytes; for one request only."""
        stream = self._stream("noise", request)
        return lambda count: stream.words(count // 8).tobytes()

    def answer_alone(self, request: Request) -> Reply:
        """The reply to a task in which hospitals share no batch."""
        noise = self._stream("noise", request)
        if request.task is Task.COUNT:
            return Reply(self.plan.hospital_count(len(self.patients), noise), self.event_of(request))
        if request.task is Task.CLASS_COUNTS:
            classes = np.bincount(class_of_patients(self.patients), minlength=self.num_classes)
            return Reply(self.plan.hospital_counts(classes.astype(np.float64), noise), self.event_of(request))
        if request.task is Task.FIT_HEAD and request.fit is not None:
            fitted = fit_head(self.workbench, self.patients, request.fit)
            return Reply(self.plan.hospital_head(fitted, noise), self.event_of(request))
        if request.weights is None or request.local is None:
            raise ValueError(f"{request.task} needs weights and local steps")
        sampling = self._stream("sampling", request)
        if request.selection is not None:
            update = selective_update(
                self.workbench, self.memory, request.round, request.weights, self.patients, self.plan,
                request.local, request.selection,
                sampling=sampling, noise=noise, draw=self._stream("selection", request),
            )  # fmt: skip
            return Reply(update, self.event_of(request))
        weights, velocity = local_steps(
            self.workbench, request.weights, self.patients, self.plan, request.local, sampling, noise
        )
        update = self.plan.hospital_update(weights - request.weights, noise)
        return Reply(update, self.event_of(request), velocity if request.local.keep_velocity else None)

    def _stream(self, purpose: str, request: Request) -> Stream:
        return self.randomness.stream(self.name, purpose, request.task.value, request.round, request.attempt)


def admit_all(
    agents: Mapping[HospitalName, Agent],
    requests: Requests,
    transaction: Callable[[], AbstractContextManager[object]],
) -> Failures:
    """Who refuses; the charges of all others are on disk when it returns, by one write."""
    with transaction():
        refusals = {name: agents[name].admit(request) for name, request in requests.items()}
    return {name: failure for name, failure in refusals.items() if failure is not None}


def answer_all(
    agents: Mapping[HospitalName, Agent],
    requests: Requests,
    transaction: Callable[[], AbstractContextManager[object]],
) -> Answers:
    """Answers of several agents of one process, each as if it were alone.

    Args:
        agents: the agents by hospital; they share one workbench.
        requests: what each is asked.
        transaction: opens the ledger file once, so that all charges of a round reach the disk together.

    Every charge is on disk before any gradient is computed. Gradient sums at the same weights are evaluated in
    common batches, which changes their cost and not their value.
    """
    refusals = admit_all(agents, requests, transaction)
    admitted = {name: request for name, request in requests.items() if name not in refusals}
    answers: Answers = {**refusals}
    try:
        known = {name: agents[name].repeated(request) for name, request in admitted.items()}
        answers |= {name: reply for name, reply in known.items() if reply is not None}
        admitted = {name: request for name, request in admitted.items() if known[name] is None}
        together = [name for name, request in admitted.items() if request.task is Task.GRADIENT_SUM]
        answers |= _gradient_sums([agents[name] for name in together], [admitted[name] for name in together])
        for name, request in admitted.items():
            if request.task is not Task.GRADIENT_SUM:
                answers[name] = agents[name].answer_alone(request)
    except Exception:
        _log.exception("training failed")
        answers |= {
            name: Failure(FailureCode.INTERNAL, Stage.TRAINING) for name in admitted if name not in answers
        }
    return {name: answers[name] for name in requests}


def _gradient_sums(agents: Sequence[Agent], requests: Sequence[Request]) -> Answers:
    """Replies to gradient sums. All requests of a round carry the same weights array."""
    if not agents:
        return {}
    weights = requests[0].weights
    norms = {request.clipping_norm for request in requests}
    if weights is None or any(request.weights is not weights for request in requests) or len(norms) > 1:
        raise ValueError("gradient sums of one round start from one weights array and one clipping norm")
    samples = [agent.sample(request) for agent, request in zip(agents, requests, strict=True)]
    plan, dropout = agents[0].plan, agents[0].randomness.stream("dropout", requests[0].round)
    clipping_norm = plan.gradient_norm(requests[0].clipping_norm)
    sums = agents[0].workbench.gradient_sums(weights, samples, clipping_norm, dropout.seed(), plan.rule)
    return {
        agent.name: agent.release(request, clipped, sample)
        for agent, request, clipped, sample in zip(agents, requests, sums, samples, strict=True)
    }
