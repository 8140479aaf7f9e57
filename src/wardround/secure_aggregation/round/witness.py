"""Noise-only coordinates, by which every hospital tests that all shares of the noise were added.

Behind every vector stand `WITNESSES` coordinates in which each patient's row is zero. Opened, they are a sum of n
shares of parameter s, and the sum of their squares over n s² is chi-squared. Each hospital holds it against both tails,
for the round just opened and for all rounds so far: a missing share is too little, and so is a share for another
number of hospitals; too much is masks or noise gone wrong. The variance promised is that of h <= n shares, so that less
than promised is found before it is less than the n that are there.

Released: the witness coordinates, with the sum; they depend on no patient and cost nothing.
What it does not find: a hospital that adds its noise to the witnesses alone, and a coordinator that shows hospitals
another sum than it opened. No promise rests on it.
"""

from dataclasses import dataclass

import numpy as np

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.grid import Int64

WITNESSES = 1024
"""Two or three rounds of so many show one missing share in five; 4 KiB of an upload in the ring 2^32."""

FALSE_ALARM = 1e-9
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
