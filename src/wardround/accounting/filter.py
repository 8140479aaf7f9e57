"""A limit on epsilon that holds when each study is chosen in the light of earlier ones: a filter on Rényi divergences.

The accountants compose events that were fixed beforehand. A ledger lives longer: the noise of a later study may be
chosen after its author read the results of an earlier one. A filter bounds what is allowed in total, however it is
chosen (Rogers, Roth, Ullman and Vadhan 2016, https://arxiv.org/abs/1605.08294).

Write P and Q for the law of everything released with and without the person, and D_α for the sum of the divergences of
order α that were charged. Divergences are charged before their release and depend on earlier releases only, so
(P/Q)^(α-1) exp(-(α-1) D_α) is a supermartingale under P (Feldman and Zrnic 2021, Theorem 3.1,
https://arxiv.org/abs/2008.11193). On the event S_α that D_α ends at or below B_α, therefore
E_P[(P/Q)^(α-1); S_α] <= exp((α-1) B_α), and by the conversion of Canonne, Kamath and Steinke 2020 (Proposition 12)
E_P[(1 - exp(ε) Q/P)^+; S_α] <= δ_α for

    B_α = ε - log((α-1)/α) + (log δ_α + log α) / (α-1).

While some order keeps to its B_α, the events S_α cover everything, and the total is (ε, Σ δ_α)-DP. Here four orders
share δ equally, around the order that is best for Gaussian noise at the limit.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Leaves
from wardround.accounting.mechanisms import check_delta, check_epsilon
from wardround.accounting.rdp import divergences_of

Divergences = npt.NDArray[np.float64]
"""Rényi divergences at the orders of one filter, (order,)."""

_AROUND = np.array([0.5, 0.75, 1.0, 1.5])
_CANDIDATES = 1 + np.geomspace(0.05, 2000, 400)


@dataclass(frozen=True)
class RenyiFilter:
    """Allows what keeps everything ever charged within (`epsilon`, `delta`), however it is chosen.

    Raises:
        PrivacyError: `epsilon` or `delta` cannot hold a guarantee.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)

    @cached_property
    def orders(self) -> npt.NDArray[np.float64]:
        """The orders α, (order,)."""
        best = _CANDIDATES[np.argmax(self._budgets(_CANDIDATES) / _CANDIDATES)]
        orders: Divergences = 1 + (best - 1) * _AROUND
        return orders

    @cached_property
    def budgets(self) -> Divergences:
        """B_α of each order, (order,)."""
        return self._budgets(self.orders)

    def divergences(self, items: Leaves) -> Divergences:
        """Returns the divergences of leaf events at the filter's orders."""
        return divergences_of(items, self.orders)

    def allows(self, total: Divergences) -> bool:
        """Returns whether a total of everything charged keeps to the limit."""
        return bool((total <= self.budgets).any())

    def _budgets(self, orders: npt.NDArray[np.float64]) -> Divergences:
        log_delta = math.log(self.delta / len(_AROUND))
        found: Divergences = self.epsilon - np.log1p(-1 / orders) + (log_delta + np.log(orders)) / (orders - 1)
        return found
