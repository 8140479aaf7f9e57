"""A plan in words: what was promised to a patient, and against whom it holds; one `match` over all kinds.

Where the data name no patient, every sentence is about a picture.
"""

import math
from dataclasses import asdict, dataclass, is_dataclass
from typing import assert_never

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.discrete import DiscreteShares
from wardround.accounting.statement import FLOATING_POINT_CAVEAT, Statement, format_epsilon
from wardround.accounting.terms import PrivacyUnit
from wardround.errors import PrivacyError
from wardround.noisers import Trust
from wardround.per_patient.clipping_rules import Automatic, ClippingKind, PerLayer, Split
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.plans.costs import planned_releases, relation_of
from wardround.privacy.plans.kinds import (
    Clip,
    CorrelatedGradients,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
)
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import noiser_of
from wardround.types import Persons

_SEEN_BY = {
    Trust.COORDINATOR: "every hospital and every recipient of the model; the coordinator sees the sums without noise",
    Trust.SECURE_AGGREGATION: "the coordinator, every hospital and every recipient of the model",
    Trust.NOBODY: "the coordinator, the other hospitals and every recipient of the model",
}
_RELEASED = {
    Trust.COORDINATOR: "the noised sum of the {}s' clipped gradients in every round",
    Trust.SECURE_AGGREGATION: "the noised sum of the {}s' clipped gradients in every round",
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
    "its noise of earlier rounds to itself: a reader of that can take noise off what was released."
)
_SUMMED_SCORES = "the noised sum over all hospitals of histograms of the test {}s' scores by class"
_NOISED_SCORES = "each hospital's noised histograms of its test {}s' scores by class"
_OPEN_SCORES = "each hospital's exact histograms of its test {}s' scores by class"
_OPEN_REASON = 'the study sets [evaluation] level = "unprotected", and no noise is added'
_OF_TEST_PATIENTS = "This is about the test {}s, of which none is in the training of this study."
_TOO_LARGE = 100.0
_NO_PROTECTION = (
    "An epsilon this large is no protection: a holder of the release can tell this {} from any other with "
    "certainty for all practical purposes, however noisy the pictures look."
)
_PICTURES_ONCE = (
    "The number of {0}s, and of each {0}'s pictures, is public. Every training picture is released once, "
    "before training; whatever is computed from the release afterwards, by any party, costs nothing more. The random "
    "numbers are of floating-point arithmetic; the guarantee is proved for real numbers."
)
_NOT_COVERED = (
    "This number is for this run alone: a ledger adds up all studies of a {}. It does not cover what a simulation "
    "releases without protection, such as test figures, references and exact counts of every hospital: certificate and "
    "report list all of it."
)
_SIMULATED_SECURE_SUM = (
    "Secure aggregation is simulated: the noise is that of all shares together, but the sum was formed in the open on "
    "this machine, so against the coordinator this is a rehearsal of the promise and not the promise."
)
_ONE_PROCESS = (
    "Noise, masks and signatures are those of separate hospitals, but one process holds all of their keys and all of "
    "their {}s here: against the operator of that process this is a rehearsal of the promise and not the promise."
)
_COMPUTATIONAL = (
    "Noise and masks are pseudorandom: the guarantee holds against adversaries who cannot break AES-256, X25519, "
    "Ed25519, HKDF or SHA-256."
)
_ONE_PER_PICTURE = (
    "The site states that no person has two pictures; nothing in the pictures shows it. This number does not cover a "
    "person who has two."
)
_UNNAMED = (
    "The pictures name no patient, so the promise is for one picture: this number does not cover a person who has "
    "several."
)
_SAME_BITS = (
    "The sensitivity rests on a {}'s gradient coming out the same, to the last bit, beside all possible others in the "
    "round: it is computed so that nothing should make it differ, and networks are tested for it, but it is not proved."
)


@dataclass(frozen=True)
class Words:
    """A training part as a statement prints it.

    Attributes:
        noise_multiplier: noise over sensitivity.
        bound: that the noise is measured against.
        clipping: how gradients are brought to it; empty where flat, or where nothing is promised.
        caveats: whole sentences, before those about the number of patients.
        bound_name: of the bound; see `Statement`.
    """

    mechanism: str
    noise_multiplier: float
    bound: float
    clipping: str
    sampler: str
    released: str
    released_to: str
    caveats: tuple[str, ...] = (FLOATING_POINT_CAVEAT,)
    bound_name: str = "clipping_norm"


def words_of(plan: Plan) -> Words:
    """Returns a plan's training part in words."""
    part, seen_by, one = plan.training, _SEEN_BY[plan.trust], plan.persons.one
    match part:
        case NoisedGradients():
            masked = plan.masked is not None
            return Words(
                "discrete Gaussian on a grid" if masked else "Gaussian",
                part.noise.noise_multiplier,
                part.clip.norm,
                _clipping(part.clip),
                _poisson(part.sampling_prob, one),
                _RELEASED[plan.trust].format(one) + _statistics(part, one),
                seen_by,
                (_COMPUTATIONAL, _SAME_BITS.format(one)) if masked else (FLOATING_POINT_CAVEAT,),
            )
        case CorrelatedGradients():
            each, times = part.correlation.cohorts, part.correlation.participations
            return Words(
                f"Gaussian (correlated over rounds, {part.correlation.bands} bands)",
                part.noise.noise_multiplier,
                part.clip.norm,
                _clipping(part.clip),
                f"fixed cohorts: each {one} every {each} rounds, {times} times at most",
                _RELEASED[plan.trust].format(one),
                seen_by,
            )
        case NoisedUpdates() | NoisedHead():
            return Words(
                part.mechanism.name,
                part.mechanism.noise_multiplier,
                part.mechanism.bound,
                "",
                _training_sampler(part, one),
                part.mechanism.what.replace("one patient", f"one {one}"),
                seen_by,
                bound_name=part.mechanism.bound_name,
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
                pictures.bound_name,
            )
        case NothingTrained():
            said = evaluation_statement(plan, simulated=False, seeded=False)
            return Words(
                said.mechanism, said.noise_multiplier, said.bound, "", said.sampler,
                said.released_what, said.released_to, said.caveats, said.bound_name,
            )  # fmt: skip
        case NotPrivate():
            drawn = part.participation
            sampler = _poisson(drawn, one) if isinstance(drawn, float | int) else "fixed cohorts"
            what = "what every hospital computed in every round"
            return Words("Gaussian", 0.0, part.clip.norm, "", sampler, what, seen_by, ())
        case _:
            assert_never(part)


def statement_of(
    plan: Plan, *, releases: int | None = None, counts: int | None = None, simulated: bool, seeded: bool
) -> Statement:
    """Returns the statement of a plan, after `releases` of its training part and `counts` (default: all of them)."""
    done = plan.releases if releases is None else releases
    counts = plan.counts if counts is None else counts
    words = words_of(plan)
    return Statement(
        epsilon=plan.epsilon_after(done, counts),
        delta=plan.delta,
        sampler=words.sampler,
        mechanism=words.mechanism,
        noise_multiplier=words.noise_multiplier,
        bound=words.bound,
        bound_name=words.bound_name,
        clipping=words.clipping,
        releases=done + (counts if plan.count is not None else 0),
        released_what=words.released + (_counted(counts, plan.persons.one) if plan.count is not None else ""),
        released_to=words.released_to,
        noiser=plan.noiser,
        images_per_patient=_most_pictures(plan),
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


def evaluation_statement(plan: Plan, *, simulated: bool, seeded: bool) -> Statement:
    """Returns the statement of a plan's evaluation, about its test patients, over all foreseen releases.

    Raises:
        PrivacyError: the plan has no evaluation.
    """
    part = plan.evaluation
    if part is None:
        raise PrivacyError("A plan must have an evaluation to state what it promises, and this one has none.")
    open_, one = isinstance(part, OpenHistograms), plan.persons.one
    masked = isinstance(part, NoisedHistograms) and isinstance(part.noise, DiscreteShares)
    return Statement(
        epsilon=plan.evaluation_epsilon,
        delta=plan.delta,
        sampler=f"full participation: every test {one} once",
        mechanism="discrete Gaussian on a grid" if masked else "Gaussian",
        noise_multiplier=0.0 if isinstance(part, OpenHistograms) else part.noise.noise_multiplier,
        bound=math.inf if isinstance(part, OpenHistograms) else part.sensitivity,
        bound_name="sensitivity",
        releases=planned_releases(part),
        released_what=(_OPEN_SCORES if open_ else _SUMMED_SCORES if masked else _NOISED_SCORES).format(one),
        released_to="the coordinator, every hospital and every reader of the record",
        noiser=noiser_of(part),
        unit=PrivacyUnit.PICTURE if plan.persons is Persons.UNNAMED else PrivacyUnit.PATIENT,
        relation=relation_of(part),
        accountant=plan.accountant,
        simulated=simulated,
        seeded=seeded,
        guarantee=not open_,
        reason=_OPEN_REASON if open_ else "",
        caveats=(
            _OF_TEST_PATIENTS.format(one),
            *(() if open_ else (_COMPUTATIONAL,) if masked else (FLOATING_POINT_CAVEAT,)),
        ),
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


def _most_pictures(plan: Plan) -> int | None:
    """Returns the most pictures of a patient; None where a unit has all of its pictures, or is one."""
    whole = isinstance(plan.training, NothingTrained) or plan.unit is not PrivacyUnit.PATIENT
    return None if whole else plan.images_per_patient


def _caveats(plan: Plan, done: int, simulated: bool) -> list[str]:
    training, one, caveats = plan.training, plan.persons.one, []
    if plan.is_private and plan.unit is PrivacyUnit.PICTURE:
        caveats.append(_UNNAMED)
    if plan.is_private and plan.unit is PrivacyUnit.PATIENT and plan.persons is Persons.ONE_PER_PICTURE:
        caveats.append(_ONE_PER_PICTURE)
    if plan.is_private and plan.public_size is not None:
        caveats.append(_public_size(plan.public_size, one))
    if plan.count is not None:
        caveats.append("The size of the training set was counted with noise; that count is part of the releases.")
    match training:
        case NoisedHead():
            patients = training.mechanism.fit.num_patients
            assert patients is not None, "checked when made"
            caveats.append(_public_size(round(patients * plan.hospitals), one))
        case CorrelatedGradients():
            caveats.append(_CORRELATED.format(training.correlation.sensitivity))
        case NoisedPictures():
            caveats += _of_pictures(plan, training.release, plan.epsilon_after(done))
        case _:
            pass
    if simulated and plan.is_private:
        caveats.append(_NOT_COVERED.format(one))
    if simulated and plan.is_private and plan.trust is Trust.SECURE_AGGREGATION:
        caveats.append(_SIMULATED_SECURE_SUM if plan.masked is None else _ONE_PROCESS.format(one))
    return caveats


def _public_size(number: int, one: str) -> str:
    return f"The size of the training set, {number} {one}s, is a public constant."


def _of_pictures(plan: Plan, release: LocalRelease, epsilon: float) -> list[str]:
    """Returns the sentences that belong to the epsilon of noised pictures."""
    one, unit = format_epsilon(epsilon_of(release.image_event, plan.delta, plan.accountant)), plan.persons.one
    whole = "" if unit == "picture" else " of a patient"
    caveats = [
        _PICTURES_ONCE.format(unit),
        f"Of one picture{whole}, with its label, epsilon = {one} at delta = {plan.delta:g}.",
        *release.pictures.caveats,
    ]
    return [*caveats, _NO_PROTECTION.format(unit)] if epsilon > _TOO_LARGE else caveats


def _clipping(clip: Clip) -> str:
    quantile = 0.5 if clip.adaptive is None else clip.adaptive.quantile
    return _CLIPPING[kind_of(clip)].format(quantile=quantile)


def _poisson(sampling_prob: float, one: str) -> str:
    if sampling_prob == 1:
        return f"full participation: every {one} in every release"
    return f"Poisson sampling of {one}s with probability {sampling_prob:g}, kept secret"


def _training_sampler(part: NoisedUpdates | NoisedHead, one: str) -> str:
    if part.mechanism.unit is PrivacyUnit.HOSPITAL:
        return "whatever its training drew: amplification by sampling is not counted"
    return f"full participation: every {one} in every release"


def _statistics(part: NoisedGradients, one: str) -> str:
    """Returns the rounds that release another sum than that of gradients."""
    means, moments = f"the {one}s’ mean features", "moments of their class scores"
    kinds = ((part.centres, "first", means), (part.scores, "last", moments))
    found = [
        f"in {'' if rounds == 1 else 'each of '}the {which if rounds == 1 else f'{which} {rounds}'}, of {what} instead"
        for rounds, which, what in kinds
        if rounds
    ]
    return f" ({'; '.join(found)})" if found else ""


def _counted(counts: int, one: str) -> str:
    return ", and " + (f"one noised count of {one}s" if counts == 1 else f"{counts} noised counts of {one}s")
