"""Robust means of the hospitals' answers in a study: where they are refused, and what earlier studies say of them."""

from typing import Any

from wardround.config.federation import ALONE, Averaging, FederatedSGD, FederationSection
from wardround.config.privacy import PrivacySection
from wardround.config.section import conflict

_LATER_KEYS = {"aggregate": "mean", "byzantine": 1, "norm_bound": None}
"""Keys that earlier studies have not, and their defaults: a study that leaves them so is the same study as before."""


def forget_defaults(federation: dict[str, Any]) -> None:
    """Removes the keys of robust means that are at their defaults from a dumped `[federation]`."""
    for key, default in _LATER_KEYS.items():
        if key in federation and federation[key] == default:
            del federation[key]


def robust_section(federation: FederationSection) -> FederatedSGD | Averaging | None:
    """Returns a section whose aggregator needs each hospital's own answer; None where a sum is enough."""
    if not isinstance(federation, FederatedSGD | Averaging):
        return None
    return federation if federation.aggregate != "mean" or federation.norm_bound is not None else None


def check_robust(federation: FederationSection, privacy: PrivacySection, hospitals: int) -> None:
    """Refuses robust means where single answers are not seen, or are too few.

    Raises:
        ValueError: what must hold between the sections (code `study-aggregate`).
    """
    if not isinstance(federation, FederatedSGD | Averaging):
        return
    name, bad = federation.aggregate, federation.byzantine
    if bad != 1 and name not in ("trimmed", "krum"):
        raise conflict(
            "study-aggregate",
            f'byzantine belongs to aggregate = "trimmed" or "krum", got "{name}"; remove byzantine',
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
    if in_parts or federation.strategy in (*ALONE, "pooled"):
        raise conflict(
            "study-aggregate",
            f"{given} is for equal answers of all hospitals in every round, and strategy = "
            f'"{federation.strategy}" has none here; remove {given}, or hospital_weights, fraction and optimizer_state',
        )
    fewest = {"trimmed": 2 * bad + 1, "krum": 2 * bad + 3}.get(name, 1)
    if hospitals < fewest:
        raise conflict(
            "study-aggregate",
            f"{given} with byzantine = {bad} needs at least {fewest} hospitals, got hospitals.count = {hospitals}; "
            "lower byzantine, or invite more hospitals",
        )
