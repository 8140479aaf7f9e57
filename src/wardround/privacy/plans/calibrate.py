"""Plans that follow from a plan: calibrated to a promise, noised in shares on a grid, or not private."""

from dataclasses import replace
from typing import TypeAlias, assert_never

from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.events import ComposedEvent, Event, GaussianEvent
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.errors import PrivacyError
from wardround.noisers import ByEachHospital
from wardround.privacy.plans.costs import event_of, gaussian_of
from wardround.privacy.plans.kinds import (
    CorrelatedGradients,
    ExactCount,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NoisyCount,
    NothingTrained,
    NotPrivate,
    PublicSize,
    Training,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, participation_of

_COUNT_SHARE = 10.0
"""The count's noise is this many times the noise of a single release at the whole budget: 1 % of mu squared."""

Gradients: TypeAlias = NoisedGradients | CorrelatedGradients


def calibrated(plan: Plan, epsilon: float) -> Plan:
    """Returns the plan of noised gradients with the least noise that still promises `epsilon` at its delta.

    Each count of patients, where there is one, takes 1 % of mu squared; the releases take the rest.

    Raises:
        PrivacyError: no finite noise gives that epsilon.
    """
    gradients = _gradients(plan)
    counted = GaussianEvent(_count_noise_multiplier(epsilon, plan.delta))

    def event(noise_multiplier: float) -> Event:
        steps = event_of(replace(gradients, noise=GaussianEvent(noise_multiplier)), plan.releases)
        if plan.count is None:
            return steps
        return ComposedEvent((event_of(replace(plan.count, noise=counted), plan.counts), steps))

    noise_multiplier = calibrate_noise_multiplier(event, epsilon, plan.delta, plan.accountant)
    return with_noise(plan, noise_multiplier, epsilon)


def with_noise(plan: Plan, noise_multiplier: float, epsilon: float | None = None) -> Plan:
    """Returns the plan of noised gradients at a noise multiplier; the count's noise follows from the epsilon."""
    noisy = replace(_gradients(plan), noise=GaussianEvent(noise_multiplier))
    if plan.count is None:
        return replace(plan, parts=(noisy,))
    if epsilon is None:
        epsilon = replace(plan, parts=(replace(noisy, size=PublicSize(1)),)).epsilon
    count = replace(plan.count, noise=GaussianEvent(_count_noise_multiplier(epsilon, plan.delta)))
    return replace(plan, parts=(count, noisy))


def with_shares(plan: Plan, shares: DiscreteShares, count_shares: DiscreteShares | None = None) -> Plan:
    """Returns the plan whose noise is whole-number shares on a grid.

    Args:
        plan: with noise multipliers that the shares were sized by.
        shares: of every sum.
        count_shares: of the count of patients, if the plan has one.

    Raises:
        PrivacyError: they are worth less than the plan's noise, or a count is left without.
    """
    gradients = plan.training
    if not isinstance(gradients, NoisedGradients) or (plan.count is None) != (count_shares is None):
        raise PrivacyError("Shares are noise of sums of gradients, and of a count where patients are counted.")
    _check_worth(shares, gradients.noise.noise_multiplier)
    noisy = replace(gradients, noise=shares)
    if plan.count is None or count_shares is None:
        return replace(plan, parts=(noisy,))
    _check_worth(count_shares, plan.count.noise.noise_multiplier)
    return replace(plan, parts=(replace(plan.count, noise=count_shares), noisy))


def alone(plan: Plan, hospitals: int, releases: int, *, centres: int = 0) -> Plan:
    """Returns the plan in which each of some hospitals adds all of the noise, in floating point, to its own answers.

    Reference runs use it, which release no scores. `releases` is that of one hospital in the run; the first `centres`
    of them are mean rows.
    """
    noiser = ByEachHospital(hospitals)
    own: Training
    match plan.training:
        case NoisedGradients() as part:
            noise = gaussian_of(part.noise)
            own = replace(part, noise=noise, noiser=noiser, releases=releases, scores=0, centres=centres)
        case NotPrivate() as part:
            own = replace(part, hospitals=hospitals, releases=releases)
        case NoisedUpdates() as part:
            own = replace(part, noiser=noiser, releases=releases)
        case CorrelatedGradients() | NoisedHead() | NothingTrained() as part:
            own = replace(part, noiser=noiser)
        case NoisedPictures() as part:
            own = replace(part, hospitals=hospitals)
        case _ as never:
            assert_never(never)
    count, main = plan.count, plan.main
    counted = () if count is None else (replace(count, noise=gaussian_of(count.noise), noiser=noiser),)
    evaluated: tuple[NoisedHistograms, ...] = ()
    if isinstance(main, NoisedHistograms):
        evaluated = (replace(main, noise=gaussian_of(main.noise), noiser=noiser),)
    return replace(plan, parts=(*counted, own, *evaluated))


def in_the_open(plan: Plan, releases: int) -> Plan:
    """Returns the plan of noised gradients with noise of the same size in floating point, and without scores.

    Repeats of a run use it: their sums need no masks, as they are released by no hospital.
    """
    part = replace(_gradients(plan), noise=gaussian_of(_gradients(plan).noise))
    if isinstance(part, NoisedGradients):
        part = replace(part, releases=releases, scores=0)
    count = () if plan.count is None else (replace(plan.count, noise=gaussian_of(plan.count.noise)),)
    return replace(plan, parts=(*count, part))


def not_private(plan: Plan, releases: int) -> Plan:
    """Returns the same run without noise; its epsilon is infinity.

    Gradients are clipped as the plan clips them, so that the runs differ by the noise alone.
    """
    part = plan.training
    match part:
        case NoisedGradients() | CorrelatedGradients():
            size = ExactCount() if isinstance(part.size, NoisyCount) else part.size
        case NoisedPictures() | NotPrivate():
            size = part.size
        case NoisedUpdates() | NoisedHead() | NothingTrained():
            size = ExactCount()
        case _:
            assert_never(part)
    part = NotPrivate(clip_of(part), participation_of(part), releases, size, plan.hospitals)
    return replace(plan, parts=(part,))


def _gradients(plan: Plan) -> Gradients:
    if not isinstance(plan.training, NoisedGradients | CorrelatedGradients):
        raise PrivacyError("Noise is calibrated on sums of gradients here, and this plan noises something else.")
    return plan.training


def _check_worth(shares: DiscreteShares, noise_multiplier: float) -> None:
    if shares.noise_multiplier < noise_multiplier:
        raise PrivacyError(
            f"Shares must be worth noise_multiplier {noise_multiplier} at least, got {shares.noise_multiplier}; "
            "size the grid by the plan."
        )


def _count_noise_multiplier(epsilon: float, delta: float) -> float:
    return _COUNT_SHARE * analytic_gaussian_noise_multiplier(epsilon, delta)
