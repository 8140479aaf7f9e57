"""The cost of a part of a plan: its event, unit and relation, each one `match` over all kinds."""

from typing import assert_never

from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.discrete import Part as DiscretePart
from wardround.accounting.events import (
    Event,
    GaussianEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.plans.kinds import (
    About,
    CorrelatedGradients,
    Evaluation,
    Noise,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    Training,
)
from wardround.privacy.updates import UpdateMechanism


def gaussian_of(noise: Noise) -> GaussianEvent:
    """Returns the Gaussian release that noise stands for: itself, or that of shares up to their slack."""
    return noise if isinstance(noise, GaussianEvent) else noise.event


def release_event(part: Part) -> Event:
    """Returns the event of one release: a count, a noised sum, an update, a head, all pictures, a correlated run."""
    match part:
        case NoisedCounts() | NoisedHistograms():
            return gaussian_of(part.noise)
        case NoisedGradients():
            return PoissonSampledEvent(part.sampling_prob, gaussian_of(part.noise))
        case CorrelatedGradients():
            return PoissonSampledEvent(1.0, part.noise)
        case NoisedUpdates() | NoisedHead():
            return part.mechanism.event
        case NoisedPictures():
            return part.release.event
        case NothingTrained():
            return NoEvent()
        case NotPrivate() | OpenHistograms():
            return NonPrivateEvent()
        case _:
            assert_never(part)


def event_of(part: Part, releases: int) -> Event:
    """Returns the event of `releases` releases of a part."""
    if isinstance(part, NoisedCounts | NoisedHistograms) and releases == 1:
        return release_event(part)
    return SelfComposedEvent(release_event(part), releases)


def planned_releases(part: Part) -> int:
    """Returns the releases of one hospital's patients that a part foresees over the whole run."""
    match part:
        case NoisedCounts() | NoisedGradients() | NoisedUpdates() | NotPrivate() | NoisedHistograms():
            return part.releases
        case CorrelatedGradients() | NoisedHead() | NoisedPictures() | OpenHistograms():
            return 1
        case NothingTrained():
            return 0
        case _:
            assert_never(part)


def unit_of(part: Part) -> PrivacyUnit:
    """Returns the unit that a part protects."""
    mechanism = _mechanism_of(part)
    return PrivacyUnit.PATIENT if mechanism is None else mechanism.unit


def relation_of(part: Part) -> NeighboringRelation:
    """Returns the relation between the neighbouring data sets of a part's guarantee."""
    mechanism = _mechanism_of(part)
    return NeighboringRelation.ADD_OR_REMOVE_ONE if mechanism is None else mechanism.relation


def _mechanism_of(part: Part) -> UpdateMechanism | OutputPerturbation | LocalRelease | None:
    """Returns the mechanism that has unit and relation of its own; None where a patient is added or removed."""
    match part:
        case NoisedUpdates() | NoisedHead():
            return part.mechanism
        case NoisedPictures():
            return part.release
        case (
            NoisedCounts()
            | NoisedGradients()
            | CorrelatedGradients()
            | NotPrivate()
            | NothingTrained()
            | NoisedHistograms()
            | OpenHistograms()
        ):
            return None
        case _:
            assert_never(part)


def about(part: Part) -> About:
    """Returns the persons that a part is about: parts about the same persons compose, others never meet."""
    if isinstance(part, Evaluation):
        return About.TEST
    if isinstance(part, NoisedCounts | Training):
        return About.TRAINING
    assert_never(part)


def discrete_part(part: Part, releases: int) -> tuple[DiscretePart, ...]:
    """Returns a part whose noise is in shares, with `releases` of it as an event of one; empty for other parts."""
    match part:
        case NoisedGradients(noise=DiscreteShares() as shares, sampling_prob=prob):
            return ((shares, lambda one: SelfComposedEvent(PoissonSampledEvent(prob, one), releases)),)
        case NoisedCounts(noise=DiscreteShares() as shares) | NoisedHistograms(noise=DiscreteShares() as shares):
            return ((shares, lambda one: SelfComposedEvent(one, releases)),)
        case _:
            return ()
