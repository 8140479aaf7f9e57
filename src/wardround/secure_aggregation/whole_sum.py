"""A hospital's whole sum on a fixed grid: the clipped gradients are added up first, and their sum is rounded once.

Let S be a hospital's sum as it was computed, S' that of a neighbour, s the steps to a unit. Rounding to the nearest
whole number moves each of d coordinates by half a step at most, in both of them and perhaps in opposite directions:

    |round(s S) - round(s S')|  <=  s |S - S'| + sqrt(d)                                               in L2 norm

and a crafted sum, just below the middle of two steps in every coordinate, attains it. The bound does not ask what the
coordinates are, so that a common random offset before rounding would have the same one for each value of the offset:
it would cost a draw and buy nothing. With |S - S'| <= C (1 + 2^-15), which allows for the sum being in floating point,

    s  =  (D - sqrt(d)) / (C (1 + 2^-14))          and so          |round(s S) - round(s S')|  <=  D.

The other half of the allowance pays for the product s S, one rounding in each of the two and 2^-34 s C together for
2^18 patients, and for the rounding of s itself, of a few parts in 2^53.

Unlike a patient's own row (`grid`), a sum cannot be looked at to see whether it keeps the bound. The clip, the error
of the sum, and that each gradient was computed alone are relied on (`wardround.privacy.clipped_total` has the proof).
The sum of floats, and so the whole numbers, do depend on the order of patients; the bound does not.
"""

import math
from dataclasses import dataclass

import numpy as np

from wardround.errors import PrivacyError
from wardround.secure_aggregation.grid import LARGEST_BOUND, Float64, Int64

FLOATING_POINT = 2.0**-14
"""Share of the clipping norm that the sensitivity is larger for sums being in floating point; twice what is proved."""

_MOST_COORDINATES = 1 << 28

MOST_PATIENTS = 1 << 18
"""Of one hospital: the errors of longer sums are not covered."""


@dataclass(frozen=True, slots=True)
class WholeSumGrid:
    """A fixed grid for sums of clipped gradients.

    Attributes:
        clipping_norm: L2 norm C > 0 of a patient's gradient.
        bound: whole L2 norm D that one patient moves a rounded sum by at most, in grid steps.
        dimension: coordinates d of a sum.

    Raises:
        PrivacyError: a bound that rounding alone would use up, or above 2^26.
    """

    clipping_norm: float
    bound: int
    dimension: int

    def __post_init__(self) -> None:
        if not 0 < self.clipping_norm < math.inf:
            raise PrivacyError(f"clipping_norm must be > 0 and finite, got {self.clipping_norm}.")
        if not 1 <= self.dimension <= _MOST_COORDINATES:
            raise PrivacyError(
                f"dimension must be between 1 and {_MOST_COORDINATES}, got {self.dimension}: norms of longer gradients "
                "are not covered. Count the trained parameters."
            )
        if not 1 <= self.bound <= LARGEST_BOUND:
            raise PrivacyError(
                f"The bound on a patient must be between 1 and 2^26 grid steps, got {self.bound}, so that sums stay "
                "whole in double precision. Choose a noise_multiplier nearer to 1, or another number of grid bits."
            )
        if self.bound <= self._rounding:
            raise PrivacyError(
                f"The bound on a patient must be above the root of {self.dimension} parameters, got {self.bound}: "
                "rounding the sum alone would use it up. Choose a smaller noise_multiplier, more grid bits, or "
                "rounding by patient."
            )
        if not 0 < self.steps_per_unit < math.inf:
            raise PrivacyError(f"clipping_norm must be a norm that gradients have, got {self.clipping_norm}.")

    @property
    def _rounding(self) -> int:
        """sqrt(d), rounded up: what rounding moves two neighbours apart, in grid steps."""
        return math.isqrt(self.dimension - 1) + 1

    @property
    def steps_per_unit(self) -> float:
        """Grid steps to one unit of a gradient."""
        return (self.bound - self._rounding) / (self.clipping_norm * (1 + FLOATING_POINT))

    def rounded(self, total: Float64) -> Int64:
        """A hospital's sum in whole numbers, (dimension,); coordinates that it lacks at its end are zeros.

        Args:
            total: sum of at most 2^18 patients' clipped gradients, each computed alone.

        Guarantee:
            Relation: add or remove one patient. The result moves by a whole-number vector of L2 norm at most `bound`.
            Private until noised.

        Raises:
            PrivacyError: no such sum. Of clipped gradients none is, whatever a patient's pictures hold.
        """
        if total.dtype != np.float64 or total.ndim != 1 or total.size > self.dimension:
            raise PrivacyError(
                f"A sum must be one row of at most {self.dimension} numbers in double precision, got "
                f"{total.shape} of {total.dtype}."
            )
        if not np.isfinite(total).all():
            raise PrivacyError(
                "A sum of clipped gradients must be finite; leave out patients whose gradients are not."
            )
        whole = np.zeros(self.dimension, dtype=np.int64)
        whole[: total.size] = np.rint(total * self.steps_per_unit)
        return whole
