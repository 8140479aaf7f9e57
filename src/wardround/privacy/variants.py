"""Plans that follow from a plan: calibrated to a promise, noised elsewhere, seen from inside, or not private."""

import math
from dataclasses import replace

from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.events import ComposedEvent, Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.pictures.release import LocalRelease
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.updates import ClippedUpdate
from wardround.types import HeadFit

_COUNT_SHARE = 10.0
"""The count's noise is this many times the noise of a single release at the whole budget: 1 % of mu squared."""


def calibrated(plan: PrivacyPlan, epsilon: float) -> PrivacyPlan:
    """The plan with the least noise that still promises `epsilon` at its delta.

    The count of patients, where there is one, takes 1 % of mu squared; the releases take the rest.

    Raises:
        PrivacyError: no finite noise gives that epsilon.
    """
    counted = GaussianEvent(_count_noise_multiplier(epsilon, plan.delta))

    def event(noise_multiplier: float) -> Event:
        step = PoissonSampledEvent(plan.sampling_prob, GaussianEvent(noise_multiplier))
        steps = SelfComposedEvent(step, plan.releases)
        return ComposedEvent((counted, steps)) if plan.is_counted else steps

    noise_multiplier = calibrate_noise_multiplier(event, epsilon, plan.delta, plan.accountant)
    return with_noise(plan, noise_multiplier, epsilon)


def with_noise(plan: PrivacyPlan, noise_multiplier: float, epsilon: float | None = None) -> PrivacyPlan:
    """The plan at a given noise multiplier; the count's noise follows from the epsilon that this gives."""
    noisy = replace(plan, noise_multiplier=noise_multiplier)
    if not plan.is_counted:
        return noisy
    if epsilon is None:
        epsilon = replace(noisy, num_patients=1).epsilon
    return replace(noisy, count_noise_multiplier=_count_noise_multiplier(epsilon, plan.delta))


def with_shares(
    plan: PrivacyPlan, shares: DiscreteShares, count_shares: DiscreteShares | None = None
) -> PrivacyPlan:
    """The plan whose noise is whole-number shares on a grid; its noise multipliers are theirs, rounded down.

    Args:
        plan: with noise multipliers that the shares were sized by.
        shares: of every sum.
        count_shares: of the count of patients, if the plan has one.

    Raises:
        PrivacyError: they are worth less than the plan's noise, or a count is left without.
    """
    noise_multiplier = _worth(shares, plan.noise_multiplier)
    if count_shares is None:
        return replace(plan, noise_multiplier=noise_multiplier, shares=shares)
    return replace(
        plan,
        noise_multiplier=noise_multiplier,
        count_noise_multiplier=_worth(count_shares, plan.count_noise_multiplier),
        shares=shares,
        count_shares=count_shares,
    )


def _worth(shares: DiscreteShares, noise_multiplier: float) -> float:
    """The noise multiplier of shares, which must be at least the plan's."""
    if shares.noise_multiplier < noise_multiplier:
        raise PrivacyError(
            f"Shares must be worth noise_multiplier {noise_multiplier} at least, got {shares.noise_multiplier}; "
            "size the grid by the plan."
        )
    return shares.noise_multiplier


def with_clipped_updates(
    plan: PrivacyPlan, clipping_norm: float, epsilon: float | None, noise_multiplier: float | None
) -> PrivacyPlan:
    """The plan whose noise goes on each hospital's clipped update: given its noise, or the least for `epsilon`.

    Raises:
        PrivacyError: no finite noise gives that epsilon, or neither is given.
    """
    if noise_multiplier is None:
        if epsilon is None:
            raise PrivacyError("A private plan needs epsilon or noise_multiplier, got neither.")
        noise_multiplier = calibrate_noise_multiplier(
            lambda z: SelfComposedEvent(GaussianEvent(z), plan.releases), epsilon, plan.delta, plan.accountant
        )
    mechanism = ClippedUpdate(clipping_norm, noise_multiplier)
    return replace(plan, noise_multiplier=0.0, clipping_norm=math.inf, on_update=mechanism)


def with_output_perturbation(
    plan: PrivacyPlan, fit: HeadFit, epsilon: float | None, noise_multiplier: float | None
) -> PrivacyPlan:
    """The plan whose only release is each hospital's fitted head: given its noise, or the least for `epsilon`.

    Raises:
        PrivacyError: neither is given, no finite noise gives that epsilon, or the coordinator is to add the noise.
    """
    if noise_multiplier is None:
        if epsilon is None:
            raise PrivacyError("A private plan needs epsilon or noise_multiplier, got neither.")
        noise_multiplier = calibrate_noise_multiplier(GaussianEvent, epsilon, plan.delta, plan.accountant)
    mechanism = OutputPerturbation(fit, noise_multiplier)
    return replace(plan, noise_multiplier=0.0, clipping_norm=math.inf, releases=1, on_update=mechanism)


def with_local_pictures(plan: PrivacyPlan, release: LocalRelease) -> PrivacyPlan:
    """The plan under which every hospital noises its pictures and labels once, and training comes after."""
    return replace(
        plan, noise_multiplier=0.0, clipping_norm=math.inf, trust=Trust.NOBODY, colluders=0, dropouts=0,
        releases=1, images_per_patient=release.images_per_patient, on_pictures=release,
    )  # fmt: skip


def with_noise_multiplier(plan: PrivacyPlan, noise_multiplier: float) -> PrivacyPlan:
    """The plan as somebody sees it who knows part of the noise: sum and count keep the same share of it."""
    if isinstance(plan.on_update, ClippedUpdate | OutputPerturbation):
        return replace(plan, on_update=replace(plan.on_update, noise_multiplier=noise_multiplier))
    share = noise_multiplier / plan.noise_multiplier
    return replace(
        plan, noise_multiplier=noise_multiplier, count_noise_multiplier=plan.count_noise_multiplier * share
    )


def not_private(plan: PrivacyPlan, *, clipped: bool = False) -> PrivacyPlan:
    """The same run without noise; its epsilon is infinity.

    `clipped` keeps the clipping, so that the optimization stays comparable: what differs is the noise alone.
    """
    return replace(
        plan,
        noise_multiplier=0.0,
        count_noise_multiplier=0.0,
        on_update=None,
        on_pictures=None,
        shares=None,
        count_shares=None,
        clipping_norm=plan.clipping_norm if clipped else math.inf,
        clipping=plan.clipping if clipped else ClippingKind.FLAT,
        colluders=0,
        dropouts=0,
    )


def _count_noise_multiplier(epsilon: float, delta: float) -> float:
    return _COUNT_SHARE * analytic_gaussian_noise_multiplier(epsilon, delta)
