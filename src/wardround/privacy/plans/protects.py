"""The answers that a plan's noise covers, and what each of them costs: one rule for hospitals and for study files."""

from typing import assert_never

from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.events import Event, NoEvent, NonPrivateEvent, SelfComposedEvent
from wardround.noisers import ByEachHospital
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import (
    CorrelatedGradients,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NotPrivate,
    OpenHistograms,
    Part,
    Training,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, correlation_of
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    Evaluate,
    Finish,
    FittedHead,
    GiveReceipt,
    GradientSum,
    LocalUpdate,
    Receive,
    RowSum,
    SayHello,
    ScoreSum,
    SelectiveUpdate,
    Summed,
    Upload,
    Work,
)

_MASKABLE = (NoisedCounts, NoisedGradients, NoisedHistograms)


def protects(part: Part, work: Work) -> bool:
    """Returns whether a part's noise covers the answer to `work`.

    An answer in whole numbers leaves under masks only: `DiscreteShares` cover the masked steps and nothing else, and
    every other noise covers no masked step. Steps say how often an answer is charged: fewer than one are refused.
    """
    match work:
        case LocalUpdate() | SelectiveUpdate() if work.steps.steps < 1:
            return False
        case Announce():
            return _masks(part) and isinstance(work.of, Summed) and _covers(part, work.of)
        case Confirm() | Upload() | Receive():
            return _masks(part)  # of the attempt that was announced
        case SayHello() | GiveReceipt() | Finish():
            return True  # nothing of a patient leaves
        case _:
            return not _masks(part) and _covers(part, work)


def plan_protects(plan: Plan, work: Work) -> bool:
    """Returns whether some part of a plan covers the answer to `work`."""
    return any(protects(part, work) for part in plan.parts)


def _masks(part: Part) -> bool:
    return isinstance(part, _MASKABLE) and isinstance(part.noise, DiscreteShares)


def _covers(part: Part, work: Work) -> bool:
    match part, work:
        case NotPrivate(participation=Correlation()), LocalUpdate() | SelectiveUpdate():
            return False  # a cohort's rounds are fixed; local steps draw patients of their own
        case (
            (NotPrivate() | NoisedPictures()),
            (CountPatients() | CountClasses() | LocalUpdate() | SelectiveUpdate()),
        ):
            return True
        case NotPrivate(), FittedHead():
            return True
        case NoisedCounts(), CountPatients() | CountClasses():
            return True
        case ((NoisedGradients() | CorrelatedGradients() | NotPrivate() | NoisedPictures()), GradientSum()):
            return clip_of(part).accepts(work.clipping_norm)
        case NoisedGradients(), RowSum():
            return part.centres > 0  # a row of norm clip.norm at most, as a clipped gradient is
        case NoisedGradients(), ScoreSum():
            return part.scores > 0  # likewise
        case NoisedGradients(noiser=ByEachHospital()), LocalUpdate() | SelectiveUpdate():
            # Each step needs all of its noise at once, and a divisor that says nothing of this hospital's patients.
            return work.steps.denominator is not None
        case NoisedUpdates(), LocalUpdate() | SelectiveUpdate():
            return not work.steps.keep_velocity  # no noise was added to the velocity
        case NoisedHead(), FittedHead():
            return part.mechanism.fit == work.fit
        case ((NoisedHistograms() | OpenHistograms()), Evaluate()):
            return True  # of any model: a patient's row is bounded for all scores
        case _:
            return False


def charge_of(plan: Plan, work: Work, round: int) -> Event:
    """Returns what the answer to `work` costs the patients of one hospital."""
    training = plan.training
    match work:
        case Announce():
            return charge_of(plan, work.of, round)
        case Confirm() | Upload() | Receive() | SayHello() | GiveReceipt() | Finish():
            return NoEvent()  # an attempt is charged as what was announced, before its upload
        case CountPatients() | CountClasses():
            if plan.count is not None:
                return release_event(plan.count)
            return NonPrivateEvent() if isinstance(training, NotPrivate) else NoEvent()
        case LocalUpdate() | SelectiveUpdate():
            once = _release_of_a_round(training)
            return once if isinstance(training, NoisedUpdates) else SelfComposedEvent(once, work.steps.steps)
        case Evaluate():
            return NoEvent() if plan.evaluation is None else release_event(plan.evaluation)
        case GradientSum() | RowSum() | ScoreSum() | FittedHead():
            if correlation_of(training) is not None and round > 1:
                return NoEvent()  # the first round pays for all of them
            return _release_of_a_round(training)
        case _:
            assert_never(work)


def _release_of_a_round(training: Training) -> Event:
    # Training on noised pictures is computed from what was released before round 1.
    return NoEvent() if isinstance(training, NoisedPictures) else release_event(training)
