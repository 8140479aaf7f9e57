"""The one privacy plan of a study, and the limit of its ledgers."""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import Event, GaussianEvent, PureEvent, SelfComposedEvent
from wardround.accounting.insiders import NoiseShares
from wardround.agreed.masks import COUNT_COORDINATES, shares_for
from wardround.agreed.picture_mechanisms import local_release_of
from wardround.agreed.strategies import head_fit_of, releases_after, timetable_of
from wardround.config import Study
from wardround.config.federation import TOGETHER
from wardround.config.privacy import PrivacySection
from wardround.errors import PrivacyError
from wardround.per_patient.clipping_rules import Clipping, ClippingKind, rule_of
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plans.calibrate import calibrated, with_noise, with_shares
from wardround.privacy.plans.kinds import (
    UNCLIPPED,
    Clip,
    CorrelatedGradients,
    ExactCount,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedPictures,
    NoisedUpdates,
    NoisyCount,
    NotPrivate,
    Part,
    PublicSize,
    Training,
)
from wardround.privacy.plans.noisers import ByCoordinator, ByEachHospital, Noiser
from wardround.privacy.plans.plan import Plan
from wardround.privacy.sparse_vector import GumbelTopK, SparseVector
from wardround.privacy.toeplitz import best_bands
from wardround.privacy.updates import ClippedUpdate

_MOST_COORDINATES = 1 << 40
"""Coordinates that the slack of whole-number noise is charged for: epsilon is computed before the network is built."""

_FOR_THE_GRID = 1e-9
"""Part of epsilon that is kept for that slack and for the last digit; it is far more than they are."""


def plan_of(study: Study) -> Plan:
    """Returns the one plan of a study's main run, calibrated.

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
    """
    section, noiser = study.privacy, noiser_of(study)
    releases, prob = releases_after(study, study.rounds), section.sampling_prob
    match section.plan:
        case "dp-sgd" | "correlated-noise":
            return _noised_gradients(study, noiser)
        case "clipped-update" | "sparse-vector" | "top-k":
            return _plan(
                section, NoisedUpdates(_update_mechanism(study, releases), prob, releases, _shared(noiser))
            )
        case "output-perturbation":
            multiplier = section.noise_multiplier or _least(study, GaussianEvent)
            return _plan(section, NoisedHead(OutputPerturbation(head_fit_of(study), multiplier), _shared(noiser)))
        case "local-pictures":
            release, size = local_release_of(study), _open_size(section)
            part: Training = NoisedPictures(release, prob, size, noiser.hospitals)
            return replace(_plan(section, part), images_per_patient=release.images_per_patient)
        case "none":
            return _plan(section, NotPrivate(UNCLIPPED, prob, releases, _open_size(section), noiser.hospitals))
        case _:
            assert_never(section.plan)


def noiser_of(study: Study) -> Noiser:
    """Returns who adds noise in a study's main run; each hospital, where no sum of several is formed."""
    section, hospitals = study.privacy, timetable_of(study).hospitals
    summed = study.federation.strategy in TOGETHER and section.plan not in ("local-pictures", "none")
    if not summed or section.trust == "nobody":
        return ByEachHospital(hospitals)
    if section.trust == "coordinator":
        return ByCoordinator(hospitals)
    return NoiseShares(hospitals, section.colluders, section.dropouts)


def clip_of_study(section: PrivacySection) -> Clip:
    """Returns the clip of per-patient gradients that a study asks for."""
    kind = ClippingKind(section.clipping)
    adaptive = kind is ClippingKind.ADAPTIVE
    rule: Clipping | AdaptiveNorm = AdaptiveNorm(section.clipping_quantile) if adaptive else rule_of(kind)
    return Clip(section.clipping_norm, rule)


def noised(plan: Plan, epsilon: float | None, noise_multiplier: float | None, *, masked: bool) -> Plan:
    """Returns the plan of noised gradients with the least noise for `epsilon`, or with the noise given.

    `masked`: in whole-number shares on a grid.

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


def _noised_gradients(study: Study, noiser: Noiser) -> Plan:
    section, clip = study.privacy, clip_of_study(study.privacy)
    size = NoisyCount() if section.num_patients is None else PublicSize(section.num_patients)
    unit, correlation = GaussianEvent(section.noise_multiplier or 1.0), correlation_of(study)
    part: NoisedGradients | CorrelatedGradients
    if correlation is None:
        releases = releases_after(study, study.rounds)
        part = NoisedGradients(clip, unit, section.sampling_prob, releases, size, noiser)
    else:
        part = CorrelatedGradients(clip, unit, correlation, size, _shared(noiser))
    plan = _plan(section, part)
    return noised(plan, section.epsilon, section.noise_multiplier, masked=section.sum == "masked")


def _plan(section: PrivacySection, part: Training) -> Plan:
    parts: tuple[Part, ...] = (part,)
    if isinstance(part, NoisedGradients | CorrelatedGradients) and isinstance(part.size, NoisyCount):
        parts = (NoisedCounts(GaussianEvent(1.0), part.noiser), part)
    return Plan(
        parts=parts,
        delta=section.delta or 1e-5,
        accountant=AccountantKind(section.accountant),
        images_per_patient=section.images_per_patient,
    )


def _open_size(section: PrivacySection) -> PublicSize | ExactCount:
    return ExactCount() if section.num_patients is None else PublicSize(section.num_patients)


def _shared(noiser: Noiser) -> ByEachHospital | NoiseShares:
    if isinstance(noiser, ByCoordinator):
        raise PrivacyError("Hospitals must noise this themselves: trust cannot be coordinator.")
    return noiser


def _on_grid(plan: Plan) -> Plan:
    """Returns the plan with its noise in whole-number shares."""
    part = plan.training
    if not isinstance(part, NoisedGradients) or not isinstance(plan.noiser, NoiseShares):
        raise PrivacyError("Masked sums are of noised gradients with shares of noise, and this plan has none.")
    shares = shares_for(part.noise.noise_multiplier, part.clip.norm, _MOST_COORDINATES, plan.noiser)
    if plan.count is None:
        return with_shares(plan, shares)
    return with_shares(
        plan, shares, shares_for(plan.count.noise.noise_multiplier, 1.0, COUNT_COORDINATES, plan.noiser)
    )


def _least(study: Study, make_event: Callable[[float], Event]) -> float:
    """Returns the least noise multiplier whose event keeps the study's epsilon."""
    section = study.privacy
    if section.epsilon is None:
        raise PrivacyError("A private plan needs epsilon or noise_multiplier, got neither.")
    accountant = AccountantKind(section.accountant)
    return calibrate_noise_multiplier(make_event, section.epsilon, section.delta or 1e-5, accountant)


def _update_mechanism(study: Study, releases: int) -> ClippedUpdate | SparseVector | GumbelTopK:
    """Returns the mechanism on updates with the least noise for the study's epsilon over all visits, or as given."""
    section = study.privacy
    if section.plan == "sparse-vector":
        mechanism = sparse_vector_of(section)
        if section.epsilon is None:
            return mechanism
        inverse = _least(study, lambda z: SelfComposedEvent(PureEvent(1 / z), releases))
        even = section.epsilon / releases * (1 - 1e-12)  # rounding cannot bring the sum above the promise
        return replace(mechanism, epsilon=max(1 / inverse, even))
    if section.plan == "top-k":
        top = GumbelTopK(
            section.clipping_norm, section.answers or 1, section.noise_multiplier or 1.0, section.values_share
        )
        if section.epsilon is None:
            return top
        least = _least(study, lambda z: SelfComposedEvent(replace(top, noise_multiplier=z).event, releases))
        return replace(top, noise_multiplier=least)
    given = section.noise_multiplier
    least = given or _least(study, lambda z: SelfComposedEvent(GaussianEvent(z), releases))
    return ClippedUpdate(section.clipping_norm, least)


def sparse_vector_of(section: PrivacySection) -> SparseVector:
    """Returns the mechanism as the study describes it; given a total epsilon, that of one release is still open."""
    answers, share = section.answers or 1, section.values_share
    epsilon = section.epsilon if section.noise_multiplier is None else answers / (section.noise_multiplier * share)
    return SparseVector(section.clipping_norm, answers, epsilon or 1.0, section.answer_threshold, share)


def correlation_of(study: Study) -> Correlation | None:
    """Returns how the noise of the rounds hangs together; None where every round has its own."""
    cohorts, momentum = study.privacy.cohorts, study.federation.momentum
    if study.privacy.plan != "correlated-noise" or cohorts is None:
        return None
    bands = study.privacy.bands or best_bands(study.rounds, cohorts, momentum)
    return Correlation(study.rounds, cohorts, bands, momentum)


def epsilon_limit_of(study: Study, plan: Plan) -> float:
    """Returns what each hospital's ledger allows: the study's word, or else just what the plan promises."""
    if study.privacy.epsilon_limit is not None:
        return study.privacy.epsilon_limit
    return max(study.privacy.epsilon or 0.0, plan.epsilon)
