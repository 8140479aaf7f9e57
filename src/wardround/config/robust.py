"""Robust means of the hospitals' answers in a study: where they are refused, and what earlier studies say of them."""

from typing import Any

from wardround.config.data import HospitalsSection
from wardround.config.federation import LATER_KEYS, OF_ONE, Averaging, FederatedSGD, FederationSection
from wardround.config.privacy import PrivacySection
from wardround.config.section import conflict


def forget_defaults(federation: dict[str, Any], but: tuple[str, ...] = ()) -> None:
    """Removes the keys that came later and are at their defaults from a dumped `[federation]`, but for some."""
    for key, default in LATER_KEYS.items():
        if key not in but and key in federation and federation[key] == default:
            del federation[key]


def robust_section(federation: FederationSection) -> FederatedSGD | Averaging | None:
    """Returns a section whose aggregator needs each hospital's own answer; None where a sum is enough."""
    if not isinstance(federation, FederatedSGD | Averaging):
        return None
    return federation if federation.aggregate != "mean" or federation.norm_bound is not None else None


def check_robust(federation: FederationSection, privacy: PrivacySection, options: HospitalsSection) -> None:
    """Refuses robust means where single answers are not seen, or are too few; rounds without a hospital likewise.

    Raises:
        ValueError: what must hold between the sections (codes `study-aggregate`, `study-leave-one-out`).
    """
    if not isinstance(federation, FederatedSGD | Averaging):
        return
    hospitals = options.count
    if isinstance(federation, FederatedSGD) and federation.leave_one_out:
        _check_leave_one_out(federation, privacy, options)
    name, bad = federation.aggregate, federation.byzantine
    if bad != 1 and name not in ("trimmed", "krum", "multi-krum"):
        raise conflict(
            "study-aggregate",
            f'byzantine belongs to aggregate = "trimmed", "krum" or "multi-krum", got "{name}"; remove byzantine',
        )
    if robust_section(federation) is None:
        return
    given = "norm_bound" if name == "mean" else f'aggregate = "{name}"'
    if getattr(privacy, "trust", "nobody") != "nobody" or privacy.plan == "correlated-noise":
        raise conflict(
            "study-aggregate",
            f"{given} reads each hospital's own answer: masks hide it, and with a share of the noise or correlated "
            f'noise it is not protected; set trust = "nobody" under plan = "dp-sgd", or remove {given}',
        )
    in_parts = isinstance(federation, Averaging) and (
        federation.hospital_weights is not None
        or federation.optimizer_state == "travels"
        or federation.fraction < 1
    )
    if in_parts or federation.strategy in OF_ONE:
        raise conflict(
            "study-aggregate",
            f"{given} is for equal answers of all hospitals in every round, and strategy = "
            f'"{federation.strategy}" has none here; remove {given}, or hospital_weights, fraction and optimizer_state',
        )
    fewest = {"trimmed": 2 * bad + 1, "krum": 2 * bad + 3, "multi-krum": 2 * bad + 3}.get(name, 1)
    if hospitals < fewest:
        raise conflict(
            "study-aggregate",
            f"{given} with byzantine = {bad} needs at least {fewest} hospitals, got hospitals.count = {hospitals}; "
            "lower byzantine, or invite more hospitals",
        )


def _check_leave_one_out(federation: FederatedSGD, privacy: PrivacySection, options: HospitalsSection) -> None:
    shares = privacy.plan != "none" and getattr(privacy, "trust", "") == "secure-aggregation"
    if (
        federation.strategy != "fedsgd"
        or privacy.plan == "correlated-noise"
        or robust_section(federation) is not None
    ):
        problem = 'is for plain sums of strategy = "fedsgd" whose noise is of each round'
    elif shares and getattr(privacy, "dropouts", 0) < 1:
        problem = "needs the noise of a sum without one hospital; set [privacy] dropouts = 1"
    elif not options.is_reliable:
        problem = "needs every other hospital; remove absent_rate and late_rate"
    elif options.count < 3 or federation.rounds - federation.centre_rounds <= options.count:
        problem = (
            "needs three hospitals and more training rounds than hospitals, got "
            f"{options.count} and {federation.rounds - federation.centre_rounds}"
        )
    else:
        return
    raise conflict("study-leave-one-out", f"leave_one_out {problem}; or remove leave_one_out")
