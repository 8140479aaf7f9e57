"""The plan in words: what was promised to a patient, and against whom it holds."""

from dataclasses import replace

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import Event
from wardround.accounting.insiders import InsiderRow, epsilon_by_colluders
from wardround.accounting.statement import FLOATING_POINT_CAVEAT, Statement, format_epsilon
from wardround.accounting.terms import PrivacyUnit, Trust
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.pictures.release import LocalRelease
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.variants import with_noise_multiplier

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


def statement_of(
    plan: PrivacyPlan, *, releases: int | None = None, counts: int = 1, simulated: bool, seeded: bool
) -> Statement:
    """The statement of a plan, after `releases` of its sums (default: all of them).

    Args:
        plan: the plan.
        releases: noised sums of one hospital's patients so far.
        counts: noised counts of them, where the plan counts.
        simulated: all hospitals are on one machine.
        seeded: noise and sampling came from a seed.
    """
    done = plan.releases if releases is None else releases
    counted = plan.is_private and plan.is_counted
    caveats = [FLOATING_POINT_CAVEAT] if plan.is_private and plan.on_pictures is None else []
    if plan.shares is not None:
        caveats = [_COMPUTATIONAL, _WHOEVER_ELSE]
    if plan.is_private and plan.num_patients is not None:
        caveats.append(f"The size of the training set, {plan.num_patients} patients, is a public constant.")
    if counted:
        caveats.append("The size of the training set was counted privately; that count is part of the releases.")
    if plan.is_private and plan.correlation is not None:
        caveats.append(_CORRELATED.format(plan.correlation.sensitivity))
    if plan.on_pictures is not None:
        caveats += _caveats_of(plan, plan.on_pictures, plan.epsilon_after(done))
    if simulated and plan.is_private and plan.trust is Trust.SECURE_AGGREGATION:
        caveats.append(_SIMULATED_SECURE_SUM if plan.shares is None else _ONE_PROCESS)
    return Statement(
        epsilon=plan.epsilon_after(done, counts),
        delta=plan.delta,
        sampler=_sampler(plan),
        mechanism=_mechanism(plan),
        noise_multiplier=_noise_multiplier(plan),
        clipping_norm=_clipping_norm(plan),
        clipping=_clipping(plan),
        releases=done + (counts if counted else 0),
        released_what=_released(plan) + (_counted(counts) if counted else ""),
        released_to=_SEEN_BY[plan.trust] if plan.on_pictures is None else "everybody",
        trust=plan.trust,
        hospitals=plan.hospitals,
        colluders=plan.colluders,
        dropouts=plan.dropouts,
        images_per_patient=plan.images_per_patient if plan.unit is PrivacyUnit.PATIENT else None,
        unit=plan.unit,
        relation=plan.relation,
        accountant=plan.accountant,
        simulated=simulated,
        seeded=seeded,
        guarantee=plan.is_private,
        reason=""
        if plan.is_private
        else 'the study sets plan = "none": gradients are neither clipped nor noised.',
        caveats=tuple(caveats),
    )


def _caveats_of(plan: PrivacyPlan, release: LocalRelease, epsilon: float) -> list[str]:
    """What has to be said with the epsilon of noised pictures."""
    one = format_epsilon(epsilon_of(release.image_event, plan.delta, plan.accountant))
    caveats = [
        _PICTURES_ONCE,
        f"Of one picture of a patient, with its label, epsilon = {one} at delta = {plan.delta:g}.",
        *release.pictures.caveats,
    ]
    return [*caveats, _NO_PROTECTION] if epsilon > _TOO_LARGE else caveats


def _noise_multiplier(plan: PrivacyPlan) -> float:
    if plan.on_update is not None:
        return plan.on_update.noise_multiplier
    return plan.noise_multiplier if plan.on_pictures is None else plan.on_pictures.pictures.noise_multiplier


def _clipping_norm(plan: PrivacyPlan) -> float:
    if plan.on_update is not None:
        return plan.on_update.clipping_norm
    return plan.clipping_norm if plan.on_pictures is None else plan.on_pictures.pictures.bound


def _mechanism(plan: PrivacyPlan) -> str:
    if plan.on_pictures is not None:
        labels = plan.on_pictures.labels.epsilon
        return f"{plan.on_pictures.pictures.name} (labels: randomised response of {format_epsilon(labels)} each)"
    if plan.on_update is not None:
        return plan.on_update.name
    if plan.correlation is not None:
        return f"Gaussian (correlated over rounds, {plan.correlation.bands} bands)"
    return "Gaussian" if plan.shares is None else "discrete Gaussian on a grid"


def _clipping(plan: PrivacyPlan) -> str:
    if plan.on_pictures is not None:
        return "how far one replaced picture moves what is released of it"
    return _CLIPPING[plan.clipping].format(quantile=plan.quantile) if plan.is_private else ""


def _sampler(plan: PrivacyPlan) -> str:
    if plan.on_pictures is not None:
        return "full participation: every training picture, each by itself"
    if plan.on_update is not None and plan.unit is PrivacyUnit.HOSPITAL:
        return "whatever its training drew: amplification by sampling is not counted"
    if plan.correlation is not None:
        each, times = plan.correlation.cohorts, plan.correlation.participations
        return f"fixed cohorts: each patient every {each} rounds, {times} times at most"
    if plan.sampling_prob == 1:
        return "full participation: every patient in every release"
    return f"Poisson sampling of patients with probability {plan.sampling_prob:g}, kept secret"


def _counted(counts: int) -> str:
    return ", and " + ("one noised count of patients" if counts == 1 else f"{counts} noised counts of patients")


def _released(plan: PrivacyPlan) -> str:
    if plan.on_update is not None:
        return plan.on_update.what
    if plan.on_pictures is not None:
        return plan.on_pictures.pictures.what
    return _RELEASED[plan.trust] if plan.is_private else "what every hospital computed in every round"


def insiders_of(
    plan: PrivacyPlan, releases: int | None = None, counts: int = 1, *, all_present: bool = True
) -> tuple[InsiderRow, ...]:
    """Epsilon after `releases` sums (default: all) against each adversary; empty where nothing is promised.

    Without `all_present`, as where a hospital was missing from some round, rows that count on every share are left out.
    """
    done = plan.releases if releases is None else releases
    if not plan.is_private or (done == 0 and not plan.is_counted):
        return ()

    def event(noise_multiplier: float) -> Event:
        smooth = replace(plan, shares=None, count_shares=None)
        return with_noise_multiplier(smooth, noise_multiplier).event_after(done, counts)

    own = plan.on_update is not None or plan.on_pictures is not None
    rows = epsilon_by_colluders(
        event if not own or plan.trust is not Trust.NOBODY else lambda _: plan.event_after(done),
        _noise_multiplier(plan),
        delta=plan.delta,
        hospitals=plan.hospitals,
        colluders=plan.colluders if plan.trust is Trust.SECURE_AGGREGATION else 0,
        dropouts=plan.dropouts if plan.trust is Trust.SECURE_AGGREGATION else 0,
        trust=plan.trust,
        accountant=plan.accountant,
        parts=plan.parts_after(done, counts),
    )
    shared = plan.trust is Trust.SECURE_AGGREGATION
    return rows if all_present or not shared else tuple(row for row in rows if row.missing == plan.dropouts)
