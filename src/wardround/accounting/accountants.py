"""Epsilon at a delta of a composition of events, by two accountants.

| accountant | method                                                            | upper bound? |
|------------|-------------------------------------------------------------------|--------------|
| pld        | privacy loss distributions; exact closed form for Gaussians alone | yes          |
| rdp        | Rényi differential privacy                                        | yes, looser  |

Both: neighbouring data sets differ as the events have it, by adding or removing one unit by default.

Basic composition, by which epsilons and deltas add, stands beside them where it is as good and cheaper: a `PureEvent`
of epsilon `LARGE` or more is put aside and its epsilon added to what the others cost, and events that are all pure
never cost more than their sum. A release of 65,536 needs no grid of that length.

Sources:
    Dong, Roth and Su 2019, https://arxiv.org/abs/1905.02383: Corollary 3.3 (Gaussian composition).
    Dwork and Roth 2014, Theorem 3.16: basic composition, https://doi.org/10.1561/0400000042.
"""

import math
from enum import StrEnum
from functools import lru_cache

from wardround.accounting.events import (
    Event,
    GaussianEvent,
    Leaves,
    NonPrivateEvent,
    PureEvent,
    leaves,
)
from wardround.accounting.mechanisms import check_delta, gdp_epsilon, gdp_mu
from wardround.accounting.pld import FINE, pld_epsilon
from wardround.accounting.rdp import rdp_epsilon

LARGE = 20.0
"""From here on a pure release loses its whole epsilon but for a chance of 2e-9: composition hardly gains on the sum."""


class AccountantKind(StrEnum):
    """The accountants that turn events into epsilon."""

    PLD = "pld"
    RDP = "rdp"


def epsilon_of(event: Event, delta: float, accountant: AccountantKind = AccountantKind.PLD) -> float:
    """Returns epsilon of `event` at `delta`: infinite if anything left without protection, 0 if nothing left.

    Guarantee:
        A mechanism that `event` describes is (epsilon, delta)-DP for one unit added or removed, also when each part was
        chosen after seeing the earlier ones.

    >>> round(epsilon_of(GaussianEvent(1.993812), 1e-5), 4)
    2.0
    """
    check_delta(delta)
    return _epsilon(leaves(event), delta, AccountantKind(accountant), FINE)


def rough_epsilon_of(event: Event, delta: float, accountant: AccountantKind, width: float) -> float:
    """Returns `epsilon_of` on a grid `width` times as wide: still an upper bound, a little looser, much faster."""
    check_delta(delta)
    return _epsilon(leaves(event), delta, accountant, width)


@lru_cache(maxsize=8192)  # hospitals of one study ask the same question in every round
def _epsilon(items: Leaves, delta: float, accountant: AccountantKind, width: float) -> float:
    if not items:
        return 0.0
    if _holds_non_private(items):
        return math.inf
    large, items = _put_aside(items)
    if not items:
        return large
    if accountant is AccountantKind.RDP:
        epsilon = rdp_epsilon(items, delta)
    elif _all_gaussian(items):
        epsilon = gdp_epsilon(_mu(items), delta)
    else:
        epsilon = pld_epsilon(items, delta, width)
    return large + min(epsilon, _pure_sum(items))


def _put_aside(items: Leaves) -> tuple[float, Leaves]:
    """Returns the summed epsilon of the large pure events, and all the others."""
    large = tuple(item for item in items if isinstance(item[0], PureEvent) and item[0].epsilon >= LARGE)
    return _pure_sum(large), tuple(item for item in items if item not in large)


def _pure_sum(items: Leaves) -> float:
    """Returns epsilon at delta 0 of events that are all pure; infinity if one is not."""
    return math.fsum(count * leaf.epsilon if isinstance(leaf, PureEvent) else math.inf for leaf, count in items)


def _holds_non_private(items: Leaves) -> bool:
    return any(isinstance(leaf, NonPrivateEvent) for leaf, _ in items)


def _all_gaussian(items: Leaves) -> bool:
    return all(isinstance(leaf, GaussianEvent) for leaf, _ in items)


def _mu(items: Leaves) -> float:
    """Returns the exact μ of events that are all Gaussian; squares add."""
    squares = [
        gdp_mu(leaf.noise_multiplier, count) ** 2 for leaf, count in items if isinstance(leaf, GaussianEvent)
    ]
    return math.sqrt(math.fsum(squares))
