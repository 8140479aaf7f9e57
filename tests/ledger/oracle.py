"""A ledger as a plain dictionary, composed with dp-accounting directly: it shares no line with the one it checks."""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting.rdp import rdp_privacy_accountant as rdp

from wardround.accounting.events import (
    GaussianEvent,
    LaplaceEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
)

ORDERS = tuple(rdp.RdpAccountant().orders)


@dataclass
class Part:
    """One hospital's part in one run."""

    members: set[str]
    foreseen: Counter[Any]
    seeded: bool
    counts: Counter[Any] = field(default_factory=Counter)
    releases: dict[str, Any] = field(default_factory=dict)
    is_ended: bool = False

    @property
    def worst(self) -> Counter[Any]:
        """The most that it can come to; once it charged otherwise than foreseen, only what it came to so far."""
        return self.foreseen if self.counts <= self.foreseen and not self.is_ended else self.counts


@dataclass
class Oracle:
    """Each person's events; `parts` by run, study and hospital."""

    parts: dict[tuple[str, str, str], Part] = field(default_factory=dict)
    limit: tuple[float, float] | None = None

    def of(self, person: str) -> list[Part]:
        return [part for part in self.parts.values() if person in part.members]

    def spent(self, person: str) -> Counter[Any]:
        """Everything that the person was ever charged."""
        return sum((part.counts for part in self.of(person)), Counter())

    def worst(self, person: str) -> Counter[Any]:
        """What it can come to when every open run charges all that it foresees."""
        return sum((part.worst for part in self.of(person)), Counter())

    def can_afford(self, person: str, foreseen: Counter[Any], orders: tuple[float, ...]) -> bool | None:
        """Whether a study that the limit allows anybody may have the person; None where it is too close to say."""
        if self.limit is None:
            return True
        parts = [part for part in self.of(person) if part.counts or not part.is_ended]
        if not parts:
            return True
        total = curve(foreseen, orders)
        for part in parts:
            spent = curve(part.counts, orders)
            total = total + (spent if part.is_ended else np.maximum(spent, curve(part.foreseen, orders)))
        margin = float(np.max(budgets(*self.limit, orders) - total))
        return None if abs(margin) < 1e-9 else margin >= 0


def budgets(epsilon: float, delta: float, orders: tuple[float, ...]) -> Any:
    """The divergence of order α that proves (ε, δ / 4): Canonne, Kamath and Steinke 2020, Proposition 12, solved."""
    return np.array(
        [epsilon - math.log((a - 1) / a) + (math.log(delta / len(orders)) + math.log(a)) / (a - 1) for a in orders]
    )


@cache
def curve_of(event: Any, orders: tuple[float, ...]) -> Any:
    """Rényi divergences of one event, (order,)."""
    alpha = np.array(orders)
    if isinstance(event, NonPrivateEvent):
        return np.full(len(orders), math.inf)
    if isinstance(event, PureEvent):
        yes, no = -math.log1p(math.exp(-event.epsilon)), -math.log1p(math.exp(event.epsilon))
        return np.logaddexp(alpha * yes + (1 - alpha) * no, alpha * no + (1 - alpha) * yes) / (alpha - 1)
    accountant = rdp.RdpAccountant(orders)
    accountant.compose(translated(event))
    return np.array(accountant.rdp)


def curve(counts: Counter[Any], orders: tuple[float, ...] = ORDERS) -> Any:
    return sum((count * curve_of(event, orders) for event, count in counts.items()), np.zeros(len(orders)))


def rdp_epsilon(counts: Counter[Any], delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """Epsilon by Rényi divergences; of pure releases alone at most their sum (basic composition)."""
    if not counts:
        return 0.0
    pure = sum(
        count * event.epsilon if isinstance(event, PureEvent) else math.inf for event, count in counts.items()
    )
    return min(pure, float(rdp.compute_epsilon(list(orders), list(curve(counts, orders)), delta)[0]))


def tight_epsilon(counts: Counter[Any], delta: float) -> float:
    """The exact epsilon of Gaussian noise alone; of other events the one by Rényi divergences."""
    if not counts:
        return 0.0
    if not all(isinstance(event, GaussianEvent) for event in counts):
        return rdp_epsilon(counts, delta)
    sigma = sum(count / event.noise_multiplier**2 for event, count in counts.items()) ** -0.5
    return float(dp_accounting.get_epsilon_gaussian(sigma, delta))


def translated(event: Any) -> Any:
    match event:
        case GaussianEvent(sigma):
            return dp_accounting.GaussianDpEvent(sigma)
        case LaplaceEvent(scale):
            return dp_accounting.LaplaceDpEvent(scale)
        case PoissonSampledEvent(probability, inner):
            return dp_accounting.PoissonSampledDpEvent(probability, translated(inner))
        case _:
            raise ValueError(f"no translation of {event}")
