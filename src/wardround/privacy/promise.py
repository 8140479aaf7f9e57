"""The plan in words: what was promised to a patient, and against whom it holds."""

from wardround.accounting.events import Event
from wardround.accounting.insiders import InsiderRow, epsilon_by_colluders
from wardround.accounting.statement import FLOATING_POINT_CAVEAT, Statement
from wardround.accounting.terms import Trust
from wardround.privacy.clips import ClippingKind
from wardround.privacy.plan import PrivacyPlan, with_noise_multiplier

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
_SIMULATED_SECURE_SUM = (
    "Secure aggregation is simulated: the noise shares are real, but the sum was formed in the open on this "
    "machine, so against the coordinator this is a rehearsal of the promise and not the promise."
)


def statement_of(plan: PrivacyPlan, *, releases: int | None = None, simulated: bool, seeded: bool) -> Statement:
    """The statement of a plan, after `releases` of its sums (default: all of them).

    Args:
        plan: the plan.
        releases: noised sums of one hospital's patients so far.
        simulated: all hospitals are on one machine.
        seeded: noise and sampling came from a seed.
    """
    done = plan.releases if releases is None else releases
    counted = plan.is_private and plan.is_counted
    update = plan.on_update
    caveats = [FLOATING_POINT_CAVEAT] if plan.is_private else []
    if plan.is_private and plan.num_patients is not None:
        caveats.append(f"The size of the training set, {plan.num_patients} patients, is a public constant.")
    if counted:
        caveats.append("The size of the training set was counted privately; that count is part of the releases.")
    if simulated and plan.is_private and plan.trust is Trust.SECURE_AGGREGATION:
        caveats.append(_SIMULATED_SECURE_SUM)
    return Statement(
        epsilon=plan.epsilon_after(done),
        delta=plan.delta,
        sampler=_sampler(plan),
        mechanism="Gaussian" if update is None else update.name,
        noise_multiplier=plan.noise_multiplier if update is None else update.noise_multiplier,
        clipping_norm=plan.clipping_norm if update is None else update.clipping_norm,
        clipping=_CLIPPING[plan.clipping].format(quantile=plan.quantile) if plan.is_private else "",
        releases=done + (1 if counted else 0),
        released_what=_released(plan) + (", and one noised count of patients" if counted else ""),
        released_to=_SEEN_BY[plan.trust],
        trust=plan.trust,
        hospitals=plan.hospitals,
        colluders=plan.colluders,
        dropouts=plan.dropouts,
        images_per_patient=plan.images_per_patient if update is None else None,
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


def _sampler(plan: PrivacyPlan) -> str:
    if plan.on_update is not None:
        return "whatever its training drew: amplification by sampling is not counted"
    if plan.sampling_prob == 1:
        return "full participation: every patient in every release"
    return f"Poisson sampling of patients with probability {plan.sampling_prob:g}, kept secret"


def _released(plan: PrivacyPlan) -> str:
    if plan.on_update is not None:
        return plan.on_update.what
    return _RELEASED[plan.trust] if plan.is_private else "what every hospital computed in every round"


def insiders_of(plan: PrivacyPlan, releases: int | None = None) -> tuple[InsiderRow, ...]:
    """Epsilon after `releases` sums (default: all) against each adversary; empty where nothing is promised."""
    done = plan.releases if releases is None else releases
    if not plan.is_private or done == 0:
        return ()

    def event(noise_multiplier: float) -> Event:
        return with_noise_multiplier(plan, noise_multiplier).event_after(done)

    update = plan.on_update
    return epsilon_by_colluders(
        event if update is None or plan.trust is not Trust.NOBODY else lambda _: plan.event_after(done),
        plan.noise_multiplier if update is None else update.noise_multiplier,
        delta=plan.delta,
        hospitals=plan.hospitals,
        colluders=plan.colluders if plan.trust is Trust.SECURE_AGGREGATION else 0,
        dropouts=plan.dropouts if plan.trust is Trust.SECURE_AGGREGATION else 0,
        trust=plan.trust,
        accountant=plan.accountant,
    )
