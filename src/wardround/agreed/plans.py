"""The one privacy plan of a study, and the limit of its ledgers."""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import Event, GaussianEvent, SelfComposedEvent
from wardround.accounting.terms import Division
from wardround.agreed.masks import COUNT_COORDINATES, evaluation_coordinates, shares_for
from wardround.agreed.strategies import asks, head_fit_of, releases_after, spare_releases, timetable_of
from wardround.config import Study
from wardround.config.evaluation import NoEvaluation, NoisedEvaluation, UnprotectedEvaluation
from wardround.config.federation import OF_ONE, FederatedSGD
from wardround.config.privacy import (
    DPSGD,
    ClippedUpdates,
    CorrelatedNoise,
    NoPrivacy,
    OutputPerturbed,
    PlanSection,
    PublishedPlan,
    Untrained,
)
from wardround.errors import BudgetExhausted, PrivacyError, StudyError
from wardround.noisers import ByCoordinator, ByEachHospital, Noiser, NoiseShares, Trust
from wardround.per_patient.clipping_rules import ClippingKind, rule_of
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plans.calibrate import alone, calibrated, with_noise, with_shares
from wardround.privacy.plans.costs import event_of
from wardround.privacy.plans.kinds import (
    UNCLIPPED,
    Clip,
    CorrelatedGradients,
    Evaluation,
    ExactCount,
    Noise,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NoisyCount,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    PublicSize,
    Size,
    Training,
    by_hospitals,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.protects import plan_protects
from wardround.privacy.toeplitz import best_bands
from wardround.privacy.updates import ClippedUpdate
from wardround.published import published
from wardround.work import CountClasses, CountPatients, LocalUpdate, Work

_ONE = GaussianEvent(1.0)
"""Noise whose multiplier is still to be computed."""

_SHARING = DPSGD | CorrelatedNoise | ClippedUpdates | OutputPerturbed | Untrained

_MOST_COORDINATES = 1 << 40
"""Coordinates that the slack of whole-number noise is charged for: epsilon is computed before the network is built."""

_FOR_THE_GRID = 1e-9
"""Part of epsilon that is kept for that slack and for the last digit; it is far more than they are."""


def plan_of(study: Study) -> Plan:
    """Returns the one plan of a study's main run, calibrated; it protects everything that the strategy asks for.

    Raises:
        StudyError: the plan does not protect what the strategy asks for.
        PrivacyError: the guarantee cannot be given as asked.
    """
    draft = replace(_draft(study), division=division_of(study))
    check_fit(study, draft)
    plan = _calibrated(study, draft)
    only = isinstance(plan.training, NothingTrained)
    evaluation = evaluation_of(study, plan.noiser, masked=only or plan.masked is not None)
    if evaluation is None:
        return plan
    return replace(plan, parts=(*(plan.parts[:-1] if only else plan.parts), evaluation))


_EXACT_SCHEMES = ("sizes", "images", "label-shards")


def division_of(study: Study) -> Division:
    """Returns whether each patient's place follows from that patient alone, or the division of all is taken as fixed.

    Exact sizes couple patients, and the rule behind a published test part is not known here.
    """
    couples = study.hospitals.scheme in _EXACT_SCHEMES or study.data.test != "patients"
    return Division.FIXED if couples else Division.BY_OWN_ID


def check_fit(study: Study, plan: Plan) -> None:
    """Refuses a strategy that asks for an answer which the plan does not protect.

    Shares of noise, and the coordinator's, cover only sums of all hospitals' answers; an answer that may be seen alone
    must have all of its noise in it.

    Raises:
        StudyError: what is asked for, and what would fit.
    """
    name = study.federation.strategy
    seen_alone = not study.forms_sums and name not in OF_ONE
    for work in asks(study, plan):
        if not plan_protects(plan, work) or (seen_alone and not isinstance(plan.noiser, ByEachHospital)):
            trust = "" if plan.trust is Trust.NOBODY else f' with trust = "{plan.trust}"'
            raise StudyError(
                f'[privacy] plan = "{study.privacy.plan}"{trust} must protect what [federation] strategy = "{name}" '
                f"asks each hospital for ({work.name}), and does not. {_remedy(study, plan, work)}",
                code="study-plan-strategy",
            )


def _remedy(study: Study, plan: Plan, work: Work) -> str:
    """Returns what to change so that the answer is protected."""
    if isinstance(work, CountPatients | CountClasses) and getattr(study.federation, "repair", "none") != "none":
        return "Remove repair, which counts patients."
    if isinstance(work, LocalUpdate) and work.steps.keep_velocity:
        reset = replace(work, steps=replace(work.steps, keep_velocity=False))
        if plan_protects(plan, reset):
            return 'Set optimizer_state = "reset": a velocity that travels has no noise of its own.'
    if plan_protects(alone(plan, plan.hospitals, plan.releases), work):
        return 'Set trust = "nobody", or use strategy = "fedsgd".'
    return "Use another plan or another strategy; docs/strategies.md has the pairs that fit."


def noiser_of(study: Study) -> Noiser:
    """Returns the noiser of a study's main run; each hospital, where it is a federation of one."""
    hospitals, privacy = timetable_of(study).hospitals, study.privacy
    of_one = study.federation.strategy in OF_ONE
    if of_one or not isinstance(privacy, _SHARING):
        return ByEachHospital(hospitals)
    match privacy.trust:
        case "nobody":
            return ByEachHospital(hospitals)
        case "coordinator":
            return ByCoordinator(hospitals)
        case "secure-aggregation":
            dropouts = 0 if isinstance(privacy, CorrelatedNoise) else privacy.dropouts
            return NoiseShares(hospitals, privacy.colluders, dropouts)
        case _:
            assert_never(privacy.trust)


def _draft(study: Study) -> Plan:
    """Returns the plan before its noise is calibrated: with noise of multiplier 1 where it is still to be computed."""
    section, noiser = study.privacy, noiser_of(study)
    releases = releases_after(study, study.rounds) + spare_releases(study)
    match section:
        case DPSGD():
            clip, size = _clip(section), _size(section.num_patients)
            others = study.score_rounds, study.centre_rounds
            return _plan(
                section, NoisedGradients(clip, _ONE, section.sampling_prob, releases, size, noiser, *others)
            )
        case CorrelatedNoise():
            correlation = correlation_of(study, section)
            size = _size(section.num_patients)
            return _plan(
                section, CorrelatedGradients(_clip(section), _ONE, correlation, size, by_hospitals(noiser))
            )
        case ClippedUpdates():
            mechanism = ClippedUpdate(section.clipping_norm, section.noise_multiplier or 1.0)
            return _plan(section, NoisedUpdates(mechanism, section.sampling_prob, releases, by_hospitals(noiser)))
        case PublishedPlan():
            made: Training = published(section.plan, "plan").part_of(study, section, noiser.hospitals, releases)
            return _plan(section, made)
        case Untrained():
            evaluation = evaluation_of(study, noiser, masked=False)
            assert evaluation is not None, "checked when read"
            plan_parts = (NothingTrained(by_hospitals(noiser)), evaluation)
            return Plan(plan_parts, section.delta, AccountantKind(section.accountant))
        case OutputPerturbed():
            head = OutputPerturbation(head_fit_of(study), section.noise_multiplier or 1.0)
            return _plan(section, NoisedHead(head, by_hospitals(noiser)))
        case NoPrivacy():
            size_ = ExactCount() if section.num_patients is None else PublicSize(section.num_patients)
            return _plan(section, NotPrivate(UNCLIPPED, section.sampling_prob, releases, size_, noiser.hospitals))
        case _:
            assert_never(section)


def _calibrated(study: Study, plan: Plan) -> Plan:
    """Returns the plan with the noise that the study gives, or the least for its epsilon."""
    section, releases = study.privacy, plan.releases
    match section:
        case DPSGD():
            return noised(plan, section.epsilon, section.noise_multiplier, masked=section.sum == "masked")
        case CorrelatedNoise():
            return noised(plan, section.epsilon, section.noise_multiplier, masked=False)
        case NoPrivacy() | Untrained():
            return plan
        case PublishedPlan():
            found: Plan = published(section.plan, "plan").calibrated(plan, section)
            return found
        case ClippedUpdates() | OutputPerturbed():
            if section.epsilon is None:
                return plan
            return replace(plan, parts=(_least(plan, section.epsilon, releases),))
        case _:
            assert_never(section)


def evaluation_of(study: Study, noiser: Noiser, *, masked: bool) -> Evaluation | None:
    """Returns the part about test patients, where the study lets figures of them leave; else None.

    Its noise is the least for `[evaluation] epsilon` at the study's delta over one sum and all spare attempts, from the
    same hospitals as that of training: in shares under masks (`masked`), or all of it from each.

    Raises:
        PrivacyError: no finite noise gives that epsilon, the grid cannot carry it, or the coordinator would add it.
    """
    match study.evaluation:
        case NoEvaluation():
            return None
        case UnprotectedEvaluation():
            return OpenHistograms(noiser.hospitals)
        case NoisedEvaluation(epsilon=epsilon):
            delta: float | None = getattr(study.privacy, "delta", None)
            assert study.data.classes is not None, "checked when read"
            assert delta is not None, "checked when read"
            shared, releases = by_hospitals(noiser), 1 + study.privacy.spare
            part = NoisedHistograms(_ONE, len(study.data.classes), shared, releases)
            multiplier = calibrate_noise_multiplier(
                lambda z: event_of(replace(part, noise=GaussianEvent(z)), releases),
                epsilon * (1 - _FOR_THE_GRID), delta, AccountantKind(study.privacy.accountant),
            )  # fmt: skip
            noise: Noise = GaussianEvent(multiplier)
            if masked and isinstance(shared, NoiseShares):
                noise = shares_for(multiplier, part.sensitivity, evaluation_coordinates(part.classes), shared)
            return replace(part, noise=noise)
        case _:
            assert_never(study.evaluation)


def _least(plan: Plan, epsilon: float, releases: int) -> NoisedUpdates | NoisedHead:
    """Returns the plan's part on updates or heads with the least noise for `epsilon` over all releases."""
    part = plan.training

    def least(event: Callable[[float], Event]) -> float:
        return calibrate_noise_multiplier(event, epsilon, plan.delta, plan.accountant)

    match part:
        case NoisedHead():
            return replace(part, mechanism=replace(part.mechanism, noise_multiplier=least(GaussianEvent)))
        case NoisedUpdates(mechanism=ClippedUpdate() as clipped):
            multiplier = least(lambda z: SelfComposedEvent(GaussianEvent(z), releases))
            return replace(part, mechanism=replace(clipped, noise_multiplier=multiplier))
        case _:
            raise PrivacyError("No noise can be computed for this mechanism: give noise_multiplier.")


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


def _plan(section: PlanSection, part: Training) -> Plan:
    parts: tuple[Part, ...] = (part,)
    if isinstance(part, NoisedGradients | CorrelatedGradients) and isinstance(part.size, NoisyCount):
        parts = (NoisedCounts(_ONE, part.noiser, 1 + section.spare), part)
    delta: float | None = getattr(section, "delta", None)
    images = part.release.images_per_patient if isinstance(part, NoisedPictures) else section.images_per_patient
    return Plan(parts, delta or 1e-5, AccountantKind(section.accountant), images)


def _clip(section: DPSGD | CorrelatedNoise) -> Clip:
    if isinstance(section, DPSGD) and section.clipping == "adaptive":
        return Clip(section.clipping_norm, AdaptiveNorm(section.clipping_quantile))
    return Clip(section.clipping_norm, rule_of(ClippingKind(section.clipping)))


def _size(num_patients: int | None) -> Size:
    return NoisyCount() if num_patients is None else PublicSize(num_patients)


def _on_grid(plan: Plan) -> Plan:
    """Returns the plan with its noise in whole-number shares."""
    part = plan.training
    if not isinstance(part, NoisedGradients) or not isinstance(plan.noiser, NoiseShares):
        raise PrivacyError(
            "Masked sums are of noised gradients with shares of noise from every hospital, and this study forms none; "
            'use strategy = "fedsgd", or sum = "simulated".'
        )
    shares = shares_for(part.noise.noise_multiplier, part.clip.norm, _MOST_COORDINATES, plan.noiser)
    if plan.count is None:
        return with_shares(plan, shares)
    count = shares_for(plan.count.noise.noise_multiplier, 1.0, COUNT_COORDINATES, plan.noiser)
    return with_shares(plan, shares, count)


def correlation_of(study: Study, section: CorrelatedNoise) -> Correlation:
    """Returns how the noise of the rounds hangs together."""
    momentum = study.federation.momentum if isinstance(study.federation, FederatedSGD) else 0.0
    bands = section.bands or best_bands(study.rounds, section.cohorts, momentum)
    return Correlation(study.rounds, section.cohorts, bands, momentum)


def epsilon_limit_of(study: Study, plan: Plan) -> float:
    """Returns what each hospital's ledger allows: the study's word, or else just what the plan promises."""
    if study.privacy.epsilon_limit is not None:
        return study.privacy.epsilon_limit
    return max(getattr(study.privacy, "epsilon", None) or 0.0, plan.epsilon)


def check_limit(study: Study, plan: Plan) -> None:
    """Refuses a study whose limit on one run has no room for its first round.

    Raises:
        BudgetExhausted: the cost of the first round, and the limit.
    """
    limit, first = epsilon_limit_of(study, plan), plan.epsilon_after(releases_after(study, 1))
    if first > limit:
        raise BudgetExhausted(
            f"`[privacy] epsilon_limit` must have room for one round, which costs a {plan.unit} epsilon = {first:.4g} "
            f"at delta = {plan.delta:g}, got {limit:g}. Raise it, or ask for a smaller epsilon."
        )
