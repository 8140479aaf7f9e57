"""The signal in a run's noised sums: their norm beside that of their noise, round by round.

The norms are of released sums, so that all of this is post-processing: nothing more leaves than the sums themselves.
Noise of standard deviation s in d numbers has the squared norm s^2 d with a relative standard deviation of sqrt(2 / d).
The squared norm of a sum, less that of its noise, is an estimate of the squared norm of what patients added up to.

Clipped gradients shrink as a model learns, and point to all sides: their sum falls. Under a learning rate that is too
large every step overshoots, gradients stay at the clipping norm and agree, and the sum stays large.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

_FEWEST = 12
"""Rounds below which the last quarter says nothing."""

_LARGE = 0.25
"""Share of the most, from which a sum in the last quarter has not settled."""


@dataclass(frozen=True)
class Signal:
    """The sums of a run, each against its noise and against the most that clipped gradients could add up to.

    Attributes:
        first: norm of the noised sum of round 1, in norms of the noise.
        last: root mean square of those of the last quarter of the rounds, likewise.
        first_share: what patients added up to in round 1, as a share of the most; 0 below the noise.
        last_share: likewise, in the last quarter.
        sure_share: as `last_share`, less three standard deviations of the noise's squared norm.
    """

    first: float
    last: float
    first_share: float
    last_share: float
    sure_share: float

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, object]], parameters: int) -> Self | None:
        """Returns the signal in lines of `rounds.jsonl`; None of fewer than 12 rounds, and of lines without norms.

        `parameters` is the length of a sum.
        """
        rounds = [tuple(line.get(key) for key in ("sum_norm", "noise_norm", "most_norm")) for line in lines]
        norms = [
            (float(total), float(noise), float(most))
            for total, noise, most in rounds
            if isinstance(total, int | float) and isinstance(noise, int | float) and isinstance(most, int | float)
        ]
        if len(norms) < _FEWEST or any(not noise > 0 or not most > 0 for _, noise, most in norms):
            return None
        start, end = norms[:1], norms[-(len(norms) // 4) :]
        error = math.sqrt(2 / (parameters * len(end)))
        return cls(_ratio(start), _ratio(end), _share(start), _share(end), _share(end, 3 * error))

    @property
    def grows(self) -> bool:
        """True if patients add up to more in the end than in round 1, and to much."""
        return self.is_large and self.sure_share >= self.first_share

    @property
    def is_large(self) -> bool:
        """True if patients still add up to much in the end."""
        return self.sure_share >= _LARGE

    def sentence(self) -> str:
        """Returns the signal in words, and what to change where the descent did not settle."""
        said = (
            f"noised sums: {self.first:.2f} times the norm of their noise in round 1, {self.last:.2f} times in the "
            f"last quarter; of the most that clipped gradients can add up to, {_percent(self.first_share)} was beneath "
            f"the noise, then {_percent(self.last_share)}"
        )
        if self.grows:
            return f"{said}. The descent diverges: gradients grow. Lower learning_rate"
        if self.is_large:
            return f"{said}. The descent has not settled: lower learning_rate, or take more rounds"
        return said


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0 else "too little to be seen"


def _ratio(norms: Sequence[tuple[float, float, float]]) -> float:
    return math.sqrt(math.fsum((total / noise) ** 2 for total, noise, _ in norms) / len(norms))


def _share(norms: Sequence[tuple[float, float, float]], spare: float = 0.0) -> float:
    """Returns the root mean square of what is beneath the noise, over the most; 0 where noise is all.

    `spare` is a relative excess of the noise's squared norm that chance is granted.
    """
    squares = math.fsum((total**2 - (1 + spare) * noise**2) / most**2 for total, noise, most in norms) / len(norms)
    return math.sqrt(max(0.0, squares))
