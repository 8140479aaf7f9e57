"""Patients' gradients on a fixed grid of whole numbers, whose norm is checked exactly before they are summed.

Each patient's gradient is clipped and rounded on its own, and only then added: one patient moves the whole-number sum
by exactly their own row, of L2 norm at most `bound`. Neither rounding of the sum nor its order has a part in that; it
answers the floating-point attacks on sensitivity (Casacuberta et al. 2022, https://arxiv.org/abs/2207.10635).

The clip aims sqrt(dimension) / 2 below the bound. Rounding to the nearest grid point moves a row by at most that, half
a step in each coordinate, so that a rounded row is within the bound; floating point in the norm and the product could
only carry one over where every coordinate is rounded up by half a step. Such a row is left out: the check is exact.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError

Int64: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]
Gradient: TypeAlias = npt.NDArray[np.floating[Any]]
"""One patient's gradient, (parameter,), not clipped."""

LARGEST_BOUND = 1 << 26
"""With it double precision adds squares exactly up to 2^53, and what is above stays above the squared bound of 2^52."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A fixed grid for gradients of one dimension, and the norm that none of their rows exceeds.

    Attributes:
        clipping_norm: L2 norm C > 0 that a patient's gradient is scaled down to, in its own units.
        bound: whole L2 norm D that a rounded row never exceeds, in grid steps.
        dimension: parameters d of a gradient.

    Raises:
        PrivacyError: a bound that cannot be checked exactly, or that rounding alone would use up.
    """

    clipping_norm: float
    bound: int
    dimension: int

    def __post_init__(self) -> None:
        if not 0 < self.clipping_norm < math.inf:
            raise PrivacyError(f"clipping_norm must be > 0 and finite, got {self.clipping_norm}.")
        if self.dimension < 1:
            raise PrivacyError(f"dimension must be >= 1, got {self.dimension}. Count the trained parameters.")
        if not 1 <= self.bound <= LARGEST_BOUND:
            raise PrivacyError(
                f"The bound on a row must be between 1 and 2^26 grid steps, got {self.bound}, so that its norm "
                "can be checked exactly. Choose another number of grid bits."
            )
        if 2 * self.bound <= math.sqrt(self.dimension):
            raise PrivacyError(
                f"The bound on a row must be above half the root of {self.dimension} parameters, got {self.bound}: "
                "rounding alone would use it up. Choose more grid bits."
            )
        if not 0 < self.steps_per_unit < math.inf:
            raise PrivacyError(f"clipping_norm must be a norm that gradients have, got {self.clipping_norm}.")

    @property
    def steps_per_unit(self) -> float:
        """Grid steps to one unit of a gradient: (D - sqrt(d) / 2) / C."""
        return (self.bound - math.sqrt(self.dimension) / 2) / self.clipping_norm

    def row_of(self, gradient: Gradient) -> Int64:
        """One patient's gradient, clipped and rounded to the nearest grid points, (parameter,).

        Guarantee:
            The squares of the row add up to at most `bound`², in whole numbers, whatever the gradient holds. Private.

        Edge cases:
            | gradient                                              | row                          |
            |-------------------------------------------------------|------------------------------|
            | NaN or infinity in it, or a norm too large for a float | zeros: the patient is left out |
            | norm carried over the bound by rounding               | zeros: the patient is left out |
            | zero, or smaller than half a step in each coordinate  | zeros                        |
        """
        if gradient.shape != (self.dimension,):
            raise PrivacyError(f"A gradient must have the shape ({self.dimension},), got {gradient.shape}.")
        # A copy in one piece: the norm of a strided row would be added up in another order.
        row = np.array(gradient, dtype=np.float64, order="C")
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            norm = math.sqrt(float(np.add.reduce(np.square(row))))
            if not math.isfinite(norm):
                return np.zeros(self.dimension, dtype=np.int64)
            if norm > self.clipping_norm:
                row *= self.clipping_norm / norm
            row *= self.steps_per_unit
        np.rint(row, out=row)
        if not self._is_within(row):
            return np.zeros(self.dimension, dtype=np.int64)
        return row.astype(np.int64)

    def sum_of(self, gradients: Iterable[Gradient]) -> Int64:
        """Sum of the patients' rows, (parameter,); zeros for an empty sample.

        Guarantee:
            Relation: add or remove one patient. The sum moves by one row, of L2 norm at most `bound`. It does not
            depend on the order of patients, their batches or threads. Private until noised.

        Edge cases:
            A sum of 2^37 patients or more could leave 64 bits; no hospital has them.
        """
        total = np.zeros(self.dimension, dtype=np.int64)
        for gradient in gradients:
            total += self.row_of(gradient)
        return total

    def _is_within(self, row: Float64) -> bool:
        """Whether whole numbers in double precision have at most the bound as norm, decided exactly.

        Every partial sum of squares below 2^53 is exact, in any order; one that passes 2^53 never comes back below
        it, as rounding is monotone; and the squared bound is at most 2^52. What is no number is not within.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.dot(row, row) <= self.bound**2)
