"""A hospital's side of a round: it checks, charges its ledger, trains, and releases one answer.

Released: an update (a noised count, a clipped gradient sum with the hospital's part of the noise, or the change of the
model over noised steps) and the event it was charged as. When: only after the charge is on disk.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from wardround.accounting.events import Event, NoEvent, leaves
from wardround.errors import BudgetExhausted, LedgerError, PrivacyError, RecordError
from wardround.federation.messages import Answer, Failure, FailureCode, Request, Stage
from wardround.hospital.asked import Asked
from wardround.hospital.charged import spare_attempts
from wardround.hospital.correlated import CorrelatedRounds
from wardround.hospital.examined.patients import Examined
from wardround.hospital.kept.memory import Memory
from wardround.hospital.policy import COUNTS, Policy, computed, place_of
from wardround.hospital.rounded import Rounding, rounded_sum
from wardround.ledger.account import Account
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.kinds import OpenHistograms
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import (
    clip_of,
    correlation_of,
    noised_counts,
    noised_head,
    noised_histograms,
    noised_sum,
    noised_update,
    sample,
)
from wardround.published import published
from wardround.randomness import Randomness, Stream
from wardround.secure_aggregation.integers.grid import Grid
from wardround.training.convex import fit_head
from wardround.training.exact_head import Int64, Steps
from wardround.training.local import LocalRun, class_of_patients, local_steps
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.scores import Rows64, mean_rows, moment_rows
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Vector
from wardround.work import (
    CountClasses,
    CountPatients,
    Evaluate,
    FittedHead,
    GradientSum,
    LocalUpdate,
    RowSum,
    ScoreSum,
    SelectiveUpdate,
)

_log = logging.getLogger("wardround.hospital")


@dataclass(frozen=True)
class Agent:
    """The part of a hospital that holds patients.

    Attributes:
        name: the hospital.
        patients: its training patients.
        plan: the privacy plan of the study it agreed to.
        policy: the work that it does.
        account: of these patients, in the run.
        randomness: source of its sampling and noise.
        workbench: the network; simulated hospitals share one.
        memory: its notes between rounds.
        num_classes: classes that patients are counted by.
        examined: its test patients; None in a simulation, which evaluates in one place.
    """

    name: HospitalName
    patients: TrainingPatients
    plan: Plan
    policy: Policy
    account: Account
    randomness: Randomness
    workbench: Workbench
    memory: Memory = field(default_factory=Memory)
    num_classes: int = 2
    examined: Examined | None = None

    @property
    def tested(self) -> Examined:
        """Its test patients.

        Raises:
            PrivacyError: they are the simulation's.
        """
        if self.examined is None:
            raise PrivacyError(
                "A simulated hospital has no test patients of its own; the simulation evaluates them."
            )
        return self.examined

    def asked(self, request: Request, before: Asked | None = None) -> Asked:
        """Returns what plan and policy say of a request: `before` where it says that of these very objects."""
        if before is not None and before.is_of(request, self.plan, self.policy):
            return before
        return Asked(request, self.plan, self.policy)

    def agrees(self, request: Request, before: Asked | None = None) -> bool:
        """Returns whether this hospital agreed to what is asked, and its plan protects the answer; logs why not.

        Nothing is charged. `before` saves time where it is of the same plan and policy (`asked`).
        """
        reason = self._disagrees(self.asked(request, before))
        if reason:
            work = computed(request.work)
            _log.warning("%s refuses %s of round %d: %s", self.name, work.name, request.round, reason)
        return not reason

    def _disagrees(self, asked: Asked) -> str:
        """Returns why this hospital does not agree to what is asked; empty if it does."""
        if asked.refusal:
            return asked.refusal
        rounds, request = self.correlated, asked.request
        if rounds is None or not isinstance(request.work, GradientSum) or rounds.fits(request.round, request.work):
            return ""
        return (
            "it is not the round after its notes, nor one of them as asked before; each takes back earlier noise"
        )

    def refuses(self, request: Request, before: Asked | None = None) -> Failure | None:
        """Returns the reason for which this request is not answered; None where only the charge is left to make.

        Nothing is charged. `before` is that of `agrees`.
        """
        try:
            if not self.agrees(request, before):
                return Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
            if not self._pays_for(self.asked(request, before)):
                _log.warning("%s refuses round %d: no spare attempt is left", self.name, request.round)
                return Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)
            self._check_unanswered(request)
        except (LedgerError, RecordError) as error:
            return self._cannot(request, error)
        return None

    def admit(self, request: Request, before: Asked | None = None) -> Failure | None:
        """Checks, then spends: None once the charge for this request is in the ledger, else why not.

        `before` is that of `agrees`.
        """
        asked = self.asked(request, before)
        refused = self.refuses(request, asked)
        if refused is not None:
            return refused
        try:
            if isinstance(request.work, Evaluate) and isinstance(self.plan.evaluation, OpenHistograms):
                self.tested.list_unprotected()
                return None
            self.account_of(request).charge(
                self._due(asked),
                release=asked.release,
                purpose=asked.purpose,
                planned=1 if self.correlated is not None else asked.planned,
            )
        except BudgetExhausted as error:
            _log.warning("%s refuses round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)
        except (LedgerError, RecordError) as error:
            return self._cannot(request, error)
        return None

    def account_of(self, request: Request) -> Account:
        """Returns the account that the request is charged to: of the persons whose data it is computed from."""
        account = self.tested.account if isinstance(computed(request.work), Evaluate) else self.account
        assert account is not None, "a plan with noise on an evaluation opens it"
        return account

    def _cannot(self, request: Request, error: LedgerError | RecordError) -> Failure:
        if isinstance(error, LedgerError):
            _log.error("%s cannot charge round %d: %s", self.name, request.round, error)
            return Failure(FailureCode.LEDGER, Stage.ADMISSION)
        _log.error("%s cannot read its notes for round %d: %s", self.name, request.round, error)
        return Failure(FailureCode.DATA, Stage.ADMISSION)

    @cached_property
    def correlated(self) -> CorrelatedRounds | None:
        """Its notes of a run whose rounds share their noise; None where they do not."""
        correlation = correlation_of(self.plan.training)
        return None if correlation is None else CorrelatedRounds(self.memory, correlation)

    def _due(self, asked: Asked) -> Event:
        """Returns what the ledger is charged now: nothing in a run of correlated rounds that it was charged for."""
        rounds, seeded, request = self.correlated, not self.randomness.is_private, asked.request
        if (
            rounds is None
            or seeded
            or isinstance(request.work, (*COUNTS, Evaluate))
            or not rounds.has_begun(request.round)
        ):
            return asked.event  # a seeded repetition finds its own charge
        if not self.account.charged().get(GradientSum.name):
            raise LedgerError(
                "A run that has begun must stand in the ledger, and does not; restore it.", code="ledger-empty"
            )
        return NoEvent()

    def _pays_for(self, asked: Asked) -> bool:
        """Returns whether the study pays for this charge: for one a round and purpose, and for its spare attempts."""
        spare, request = self.policy.spare, asked.request
        if spare is None or not self.randomness.is_private:  # a seeded repetition is one release
            return True
        if isinstance(request.work, Evaluate) and isinstance(self.plan.evaluation, OpenHistograms):
            return True  # nothing is promised that a further one could break
        return not leaves(self._due(asked)) or spare_attempts(self.account_of(request), place_of(request)) <= spare

    def event_of(self, request: Request) -> Event:
        """Returns what answering the request costs this hospital's patients."""
        return self.asked(request).event

    def repeated(self, request: Request) -> Answer | None:
        """Returns the answer that was made when this was asked before, where that must be sent again; else None."""
        if self.correlated is None or not isinstance(request.work, GradientSum):
            return None
        update = self.correlated.repeated(request.round, request.work)
        return None if update is None else self._answered_once(request, update)

    def sample(self, request: Request) -> Sample:
        """Returns the patients of this round, drawn in secret."""
        if self.correlated is not None:
            stream = self.randomness.stream(self.name, "cohorts")
            return Sample(self.patients, self.correlated.chosen(request.round, self.patients.names, stream))
        drawn = sample(self.plan.training, self.patients.names, self._stream("sampling", request))
        return Sample(self.patients, drawn)

    def release(self, request: Request, work: GradientSum, clipped: ClippedSum, sample: Sample) -> Answer:
        """Returns the answer to a gradient sum: the sum with this hospital's part of the noise."""
        part, noise = self.plan.training, self._stream("noise", request)
        if self.correlated is not None:
            update = self.correlated.release(request.round, work, clipped, part, noise)
            return self._answered_once(request, update)
        whole = clip_of(part).in_units(clipped, len(sample.chosen), work.clipping_norm)
        return Answer(noised_sum(part, whole, noise), self.event_of(request))

    def _answered_once(self, request: Request, update: Vector) -> Answer:
        """Returns the answer of a run that was charged as a whole, once the ledger knows it.

        A copy of the run that goes on elsewhere would answer with other noise, at no charge: it is refused.
        """
        if self.randomness.is_private:
            self.account.answer_once(f"round {request.round}", _digest(update))
        return Answer(update, self.event_of(request))

    def _check_unanswered(self, request: Request) -> None:
        """Refuses a correlated round that the ledger knows another answer to, before anything is charged.

        Raises:
            LedgerError: a copy of the run went on elsewhere.
            RecordError: the notes cannot be read.
        """
        if self.correlated is None or not isinstance(request.work, GradientSum) or not self.randomness.is_private:
            return
        known = self.correlated.repeated(request.round, request.work)
        self.account.check_unanswered(f"round {request.round}", None if known is None else _digest(known))

    def rounded_sum(self, request: Request, work: GradientSum, grid: Grid) -> Int64:
        """Returns the sum of this round's gradients on a grid, (coordinate + witness,), in grid steps. Private.

        Raises:
            PrivacyError: the round asks for a clipping norm where none adapts, or for none where it does.
        """
        dropout = self.randomness.stream(self.name, "dropout", request.round, request.attempt).seed()
        rounding = Rounding(grid, clip_of(self.plan.training), work.clipping_norm, work.weights)
        return rounded_sum(self.workbench.centred(work.centre), rounding, self.sample(request), dropout)

    def sums_exactly(self, steps: Steps) -> bool:
        """Returns whether `exact_sum` gives a round's gradients on this grid; it follows from public numbers alone."""
        return clip_of(self.plan.training).adaptive is None and self.workbench.sums_exactly(steps)

    def exact_sum(self, request: Request, work: GradientSum, steps: Steps) -> Int64:
        """Returns the sum of this round's clipped gradients of a linear head, in grid steps, (parameter,). Private.

        Raises:
            PrivacyError: the round asks for a clipping norm of its own.
        """
        clip = clip_of(self.plan.training)
        if not clip.accepts(work.clipping_norm):
            raise PrivacyError(f"A round must ask for no clipping norm here, got {work.clipping_norm}.")
        workbench = self.workbench.centred(work.centre)
        return workbench.exact_sum(work.weights, self.sample(request), clip.norm, clip.fixed, steps)

    def statistic_rows(self, request: Request, work: RowSum | ScoreSum) -> Rows64:
        """Returns the mean row, or moments of class scores, of each patient, (patient, parameter). Private."""
        norm, drawn = clip_of(self.plan.training).norm, self.sample(request)
        if isinstance(work, RowSum):
            return mean_rows(self.workbench, work.weights.size, drawn, norm)
        return moment_rows(self.workbench, work.weights, drawn, norm)

    def statistic_sum(self, request: Request, work: RowSum | ScoreSum) -> ClippedSum:
        """Returns the sum of `statistic_rows`. Private; its sensitivity is the plan's clipping norm."""
        rows = self.statistic_rows(request, work)
        return ClippedSum(torch.from_numpy(rows.sum(axis=0)), clip_of(self.plan.training).norm)

    def noise_bytes(self, request: Request) -> Callable[[int], bytes]:
        """Returns the source of a whole-number share of noise, in pieces of 8 bytes; for one request only."""
        stream = self._stream("noise", request)
        return lambda count: stream.words(count // 8).tobytes()

    def answer_alone(self, request: Request) -> Answer:
        """Returns the answer to one request, by this hospital alone."""
        work, noise = request.work, self._stream("noise", request)
        event, part = self.event_of(request), self.plan.training
        match work:
            case CountPatients():
                return Answer(noised_counts(self.plan.count, np.array([float(len(self.patients))]), noise), event)
            case CountClasses():
                classes = np.bincount(class_of_patients(self.patients), minlength=self.num_classes)
                return Answer(noised_counts(self.plan.count, classes.astype(np.float64), noise), event)
            case Evaluate():
                assert self.plan.evaluation is not None, "agreed to"
                total = self.tested.histograms(self.workbench, work.weights, self.num_classes)
                return Answer(noised_histograms(self.plan.evaluation, total, noise), event)
            case GradientSum():
                drawn, clip = self.sample(request), clip_of(part)
                [clipped] = self.workbench.centred(work.centre).gradient_sums(
                    work.weights, [drawn], clip.gradient_norm(work.clipping_norm),
                    self.randomness.stream("dropout", request.round).seed(), clip.fixed,
                )  # fmt: skip
                return self.release(request, work, clipped, drawn)
            case RowSum() | ScoreSum():
                return Answer(noised_sum(part, self.statistic_sum(request, work), noise), event)
            case FittedHead():
                fitted = fit_head(self.workbench, self.patients, work.fit)
                return Answer(noised_head(part, fitted, noise), event)
            case SelectiveUpdate():
                update: Vector = published(work.name, "hospital").update_of(
                    self.workbench, self.memory, request.round, work.weights, self.patients, part,
                    work.steps, work.selection,
                    sampling=self._stream("sampling", request), noise=noise,
                    draw=self._stream("selection", request),
                )  # fmt: skip
                return Answer(update, event)
            case LocalUpdate():
                run = self.local_run(request, work)
                [(_, weights, velocity)] = local_steps(self.workbench, part, [run])
                return self.updated(request, work, run, weights, velocity)
            case _:
                raise ValueError(f"{work.name} is not answered with a noised vector")

    def local_run(self, request: Request, work: LocalUpdate) -> LocalRun:
        """Returns this hospital's local steps of a round."""
        sampling, noise = self._stream("sampling", request), self._stream("noise", request)
        return LocalRun(work.weights, self.patients, work.steps, sampling, noise)

    def updated(
        self, request: Request, work: LocalUpdate, run: LocalRun, weights: Vector, velocity: Vector | None
    ) -> Answer:
        """Returns the answer to local steps, from the weights after them, which it changes, and the velocity."""
        change = np.subtract(weights, work.weights, out=weights)
        update = noised_update(self.plan.training, change, run.noise)
        return Answer(update, self.event_of(request), velocity)

    def _stream(self, purpose: str, request: Request) -> Stream:
        name = computed(request.work).name
        return self.randomness.stream(self.name, purpose, name, request.round, request.attempt)


def _digest(update: Vector) -> str:
    return hashlib.sha256(update.tobytes()).hexdigest()
