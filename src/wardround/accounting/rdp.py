"""Epsilon by Rényi differential privacy, with both conversions the literature has used.

Sources:
    Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530: the sampled Gaussian.
    Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010: Proposition 12 (v4), used today.
    Mironov 2017, https://arxiv.org/abs/1702.07476: Proposition 3, the conversion of papers before 2020.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wardround.accounting.events import (
    Event,
    GaussianEvent,
    LaplaceEvent,
    LeafEvent,
    Leaves,
    NonPrivateEvent,
    PoissonSampledEvent,
    leaves,
)
from wardround.accounting.mechanisms import check_delta
from wardround.errors import PrivacyError


def rdp_epsilon(items: Leaves, delta: float) -> float:
    """Epsilon of composed leaves at `delta`, an upper bound.

    Raises:
        PrivacyError: a leaf is a Poisson-sampled Laplace event, for which no Rényi bound is implemented.
    """
    accountant = _accountant(items)
    with quiet_numerics():
        return float(accountant.get_epsilon(delta))


def rdp_delta(items: Leaves, epsilon: float) -> float:
    """Delta of composed leaves at `epsilon`, an upper bound."""
    accountant = _accountant(items)
    with quiet_numerics():
        return min(1.0, float(accountant.get_delta(epsilon)))


def rdp_epsilon_2020(event: Event, delta: float) -> float:
    """Epsilon by the conversion of papers up to 2020: min over α of RDP(α) - ln(δ)/(α - 1).

    Valid and looser than `rdp_epsilon`; here to recompute published figures.

    >>> step = PoissonSampledEvent(0.03425, GaussianEvent(1.15))
    >>> from wardround.accounting.events import SelfComposedEvent
    >>> round(rdp_epsilon_2020(SelfComposedEvent(step, 3001), 1e-4), 2)
    10.88
    """
    check_delta(delta)
    accountant = _accountant(leaves(event))
    pairs = zip(accountant.orders, accountant.rdp, strict=True)
    return float(min(rdp - math.log(delta) / (order - 1) for order, rdp in pairs))


def _accountant(items: Leaves) -> Any:  # RdpAccountant of an untyped package
    with quiet_numerics():
        from dp_accounting import rdp

        accountant = rdp.RdpAccountant()
        for leaf, count in items:
            accountant.compose(_translate(leaf), count)
    return accountant


def _translate(leaf: LeafEvent) -> Any:  # DpEvent of an untyped package
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
    import numpy as np

    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.disabled = disabled
