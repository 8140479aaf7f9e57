"""A plan in words: what was promised to a patient, and against whom it holds; one `match` over all kinds."""

from dataclasses import asdict, dataclass, is_dataclass
from typing import assert_never

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.statement import FLOATING_POINT_CAVEAT, Statement, format_epsilon
from wardround.accounting.terms import PrivacyUnit
from wardround.noisers import Trust
from wardround.per_patient.clipping_rules import Automatic, ClippingKind, PerLayer, Split
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.plans.kinds import (
    Clip,
    CorrelatedGradients,
    NoisedGradients,
    NoisedHead,
    NoisedPictures,
    NoisedUpdates,
    NotPrivate,
    PublicSize,
)
from wardround.privacy.plans.plan import Plan

_SEEN_BY = {
    Trust.COORDINATOR: "every hospital and whoever gets the model; the coordinator sees the sums without noise",
    Trust.SECURE_AGGREGATION: "the coordinator, every hospital and whoever gets the model",
    Trust.NOBODY: "the coordinator, the other hospitals and whoever gets the model",
}
_RELEASED = {
    Trust.COORDINATOR: "the noised sum of the patients' clipped gradients in every round",
    Trust.SECURE_AGGREGATION: "the noised sum of the patients' clipped gradients in every round",
    Trust.NOBODY: "every hospital's own noised sums of clipped gradients, or what is computed from them",
}
_CLIPPING = {
    ClippingKind.FLAT: "",
    ClippingKind.PER_LAYER: "each layer to an equal share of its square",
    ClippingKind.PER_LAYER_BY_SIZE: "each layer to a share of its square by size",
    ClippingKind.AUTOMATIC: "automatic: every gradient is scaled to about that norm",
    ClippingKind.ADAPTIVE: "adaptive: it starts there and follows the {quantile:g}-quantile of the norms; the "
    "noised count for that is part of every sum and paid for in it",
}
_CORRELATED = (
    "The sums of all rounds are one release, whose sensitivity is {:.4g} times the clipping norm. Each hospital keeps "
    "its noise of earlier rounds to itself: whoever reads that can take noise off what was released."
)
_TOO_LARGE = 100.0
_NO_PROTECTION = (
    "An epsilon this large is no protection: whoever holds the release can tell this patient from any other with "
    "certainty for all practical purposes, however noisy the pictures look."
)
_PICTURES_ONCE = (
    "The number of patients, and of each patient's pictures, is public. Every training picture is released once, "
    "before training; whatever is computed from the release afterwards, by whomever, costs nothing more. The random "
    "numbers are of floating-point arithmetic; the guarantee is proved for real numbers."
)
_SIMULATED_SECURE_SUM = (
    "Secure aggregation is simulated: the noise is that of all shares together, but the sum was formed in the open on "
    "this machine, so against the coordinator this is a rehearsal of the promise and not the promise."
)
_ONE_PROCESS = (
    "Noise, masks and signatures are those of separate hospitals, but one process holds all of their keys and all of "
    "their patients here: against whoever runs it this is a rehearsal of the promise and not the promise."
)
_COMPUTATIONAL = (
    "Noise and masks are pseudorandom: the guarantee holds against adversaries who cannot break AES-256, X25519, "
    "Ed25519, HKDF or SHA-256."
)
_WHOEVER_ELSE = (
    "The sensitivity rests on a patient's gradient coming out the same, to the last bit, whoever else is in the round: "
    "it is computed so that nothing should make it differ, and networks are tested for it, but it is not proved."
)


@dataclass(frozen=True)
class Words:
    """A training part as a statement prints it.

    Attributes:
        mechanism: such as "Gaussian".
        noise_multiplier: noise over sensitivity.
        clipping_norm: the bound that the noise is measured against.
        clipping: how gradients are brought to it; empty where flat, or where nothing is promised.
        sampler: how patients were drawn.
        released: what is released in a round.
        released_to: parties that see it.
        caveats: whole sentences, before those about the number of patients.
    """

    mechanism: str
    noise_multiplier: float
    clipping_norm: float
    clipping: str
    sampler: str
    released: str
    released_to: str
    caveats: tuple[str, ...] = (FLOATING_POINT_CAVEAT,)


def words_of(plan: Plan) -> Words:
    """Returns a plan's training part in words."""
    part, seen_by = plan.training, _SEEN_BY[plan.trust]
    match part:
        case NoisedGradients():
            masked = plan.masked is not None
            return Words(
                "discrete Gaussian on a grid" if masked else "Gaussian",
                part.noise.noise_multiplier,
                part.clip.norm,
                _clipping(part.clip),
                _poisson(part.sampling_prob),
                _RELEASED[plan.trust],
                seen_by,
                (_COMPUTATIONAL, _WHOEVER_ELSE) if masked else (FLOATING_POINT_CAVEAT,),
            )
        case CorrelatedGradients():
            each, times = part.correlation.cohorts, part.correlation.participations
            return Words(
                f"Gaussian (correlated over rounds, {part.correlation.bands} bands)",
                part.noise.noise_multiplier,
                part.clip.norm,
                _clipping(part.clip),
                f"fixed cohorts: each patient every {each} rounds, {times} times at most",
                _RELEASED[plan.trust],
                seen_by,
            )
        case NoisedUpdates() | NoisedHead():
            return Words(
                part.mechanism.name,
                part.mechanism.noise_multiplier,
                part.mechanism.clipping_norm,
                "",
                _training_sampler(part),
                part.mechanism.what,
                seen_by,
            )
        case NoisedPictures():
            pictures, labels = part.release.pictures, part.release.labels
            return Words(
                f"{pictures.name} (labels: {labels.name} of {format_epsilon(labels.epsilon)} each)",
                pictures.noise_multiplier,
                pictures.bound,
                "how far one replaced picture moves what is released of it",
                "full participation: every training picture, each by itself",
                pictures.what,
                "everybody",
                (),
            )
        case NotPrivate():
            drawn = part.participation
            sampler = _poisson(drawn) if isinstance(drawn, float | int) else "fixed cohorts"
            what = "what every hospital computed in every round"
            return Words("Gaussian", 0.0, part.clip.norm, "", sampler, what, seen_by, ())
        case _:
            assert_never(part)


def statement_of(
    plan: Plan, *, releases: int | None = None, counts: int = 1, simulated: bool, seeded: bool
) -> Statement:
    """Returns the statement of a plan, after `releases` of its training part (default: all of them).

    Args:
        plan: the plan.
        releases: noised sums of one hospital's patients so far.
        counts: noised counts of them, where the plan counts.
        simulated: all hospitals are on one machine.
        seeded: noise and sampling came from a seed.
    """
    done = plan.releases if releases is None else releases
    words = words_of(plan)
    return Statement(
        epsilon=plan.epsilon_after(done, counts),
        delta=plan.delta,
        sampler=words.sampler,
        mechanism=words.mechanism,
        noise_multiplier=words.noise_multiplier,
        clipping_norm=words.clipping_norm,
        clipping=words.clipping,
        releases=done + (counts if plan.count is not None else 0),
        released_what=words.released + (_counted(counts) if plan.count is not None else ""),
        released_to=words.released_to,
        noiser=plan.noiser,
        images_per_patient=plan.images_per_patient if plan.unit is PrivacyUnit.PATIENT else None,
        unit=plan.unit,
        relation=plan.relation,
        division=plan.division,
        accountant=plan.accountant,
        simulated=simulated,
        seeded=seeded,
        guarantee=plan.is_private,
        reason=""
        if plan.is_private
        else 'the study sets plan = "none": gradients are neither clipped nor noised.',
        caveats=(*words.caveats, *_caveats(plan, done, simulated)),
    )


def clipping_terms(clip: Clip) -> dict[str, int | float | str]:
    """Returns how gradients are brought to the clipping norm, with every parameter of the rule, by name."""
    parameters = asdict(clip.rule) if is_dataclass(clip.rule) else {}
    return {
        "clipping": kind_of(clip).value,
        **{f"clipping_{name}": value for name, value in parameters.items()},
    }


def kind_of(clip: Clip) -> ClippingKind:
    """Returns a clip's rule as a study file names it."""
    match clip.rule:
        case AdaptiveNorm():
            return ClippingKind.ADAPTIVE
        case Automatic():
            return ClippingKind.AUTOMATIC
        case PerLayer(split=Split.SIZE):
            return ClippingKind.PER_LAYER_BY_SIZE
        case PerLayer():
            return ClippingKind.PER_LAYER
        case _:
            return ClippingKind.FLAT


def _caveats(plan: Plan, done: int, simulated: bool) -> list[str]:
    training, caveats = plan.training, []
    match training:
        case NoisedGradients(size=PublicSize(number)) | CorrelatedGradients(size=PublicSize(number)):
            caveats.append(_public_size(number))
        case NoisedPictures(size=PublicSize(number)):
            caveats.append(_public_size(number))
        case NoisedHead():
            patients = training.mechanism.fit.num_patients
            assert patients is not None, "checked when made"
            caveats.append(_public_size(round(patients * plan.hospitals)))
        case _:
            pass
    if plan.count is not None:
        caveats.append("The size of the training set was counted privately; that count is part of the releases.")
    match training:
        case CorrelatedGradients():
            caveats.append(_CORRELATED.format(training.correlation.sensitivity))
        case NoisedPictures():
            caveats += _of_pictures(plan, training.release, plan.epsilon_after(done))
        case _:
            pass
    if simulated and plan.is_private and plan.trust is Trust.SECURE_AGGREGATION:
        caveats.append(_SIMULATED_SECURE_SUM if plan.masked is None else _ONE_PROCESS)
    return caveats


def _public_size(number: int) -> str:
    return f"The size of the training set, {number} patients, is a public constant."


def _of_pictures(plan: Plan, release: LocalRelease, epsilon: float) -> list[str]:
    """Returns the sentences that belong to the epsilon of noised pictures."""
    one = format_epsilon(epsilon_of(release.image_event, plan.delta, plan.accountant))
    caveats = [
        _PICTURES_ONCE,
        f"Of one picture of a patient, with its label, epsilon = {one} at delta = {plan.delta:g}.",
        *release.pictures.caveats,
    ]
    return [*caveats, _NO_PROTECTION] if epsilon > _TOO_LARGE else caveats


def _clipping(clip: Clip) -> str:
    quantile = 0.5 if clip.adaptive is None else clip.adaptive.quantile
    return _CLIPPING[kind_of(clip)].format(quantile=quantile)


def _poisson(sampling_prob: float) -> str:
    if sampling_prob == 1:
        return "full participation: every patient in every release"
    return f"Poisson sampling of patients with probability {sampling_prob:g}, kept secret"


def _training_sampler(part: NoisedUpdates | NoisedHead) -> str:
    if part.mechanism.unit is PrivacyUnit.HOSPITAL:
        return "whatever its training drew: amplification by sampling is not counted"
    return "full participation: every patient in every release"


def _counted(counts: int) -> str:
    return ", and " + ("one noised count of patients" if counts == 1 else f"{counts} noised counts of patients")
