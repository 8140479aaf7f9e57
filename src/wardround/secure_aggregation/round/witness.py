"""Noise-only coordinates, by which every hospital tests that all shares of the noise were added.

Behind every vector stand `WITNESSES` coordinates in which each patient's row is zero. Opened, they are a sum of n
shares of parameter s, and the sum of their squares over n s² is chi-squared. Each hospital holds it against both tails,
for the round just opened and for all rounds so far: a missing share is too little, and so is a share for another
number of hospitals; too much is masks or noise gone wrong. The variance promised is that of h <= n shares, so that less
than promised is found before it is less than the n that are there.

Released: the witness coordinates, with the sum; they depend on no patient and cost nothing.
What it does not find: a hospital that adds its noise to the witnesses alone, and a coordinator that shows hospitals
another sum than it opened. No promise rests on it. The chance of finding a share that lacks is `power`; it grows with
the rounds, by the test of all rounds so far, and is small in the first one.
"""

from dataclasses import dataclass

import numpy as np

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.grid import Int64

WITNESSES = 1024
"""One missing share of five is shown by two rounds of so many; 4 KiB of an upload in the ring 2^32.

More of them would show it earlier, at no cost in privacy, and change the grid's bound and the bytes of every upload.
"""

FALSE_ALARM = 1e-6
"""Chance that a run in which every share is added is stopped all the same, over all its rounds and tests."""

_TAILS = 4  # of one round and of all rounds so far, two each


@dataclass(frozen=True)
class Witness:
    """The witness coordinates of the rounds opened so far.

    Attributes:
        statistic: sum of their squares, each over the variance that all shares of its round have together.
        coordinates: how many there were.
    """

    statistic: float = 0.0
    coordinates: int = 0

    @classmethod
    def of(cls, values: Int64, variance: int) -> "Witness":
        """Returns the witness of one round; `values` and `variance` as for `after`."""
        return cls(float(np.sum(np.square(values.astype(np.float64)))) / variance, values.size)

    def plus(self, other: "Witness") -> "Witness":
        """Returns these rounds and others."""
        return Witness(self.statistic + other.statistic, self.coordinates + other.coordinates)

    @property
    def ratio(self) -> float:
        """Variance of the coordinates, over that of all shares together."""
        return self.statistic / self.coordinates

    @property
    def tails(self) -> tuple[float, float]:
        """Chance that all shares together show as little as this, and that they show as much."""
        # Imported here: an island that masks vectors starts without it.
        from scipy.special import gammainc, gammaincc

        half = self.coordinates / 2
        return float(gammainc(half, self.statistic / 2)), float(gammaincc(half, self.statistic / 2))

    @property
    def p_value(self) -> float:
        """Chance that all shares together stray as far to either side."""
        return min(1.0, 2 * min(self.tails))

    def after(self, values: Int64, variance: int, rounds: int) -> "Witness":
        """Returns these and the coordinates of one round more.

        Args:
            values: the opened witness coordinates, in grid steps.
            variance: of a sum of all shares, hospitals x share_std², in grid steps².
            rounds: of the whole run; the tests share `FALSE_ALARM` among them.

        Raises:
            FederationError: one of the two statistics lies in a tail that noise reaches with probability
                `FALSE_ALARM` / (4 rounds).
        """
        one = Witness.of(values, variance)
        whole = self.plus(one)
        for tested in (one, whole):
            tested._check(FALSE_ALARM / (_TAILS * rounds))
        return whole

    def _check(self, tail: float) -> None:
        below, above = self.tails
        if min(below, above) < tail:
            what = "too little" if below < above else "too much"
            raise FederationError(
                f"The noise of a sum must be that of all its hospitals, and is {what}: {self.coordinates} coordinates "
                f"that carry noise alone have {self.ratio:.3f} times the variance they should "
                f"(p = {min(below, above):.2g}). The run stops; find the hospital whose share is wrong before another."
            )


def power(hospitals: int, present: float, seen: int, rounds: int, false_alarm: float | None = None) -> float:
    """Returns the chance that the test of the first `seen` rounds together finds too little noise.

    With n shares of which `present` are there, the sum of squares over n s² is `present` / n times a chi-squared
    variable of `WITNESSES` x `seen` degrees of freedom. The run may be stopped by an earlier round as well, so its
    chance to be stopped is this at least.

    Args:
        hospitals: shares that the variance is held against, n.
        present: variance that is there, in shares; a share of half the size has a quarter of the variance of one.
        seen: rounds opened so far.
        rounds: of the whole run, the count included.
        false_alarm: over the whole run; default `FALSE_ALARM`.

    >>> [round(power(5, 4.25, seen, 60), 2) for seen in (1, 2, 5)], round(power(10, 9, 10, 60), 2)
    ([0.01, 0.23, 0.99], 0.96)
    """
    from scipy.special import gammainc, gammaincinv

    half = WITNESSES * seen / 2
    tail = (FALSE_ALARM if false_alarm is None else false_alarm) / (_TAILS * rounds)
    return float(gammainc(half, gammaincinv(half, tail) * hospitals / present))


_LOOKS = (1, 2, 5, 10)


def powers(hospitals: int, rounds: int) -> list[dict[str, object]]:
    """Returns the chance that a run finds each of two faults after 1, 2, 5 and 10 rounds and all of them, as JSON."""
    looks = [*(seen for seen in _LOOKS if seen < rounds), rounds]
    faults = {"one share missing": hospitals - 1, "one share of half the size": hospitals - 0.75}
    return [
        {"fault": fault, "after_rounds": seen, "probability": power(hospitals, present, seen, rounds)}
        for fault, present in faults.items()
        for seen in looks
        if present > 0
    ]
