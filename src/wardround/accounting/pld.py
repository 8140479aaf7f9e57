"""Epsilon by privacy loss distributions: the tightest bound there is for a composition, up to its grid.

The grid is pessimistic: a coarser one gives a larger epsilon, never less. What the convolutions round, at most about
`ROUNDING` of delta for each release, is given up beforehand.
Its step follows what is composed: many tiny releases are resolved finely, and the enormous losses of a
hospital's own share of noise, all others colluding, still fit in memory.

Sources:
    Sommer, Meiser and Mohammadi 2019, https://eprint.iacr.org/2018/820: privacy loss distributions.
    Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380: the connect-the-dots grid.
    Implemented by dp_accounting 0.6.
"""

import math
from typing import Any

from wardround.accounting.events import (
    GaussianEvent,
    LaplaceEvent,
    LeafEvent,
    Leaves,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
)
from wardround.accounting.rdp import quiet_numerics, rdp_epsilon
from wardround.errors import PrivacyError

SMALLEST_DELTA = 1e-12
"""Below it the rounding errors of the convolutions, near 1e-15 each, are no longer negligible."""

ROUNDING = 2.0**-52
"""Slack of a delta, for each release composed; measured against exact binomial sums, it is a third of that at most."""

FINE, COARSE = 1.0, 4.0
"""Width of the grid relative to the one that answers are given with; the coarse one brackets a search."""


def pld_epsilon(items: Leaves, delta: float, width: float = FINE) -> float:
    """Epsilon of composed leaves at `delta`, an upper bound at every `width`."""
    _check_resolved(delta)
    with quiet_numerics():
        distribution = _distribution(items, min(4.0, _interval(items, delta) * width))
        return float(distribution.get_epsilon_for_delta(delta - min(_rounding(items), delta / 2)))


def _rounding(items: Leaves) -> float:
    return ROUNDING * sum(count for _, count in items)


def _distribution(items: Leaves, interval: float) -> Any:  # PrivacyLossDistribution of an untyped package
    from dp_accounting.pld import privacy_loss_distribution

    total = privacy_loss_distribution.identity(value_discretization_interval=interval)
    for leaf, count in items:
        total = total.compose(_of_leaf(leaf, interval).self_compose(count))
    return total


def _of_leaf(leaf: LeafEvent, interval: float) -> Any:  # the same
    from dp_accounting.pld import privacy_loss_distribution as pld

    match leaf:
        case GaussianEvent(noise_multiplier):
            return pld.from_gaussian_mechanism(noise_multiplier, value_discretization_interval=interval)
        case LaplaceEvent(noise_multiplier):
            return pld.from_laplace_mechanism(noise_multiplier, value_discretization_interval=interval)
        case PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)):
            return pld.from_gaussian_mechanism(
                noise_multiplier, value_discretization_interval=interval, sampling_prob=sampling_prob
            )
        case PoissonSampledEvent(sampling_prob, LaplaceEvent(noise_multiplier)):
            return pld.from_laplace_mechanism(
                noise_multiplier, value_discretization_interval=interval, sampling_prob=sampling_prob
            )
        case PureEvent(epsilon):
            return _of_pure(epsilon, interval)
    raise AssertionError(f"{leaf} has no privacy loss distribution")  # non-private leaves never come here


def _of_pure(epsilon: float, interval: float) -> Any:  # the same
    """Randomised response with odds exp(epsilon), which every epsilon-DP release is computed from.

    Its two losses, ±epsilon, lie between points of the grid. Each one's probability is split between its two neighbours
    so that it keeps its mass under both data sets: who then forgets which of the two it was has the exact one back, so
    the split costs at least as much, and hardly more.
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    masses: dict[int, float] = {}
    for loss, mass in ((epsilon, 1 / (1 + math.exp(-epsilon))), (-epsilon, 1 / (1 + math.exp(epsilon)))):
        below = math.floor(loss / interval)
        above_share = math.expm1(below * interval - loss) / math.expm1(-interval)
        above_share = min(1.0, max(0.0, above_share))
        masses[below] = masses.get(below, 0.0) + mass * (1 - above_share)
        masses[below + 1] = masses.get(below + 1, 0.0) + mass * above_share
    return pld.PrivacyLossDistribution.create_from_rounded_probability(masses, 0.0, interval)


def _interval(items: Leaves, delta: float) -> float:
    """Step of the grid: a fraction of what one release adds to the spread of the loss, if memory allows.

    The relative error of epsilon is near (interval / spread)² / 10, so a fortieth of the spread leaves 1e-4.
    """
    expected = rdp_epsilon(tuple((_without_sampled_laplace(leaf), count) for leaf, count in items), delta)
    wanted = min(_resolving_interval(leaf) for leaf, _ in items)
    affordable = expected * 1e-6 if expected < math.inf else 0.0
    return min(4.0, max(wanted, affordable))


def _resolving_interval(leaf: LeafEvent) -> float:
    if isinstance(leaf, PureEvent):
        return min(leaf.epsilon / 40, 5e-3)
    sampling_prob = leaf.sampling_prob if isinstance(leaf, PoissonSampledEvent) else 1.0
    inner = leaf.event if isinstance(leaf, PoissonSampledEvent) else leaf
    assert not isinstance(inner, NonPrivateEvent)
    exponent = min(1 / inner.noise_multiplier**2, 100.0)
    spread = sampling_prob * math.sqrt(math.expm1(exponent))
    return max(min(spread / 40, 5e-3), 1e-5 / inner.noise_multiplier)


def _without_sampled_laplace(leaf: LeafEvent) -> LeafEvent:
    """A leaf of about the same cost that rdp knows; its pure ε is ln(1 + q (exp(1/b) - 1))."""
    match leaf:
        case PoissonSampledEvent(sampling_prob, LaplaceEvent(noise_multiplier)):
            loss = 1 / noise_multiplier
            amplified = loss if loss > 500 else math.log1p(sampling_prob * math.expm1(loss))
            return LaplaceEvent(1 / amplified)
    return leaf


def _check_resolved(delta: float) -> None:
    if delta < SMALLEST_DELTA:
        raise PrivacyError(
            f"delta must be >= {SMALLEST_DELTA} for the pld accountant, whose arithmetic resolves no less, "
            f"got {delta}. Use accountant 'rdp', or a delta near 1 / (number of patients)^1.1."
        )
