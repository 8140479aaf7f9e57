"""Two searches that spend few evaluations of an expensive epsilon: for a real number and for a whole one."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bracket:
    """Two points around the wanted one: `private` keeps the limit on epsilon, `spent` exceeds it."""

    private: float
    private_epsilon: float
    spent: float
    spent_epsilon: float

    def guess(self, target: float) -> float:
        """Returns the x at which epsilon is `target` if log epsilon is linear in log x; away from both ends."""
        low, high = math.log(self.private), math.log(self.spent)
        share = 0.5
        if 0 < self.private_epsilon < self.spent_epsilon < math.inf:
            rise = math.log(self.spent_epsilon / self.private_epsilon)
            share = math.log(target / self.private_epsilon) / rise
        return math.exp(low + min(0.98, max(0.02, share)) * (high - low))


def close_in(epsilon_at: Callable[[float], float], bracket: Bracket, limit: float, tolerance: float) -> Bracket:
    """Returns a bracket whose private end lies within `limit` × `tolerance` below `limit`, or that is one point wide.

    `epsilon_at` is monotone. The guess aims at the middle of the tolerance, so the last evaluation
    usually is the answer; every third guess halves, so a curved epsilon cannot stall it.
    """
    for turn in range(100):
        width = abs(math.log(bracket.spent / bracket.private))
        if bracket.private_epsilon >= limit * (1 - tolerance) or width < 1e-12:
            break
        middle = math.sqrt(bracket.private) * math.sqrt(bracket.spent)
        x = middle if turn % 3 == 2 else bracket.guess(limit * (1 - tolerance / 2))
        epsilon = epsilon_at(x)
        if epsilon <= limit:
            bracket = Bracket(x, epsilon, bracket.spent, bracket.spent_epsilon)
        else:
            bracket = Bracket(bracket.private, bracket.private_epsilon, x, epsilon)
    return bracket


def largest_count(epsilon_at: Callable[[int], float], limit: float, at_most: int) -> int:
    """Returns the largest count in 0..at_most with epsilon_at(count) <= limit; `epsilon_at` is monotone.

    Edge cases:
        Not even one is affordable: 0. All of them are: `at_most`, after one evaluation.
    """
    low, low_epsilon = 1, epsilon_at(1) if at_most >= 1 else math.inf
    if low_epsilon > limit:
        return 0
    high, high_epsilon = at_most, epsilon_at(at_most)
    if high_epsilon <= limit:
        return at_most
    turn = 0
    while high - low > 1:
        bracket = Bracket(low, low_epsilon, high, high_epsilon)
        x = (low + high) // 2 if turn % 3 == 2 else math.floor(bracket.guess(limit))
        x = min(high - 1, max(low + 1, x))
        epsilon = epsilon_at(x)
        if epsilon <= limit:
            low, low_epsilon = x, epsilon
        else:
            high, high_epsilon = x, epsilon
        turn += 1
    return low
