"""Epsilon by Rényi differential privacy, with both conversions the literature has used.

Sources:
    Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530: the sampled Gaussian.
    Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010: Proposition 12 (v4), used today.
    Mironov 2017, https://arxiv.org/abs/1702.07476: Proposition 3, the conversion of papers before 2020;
    Proposition 5, randomised response; Proposition 7, the Gaussian.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import (
    Event,
    GaussianEvent,
    LaplaceEvent,
    LeafEvent,
    Leaves,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
    leaves,
)
from wardround.accounting.mechanisms import check_delta
from wardround.errors import PrivacyError

LARGEST = 700.0
"""The largest exponent that a float holds."""


def rdp_epsilon(items: Leaves, delta: float) -> float:
    """Epsilon of composed leaves at `delta`, an upper bound.

    Raises:
        PrivacyError: a leaf is a Poisson-sampled Laplace event, for which no Rényi bound is implemented.
    """
    with quiet_numerics():
        from dp_accounting.rdp import rdp_privacy_accountant as rdp

        return float(rdp.compute_epsilon(*_curve(items), delta)[0])


def rdp_epsilon_2020(event: Event, delta: float) -> float:
    """Epsilon by the conversion of papers up to 2020: min over α of RDP(α) - ln(δ)/(α - 1).

    Valid and looser than `rdp_epsilon`; here to recompute published figures.

    >>> step = PoissonSampledEvent(0.03425, GaussianEvent(1.15))
    >>> from wardround.accounting.events import SelfComposedEvent
    >>> round(rdp_epsilon_2020(SelfComposedEvent(step, 3001), 1e-4), 2)
    10.88
    """
    check_delta(delta)
    orders, divergences = _curve(leaves(event))
    return float(np.min(divergences - math.log(delta) / (orders - 1)))


def pure_rdp(epsilon: float, orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rényi divergence of an epsilon-DP release at each order α > 1, (order,): that of randomised response.

    Mironov 2017, Proposition 5, with p = exp(ε) / (1 + exp(ε)):
    log(p^α (1-p)^(1-α) + (1-p)^α p^(1-α)) / (α - 1) = ε - (log(1 + exp(-ε)) - log(1 + exp(-(2α-1) ε))) / (α - 1).
    No ε-DP release has more, for all are computed from that one, and the divergence does not grow under computation.
    """
    gain = np.log1p(np.exp(-epsilon)) - np.log1p(np.exp(-(2 * orders - 1) * epsilon))
    return np.asarray(epsilon - gain / (orders - 1), dtype=np.float64)


def gaussian_rdp(noise_multiplier: float, orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rényi divergence of a Gaussian release at each order α > 1, (order,): α / (2σ²) (Mironov 2017, Proposition 7)."""
    with quiet_numerics():
        return orders / np.float64(2 * noise_multiplier**2)


def divergences_of(items: Leaves, orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the Rényi divergence of composed leaves at each order α > 1, (order,), an upper bound.

    Sampled Laplace noise counts as the pure release that it is: log(1 + q (exp(1/b) - 1)) for a sampling probability
    q (Balle, Barthe and Gaboardi 2018, Theorem 8).
    """
    total = np.zeros(len(orders))
    for leaf, count in items:
        total += count * np.array(_divergences_of_leaf(leaf, tuple(orders)))
    return total


def epsilon_at(divergences: npt.NDArray[np.float64], orders: npt.NDArray[np.float64], delta: float) -> float:
    """Returns the least epsilon that Rényi divergences at these orders prove at `delta` (Proposition 12)."""
    with quiet_numerics():
        found = divergences + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
        return max(0.0, float(np.min(found)))


@lru_cache(maxsize=4096)  # few kinds of release are charged many times
def _divergences_of_leaf(leaf: LeafEvent, orders: tuple[float, ...]) -> tuple[float, ...]:
    if isinstance(leaf, NonPrivateEvent):
        return (math.inf,) * len(orders)
    if isinstance(leaf, GaussianEvent):  # in closed form: what has the series takes half a second to import
        return tuple(gaussian_rdp(leaf.noise_multiplier, np.array(orders)).tolist())
    if isinstance(leaf, PoissonSampledEvent) and isinstance(leaf.event, LaplaceEvent):
        scale = leaf.event.noise_multiplier
        leaf = (
            PureEvent(math.log1p(leaf.sampling_prob * math.expm1(1 / scale)))
            if 1 / scale < LARGEST
            else leaf.event
        )
    found = _curve(((leaf, 1),), orders)[1]
    if np.isfinite(found).all():
        return tuple(found.tolist())
    # Some series do not converge; divergences grow with the order, and whole orders have a finite sum.
    above = _curve(((leaf, 1),), tuple(np.ceil(orders)))[1]
    return tuple(np.where(np.isfinite(found), found, above).tolist())


def _curve(
    items: Leaves, orders: tuple[float, ...] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Orders, and the Rényi divergence of the composed leaves at each, both (order,)."""
    with quiet_numerics():
        from dp_accounting import rdp

        accountant = rdp.RdpAccountant() if orders is None else rdp.RdpAccountant(orders)
        for leaf, count in items:
            if not isinstance(leaf, PureEvent):
                accountant.compose(_translate(leaf), count)
        taken = np.asarray(accountant.orders, dtype=np.float64)
        divergences = np.array(accountant.rdp, dtype=np.float64)
        for leaf, count in items:
            if isinstance(leaf, PureEvent):
                divergences += count * pure_rdp(leaf.epsilon, taken)
    return taken, divergences


def _translate(
    leaf: GaussianEvent | LaplaceEvent | PoissonSampledEvent | NonPrivateEvent,
) -> Any:  # DpEvent of an untyped package
    import dp_accounting

    match leaf:
        case GaussianEvent(noise_multiplier):
            return dp_accounting.GaussianDpEvent(noise_multiplier)
        case LaplaceEvent(noise_multiplier):
            return dp_accounting.LaplaceDpEvent(noise_multiplier)
        case PoissonSampledEvent(sampling_prob, GaussianEvent() as inner):
            return dp_accounting.PoissonSampledDpEvent(sampling_prob, _translate(inner))
        case PoissonSampledEvent():
            raise PrivacyError(
                "The rdp accountant must be given Gaussian noise on a sample, got Laplace noise. "
                "Use accountant 'pld'."
            )
        case NonPrivateEvent():
            return dp_accounting.NonPrivateDpEvent()


@contextmanager
def quiet_numerics() -> Iterator[None]:
    """Silences logs and numpy warnings about orders that are then left out of the minimum."""
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.disabled = disabled
