"""A hospital's side of a round: it checks, charges its ledger, trains, and lets go of one reply.

What leaves: an update (a noised count, a clipped gradient sum with the hospital's part of the noise, or the
change of the model over noised steps) and the event it was charged as. When: only after the charge is on disk.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from wardround.accounting.events import Event, SelfComposedEvent
from wardround.accounting.ledger import Ledger
from wardround.agent.memory import Memory
from wardround.agent.policy import COUNTS, Policy
from wardround.errors import BudgetExhausted, LedgerError
from wardround.federation.messages import Failure, FailureCode, Reply, Request, Requests, Stage, Task
from wardround.privacy.clipping import ClippedSum
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.randomness import Randomness, Stream
from wardround.training.local import class_of_patients, local_steps
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Sample, Workbench
from wardround.types import HospitalName

_log = logging.getLogger("wardround.agent")
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

    def admit(self, request: Request) -> Failure | None:
        """Check, then spend: None once the charge for this request is in the ledger, else why not."""
        fits = request.task is not Task.GRADIENT_SUM or self.plan.accepts(request.clipping_norm)
        if request.local is not None and request.local.keep_velocity and self.plan.on_update is not None:
            fits = False  # a velocity that no noise was added to
        if not self.policy.allows(request) or not fits:
            return Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
        try:
            self.ledger.charge(
                self.event_of(request),
                study=request.study,
                release_id=f"{request.round}/{request.task}/{request.attempt}",
                purpose=request.task.value,
                planned=self.policy.planned(request),
                seeded=not self.randomness.is_private,
            )
        except BudgetExhausted as error:
            _log.warning("%s refuses round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)
        except LedgerError as error:
            _log.error("%s cannot charge round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.LEDGER, Stage.ADMISSION)
        return None

    def event_of(self, request: Request) -> Event:
        """What answering the request costs this hospital's patients."""
        if request.task in COUNTS:
            return self.plan.count_event
        if request.local is not None and self.plan.on_update is None:
            return SelfComposedEvent(self.plan.release_event, request.local.steps)
        return self.plan.release_event

    def sample(self, request: Request) -> Sample:
        """The patients of this round, drawn in secret."""
        return Sample(self.patients, self.plan.sample(len(self.patients), self._stream("sampling", request)))

    def release(self, request: Request, clipped: ClippedSum, sample: Sample) -> Reply:
        """The reply to a gradient sum: the sum with this hospital's part of the noise."""
        whole = self.plan.in_units(clipped, len(sample.chosen), request.clipping_norm)
        update = self.plan.hospital_release(whole, self._stream("noise", request))
        return Reply(update, self.event_of(request))

    def answer_alone(self, request: Request) -> Reply:
        """The reply to a task in which hospitals share no batch."""
        noise = self._stream("noise", request)
        if request.task is Task.COUNT:
            return Reply(self.plan.hospital_count(len(self.patients), noise), self.event_of(request))
        if request.task is Task.CLASS_COUNTS:
            classes = np.bincount(class_of_patients(self.patients), minlength=self.num_classes)
            return Reply(self.plan.hospital_counts(classes.astype(np.float64), noise), self.event_of(request))
        if request.weights is None or request.local is None:
            raise ValueError(f"{request.task} needs weights and local steps")
        sampling = self._stream("sampling", request)
        weights, velocity = local_steps(
            self.workbench, request.weights, self.patients, self.plan, request.local, sampling, noise
        )
        update = self.plan.hospital_update(weights - request.weights, noise)
        return Reply(update, self.event_of(request), velocity if request.local.keep_velocity else None)

    def _stream(self, purpose: str, request: Request) -> Stream:
        return self.randomness.stream(self.name, purpose, request.task.value, request.round, request.attempt)


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
    with transaction():
        refusals = {name: agents[name].admit(request) for name, request in requests.items()}
    admitted = {name: request for name, request in requests.items() if refusals[name] is None}
    answers: Answers = {name: failure for name, failure in refusals.items() if failure is not None}
    try:
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
