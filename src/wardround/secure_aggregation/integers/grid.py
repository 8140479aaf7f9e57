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

Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]
Gradient: TypeAlias = npt.NDArray[np.floating[Any]]
"""One patient's gradient, (parameter,), not clipped."""

LARGEST_BOUND = 1 << 26
"""With it double precision adds squares exactly up to 2^53, and what is above stays above the squared bound of 2^52."""

_PIECE = 1 << 15  # coordinates at a time: what a processor's cache holds


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
                "can be checked exactly. Choose a noise_multiplier nearer to 1, or another number of grid bits."
            )
        if 2 * self.bound <= math.sqrt(self.dimension):
            raise PrivacyError(
                f"The bound on a row must be above half the root of {self.dimension} parameters, got {self.bound}: "
                "rounding alone would use it up. Choose a smaller noise_multiplier, fewer parameters or more grid bits."
            )
        if not 0 < self.steps_per_unit < math.inf:
            raise PrivacyError(f"clipping_norm must be a norm that gradients have, got {self.clipping_norm}.")

    @property
    def steps_per_unit(self) -> float:
        """Grid steps to one unit of a gradient: (D - sqrt(d) / 2) / C."""
        return (self.bound - math.sqrt(self.dimension) / 2) / self.clipping_norm

    def sum_of(self, gradients: Iterable[Gradient]) -> Int64:
        """Returns the sum of patients' gradients, each clipped and rounded to the nearest grid points, (parameter,).

        Args:
            gradients: one of each patient. Coordinates that one lacks at its end are zeros.

        Guarantee:
            Relation: add or remove one patient. The sum moves by one row, whose squares add up to at most `bound`², in
            whole numbers, for any gradient. It does not depend on the order of patients, their batches or threads.
            Private until noised.

        Edge cases:
            | gradient                                              | row                          |
            |-------------------------------------------------------|------------------------------|
            | NaN or infinity in it, or a norm too large for a float | zeros: the patient is left out |
            | norm carried over the bound by rounding               | zeros: the patient is left out |
            | zero, or smaller than half a step in each coordinate  | zeros                        |

            An empty sample gives zeros. A sum of 2^37 patients or more could leave 64 bits; no hospital has them.
        """
        total = np.zeros(self.dimension, dtype=np.int64)
        row = np.zeros(self.dimension, dtype=np.int32)
        for gradient in gradients:
            if self._round_into(row, gradient):
                total += row
        return total

    def _round_into(self, row: Int32, gradient: Gradient) -> bool:
        """Writes a patient's row over `row`, (parameter,); False: the patient is left out, and it holds anything.

        In pieces that a processor's cache holds, so that memory is passed over three times and not ten.
        """
        if gradient.ndim != 1 or gradient.size > self.dimension:
            raise PrivacyError(
                f"A gradient must be one row of at most {self.dimension} coordinates, got the shape {gradient.shape}."
            )
        scratch = np.empty(min(_PIECE, self.dimension), dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            norm = math.sqrt(self._squares(gradient, 0, self.dimension, scratch))
            if not math.isfinite(norm):
                return False
            squares = 0.0
            for start in range(0, self.dimension, _PIECE):
                steps = _piece(gradient, start, min(start + _PIECE, self.dimension), scratch)
                if norm > self.clipping_norm:
                    steps *= self.clipping_norm / norm
                steps *= self.steps_per_unit
                np.rint(steps, out=steps)
                squares += float(np.einsum("i,i->", steps, steps))  # `dot` may wait for a thread
                if not self._is_within(squares):
                    return False
                row[start : start + steps.size] = steps
        return True

    def _squares(self, gradient: Gradient, start: int, stop: int, scratch: Float64) -> float:
        """Sum of squares of some coordinates, added pairwise as NumPy adds those of a row in one piece."""
        if stop - start <= _PIECE:
            values = _piece(gradient, start, stop, scratch)
            return float(np.add.reduce(np.square(values, out=values)))
        half = start + (stop - start) // 16 * 8
        return self._squares(gradient, start, half, scratch) + self._squares(gradient, half, stop, scratch)

    def _is_within(self, squares: float) -> bool:
        """Returns whether whole numbers, whose squares add up to this in double precision, keep to the bound.

        Decided exactly: every partial sum of squares below 2^53 is exact, in any order; one that passes 2^53 never
        comes back below it, as rounding is monotone; and the squared bound is at most 2^52. What is no number is not
        within. Single coordinates of such a row are at most 2^26.
        """
        return squares <= self.bound**2


def _piece(gradient: Gradient, start: int, stop: int, scratch: Float64) -> Float64:
    """Coordinates of a gradient in double precision, zeros beyond its end; in the scratch memory."""
    values = scratch[: stop - start]
    part = gradient[start:stop]
    values[: part.size] = part
    values[part.size :] = 0.0
    return values
