"""The one privacy plan of a study, and the limit of its ledgers."""

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.terms import Trust
from wardround.agent.masked_mechanisms import counting, shares_of_count
from wardround.config import Study
from wardround.config.federation import TOGETHER
from wardround.config.privacy import PrivacySection
from wardround.errors import PrivacyError
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.correlated import Correlation
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.sparse_vector import GumbelTopK, SparseVector, with_sparse_vector, with_top_k
from wardround.privacy.toeplitz import best_bands
from wardround.privacy.variants import (
    calibrated,
    not_private,
    with_clipped_updates,
    with_local_pictures,
    with_noise,
    with_output_perturbation,
    with_shares,
)
from wardround.run.availability import check_availability
from wardround.run.picture_mechanisms import local_release_of
from wardround.run.strategies import head_fit_of, releases_after, timetable_of
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism

_MOST_COORDINATES = 1 << 40
"""Coordinates that the slack of whole-number noise is charged for: epsilon is computed before the network is built."""

_FOR_THE_GRID = 1e-9
"""Part of epsilon that is kept for that slack and for the last digit; it is far more than they are."""


def plan_of(study: Study) -> PrivacyPlan:
    """The one plan of a study's main run, calibrated.

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
        FederationError: more hospitals will be missing than it allows for.
    """
    check_availability(study, timetable_of(study))
    section, private = study.privacy, study.privacy.plan != "none"
    summed = study.federation.strategy in TOGETHER and study.privacy.plan != "local-pictures"
    trust = Trust(section.trust) if private and summed else Trust.NOBODY
    shared = trust is Trust.SECURE_AGGREGATION
    plan = PrivacyPlan(
        noise_multiplier=section.noise_multiplier or 1.0,
        clipping_norm=section.clipping_norm,
        sampling_prob=section.sampling_prob,
        releases=releases_after(study, study.rounds),
        delta=section.delta or 1e-5,
        trust=trust,
        hospitals=timetable_of(study).hospitals,
        colluders=section.colluders if shared else 0,
        dropouts=section.dropouts if shared else 0,
        images_per_patient=section.images_per_patient,
        num_patients=section.num_patients,
        accountant=AccountantKind(section.accountant),
        clipping=ClippingKind(section.clipping),
        quantile=section.clipping_quantile,
        correlation=correlation_of(study),
    )
    if not private:
        return not_private(plan)
    if section.plan == "local-pictures":
        return with_local_pictures(plan, local_release_of(study))
    if section.plan == "output-perturbation":
        return with_output_perturbation(plan, head_fit_of(study), section.epsilon, section.noise_multiplier)
    if section.plan == "sparse-vector":
        return with_sparse_vector(plan, sparse_vector_of(section), section.epsilon)
    if section.plan == "top-k":
        noise_multiplier = section.noise_multiplier or 1.0
        top = GumbelTopK(section.clipping_norm, section.answers or 1, noise_multiplier, section.values_share)
        return with_top_k(plan, top, section.epsilon)
    if section.plan == "clipped-update":
        return with_clipped_updates(plan, section.clipping_norm, section.epsilon, section.noise_multiplier)
    return noised(plan, section.epsilon, section.noise_multiplier, masked=section.sum == "masked")


def noised(
    plan: PrivacyPlan, epsilon: float | None, noise_multiplier: float | None, *, masked: bool
) -> PrivacyPlan:
    """The plan with the least noise for `epsilon`, or with the noise given; `masked`: in whole-number shares on a grid.

    Raises:
        PrivacyError: neither is given, no finite noise gives that epsilon, or the grid cannot carry it.
    """
    if epsilon is not None:
        plan = calibrated(plan, epsilon * (1 - _FOR_THE_GRID) if masked else epsilon)
    elif noise_multiplier is not None:
        plan = with_noise(plan, noise_multiplier)
    else:
        raise PrivacyError("A private study must give epsilon or noise_multiplier, got neither.")
    return _on_grid(plan) if masked else plan


def _on_grid(plan: PrivacyPlan) -> PrivacyPlan:
    """The plan with its noise in whole-number shares, sized by the mechanism that adds them."""
    mechanism = IntegerMechanism(
        plan.clipping_norm, plan.noise_multiplier, 1, plan.hospitals, plan.colluders, plan.dropouts
    )
    shares = DiscreteShares(mechanism.share_std, mechanism.honest, mechanism.sensitivity, _MOST_COORDINATES)
    return with_shares(plan, shares, shares_of_count(counting(plan)) if plan.is_counted else None)


def sparse_vector_of(section: PrivacySection) -> SparseVector:
    """The mechanism as the study describes it; where it gives a total epsilon, that of one release is still open."""
    answers, share = section.answers or 1, section.values_share
    epsilon = section.epsilon if section.noise_multiplier is None else answers / (section.noise_multiplier * share)
    return SparseVector(section.clipping_norm, answers, epsilon or 1.0, section.answer_threshold, share)


def correlation_of(study: Study) -> Correlation | None:
    """How the noise of the rounds hangs together; None where every round has its own."""
    cohorts, momentum = study.privacy.cohorts, study.federation.momentum
    if study.privacy.plan != "correlated-noise" or cohorts is None:
        return None
    bands = study.privacy.bands or best_bands(study.rounds, cohorts, momentum)
    return Correlation(study.rounds, cohorts, bands, momentum)


def epsilon_limit_of(study: Study, plan: PrivacyPlan) -> float:
    """What each hospital's ledger allows: the study's word, or else just what the plan promises."""
    if study.privacy.epsilon_limit is not None:
        return study.privacy.epsilon_limit
    return max(study.privacy.epsilon or 0.0, plan.epsilon)
