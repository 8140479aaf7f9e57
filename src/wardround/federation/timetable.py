"""Timetables of the hospitals asked in each round.

A timetable is public: it is drawn from a public seed and is known before round 1.
A hospital that is not asked in a round gains no privacy by it: any party can repeat the draw. The guarantee depends on
the largest number of answers of a hospital, which a timetable gives beforehand.

Sources: round robin and single pass, Yuan et al. and Chang et al. 2018 (https://doi.org/10.1093/jamia/ocy017);
stochastic transfer, Darzidehkalani et al. 2024; a fraction of the clients, McMahan et al. 2017, Algorithm 1.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class Order(StrEnum):
    """The order in which hospitals take their turns."""

    EVERYONE = "everyone"
    """All of them in every round."""
    FRACTION = "fraction"
    """Some of them in every round, drawn anew."""
    FIXED = "fixed"
    """One a round, in the hospitals' order, over and over."""
    RANDOM = "random"
    """One a round; every cycle visits each hospital once, in an order of its own."""
    STOCHASTIC = "stochastic"
    """One a round, drawn anew each time."""


@dataclass(frozen=True)
class Timetable:
    """The hospitals asked in each round.

    Attributes:
        fraction: for `Order.FRACTION`, the share of them asked in a round; at least one is.
        seed: of the draws; public.
    """

    hospitals: int
    order: Order = Order.EVERYONE
    fraction: float = 1.0
    seed: int = 0

    @property
    def at_once(self) -> int:
        """Hospitals asked in one round."""
        if self.order is Order.EVERYONE:
            return self.hospitals
        if self.order is Order.FRACTION:
            return max(1, round(self.fraction * self.hospitals))
        return 1

    def asked(self, round: int) -> tuple[int, ...]:
        """Returns the positions of the hospitals asked in a round (from 1), ascending."""
        match self.order:
            case Order.EVERYONE:
                return tuple(range(self.hospitals))
            case Order.FRACTION:
                chosen = self._draws(round).choice(self.hospitals, self.at_once, replace=False)
                return tuple(sorted(int(position) for position in chosen))
            case Order.FIXED:
                return ((round - 1) % self.hospitals,)
            case Order.RANDOM:
                cycle, turn = divmod(round - 1, self.hospitals)
                return (int(self._draws(cycle).permutation(self.hospitals)[turn]),)
            case Order.STOCHASTIC:
                return (int(self._draws(round).integers(self.hospitals)),)

    def visited(self, position: int, rounds: int) -> tuple[int, ...] | None:
        """Returns the rounds in which the hospital at a position is asked, ascending; None where it is every round."""
        if self.order is Order.EVERYONE:
            return None
        return tuple(round for round in range(1, rounds + 1) if position in self.asked(round))

    def visits(self, rounds: int) -> Counts:
        """Returns the number of times that each hospital is asked in the first `rounds` rounds, (hospital,)."""
        asked = [position for round in range(1, rounds + 1) for position in self.asked(round)]
        return np.bincount(asked, minlength=self.hospitals).astype(np.int64)

    def most_visits(self, rounds: int) -> int:
        """Returns the number of times that the hospital asked most often is asked in the first `rounds` rounds."""
        if self.order is Order.EVERYONE:
            return rounds
        if self.order in (Order.FIXED, Order.RANDOM):
            return -(-rounds // self.hospitals)
        return int(self.visits(rounds).max())

    def _draws(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(number,))))
