"""A second opinion on epsilon: a range that it must lie in, computed by other ways than the printed number.

| bound | method                                                                                        |
|-------|-----------------------------------------------------------------------------------------------|
| lower | privacy loss distributions with every loss rounded down: less than this is certainly not true  |
| upper | Rényi divergences: a printed epsilon beyond it promises less than it could                      |

The accountants' own distributions (`accounting.pld`) round losses up on a grid of another step, and compositions of
Gaussian noise have a closed form there that is not used here.

Sources:
    Meiser and Mohammadi 2018, https://arxiv.org/abs/1707.00831: lower bounds by rounding losses down.
    Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010: Proposition 12 (v4).
    Implemented by dp_accounting 0.6.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np

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
from wardround.accounting.rdp import divergences_of, epsilon_at, quiet_numerics

_ORDERS = np.concatenate([1 + np.geomspace(0.01, 1, 40), np.geomspace(2.05, 2000, 120)])
_STEP, _FINEST = 1e-4, 1e-5
_LARGEST = 50.0
"""Losses of a single release beyond which its distribution is left out of the lower bound, which then is 0."""


@dataclass(frozen=True)
class SecondOpinion:
    """Bounds on epsilon of an event at a delta, both from sources other than the printed number."""

    lower: float
    upper: float


@lru_cache(maxsize=1024)
def second_opinion(event: Event, delta: float) -> SecondOpinion:
    """Returns bounds on epsilon of `event` at `delta`; both infinite if anything left without protection.

    Guarantee:
        No mechanism as leaky as `event` describes has an epsilon below `lower`: a statement that prints less is false.
        Every mechanism that `event` describes is (`upper`, delta)-DP.

    >>> bounds = second_opinion(GaussianEvent(1.993812), 1e-5)
    >>> bounds.lower <= 2.0 <= bounds.upper
    True
    """
    check_delta(delta)
    items = leaves(event)
    if any(isinstance(leaf, NonPrivateEvent) for leaf, _ in items):
        return SecondOpinion(math.inf, math.inf)
    if not items:
        return SecondOpinion(0.0, 0.0)
    pure = math.fsum(n * leaf.epsilon if isinstance(leaf, PureEvent) else math.inf for leaf, n in items)
    with quiet_numerics():
        upper = min(pure, epsilon_at(divergences_of(items, _ORDERS), _ORDERS, delta))
        return SecondOpinion(_lower(items, delta, upper), upper)


def _lower(items: Leaves, delta: float, upper: float) -> float:
    # Rounding lowers the mean of each loss by half a step: all together by about a hundredth of the upper bound.
    wanted = 0.02 * upper / sum(count for _, count in items)
    step = max(_FINEST, 1e-5 * upper, min(_STEP, wanted)) if upper < math.inf else 1e-2
    # Leaving a release out can only lower the bound.
    each = [_rounded_down(leaf, step).self_compose(count) for leaf, count in items if _loss_of(leaf) <= _LARGEST]
    if not each:
        return 0.0
    total = reduce(lambda one, other: one.compose(other), each)
    return max(0.0, min(upper, float(total.get_epsilon_for_delta(delta))))


def _loss_of(leaf: LeafEvent) -> float:
    """Returns about the largest loss of one release that matters."""
    if isinstance(leaf, PureEvent):
        return leaf.epsilon
    inner = leaf.event if isinstance(leaf, PoissonSampledEvent) else leaf
    assert not isinstance(inner, NonPrivateEvent)
    return 1 / inner.noise_multiplier


def _rounded_down(leaf: LeafEvent, step: float) -> Any:  # PrivacyLossDistribution of an untyped package
    from dp_accounting.pld import privacy_loss_distribution as pld

    grid: dict[str, Any] = {"pessimistic_estimate": False, "value_discretization_interval": step}
    dots = {"use_connect_dots": False}
    match leaf:
        case GaussianEvent(noise_multiplier):
            return pld.from_gaussian_mechanism(noise_multiplier, **grid, **dots)
        case LaplaceEvent(noise_multiplier):
            return pld.from_laplace_mechanism(noise_multiplier, **grid, **dots)
        case PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)):
            return pld.from_gaussian_mechanism(noise_multiplier, **grid, **dots, sampling_prob=sampling_prob)
        case PoissonSampledEvent(sampling_prob, LaplaceEvent(noise_multiplier)):
            return pld.from_laplace_mechanism(noise_multiplier, **grid, **dots, sampling_prob=sampling_prob)
        case PureEvent(epsilon):
            # Randomised response with odds exp(epsilon): another answer with probability p / 2 for p of noise.
            return pld.from_randomized_response(2 / (math.exp(epsilon) + 1), 2, **grid)
    raise AssertionError(f"{leaf} has no privacy loss distribution")  # non-private leaves never come here
