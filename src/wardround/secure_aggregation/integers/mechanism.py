"""The integer mechanism: what a hospital adds up, the share of noise it adds, and what the total means.

    D  the largest whole number with  D z <= sqrt(h 4^K - 9)             integer sensitivity, in grid steps
    x  a patient's gradient, clipped, times (D - sqrt(d)/2) / C, rounded (`grid`)
    Y  sum of x over the hospital's sample, plus d discrete Gaussians of parameter 2^K      one hospital
    A  sum of Y over the hospitals                                                          the total
    A C / (D - sqrt(d)/2)                                                                   a sum of gradients

with h = `NoiseShares.honest` shares that the attacker does not know and that are surely in the total. The share
is fixed and the grid carries z: a smaller noise multiplier means a larger D, hence a finer grid.

Released: A, to any party that sees the model. A single Y has one share only: it leaves masked, never alone.
Sensitivity: one patient, added or removed with all their pictures, moves A by a vector of L2 norm at most D.
What it is worth: `wardround.accounting.discrete`, with shares of 2^K, h and D. The 9 is the smoothing it gives up, so
that its noise multiplier is at least z. Who knows more shares than foreseen has less noise against them.

A hospital adds its share in every round, to an empty sample as well. A wrap-around in the ring changes the total, never
the guarantee: it is computed from what was noised.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares
from wardround.secure_aggregation.integers.discrete_gaussian import RandomBytes, discrete_gaussian
from wardround.secure_aggregation.integers.grid import Float64, Gradient, Grid, Int64
from wardround.secure_aggregation.integers.ring import WIDEST, Residues, Ring

SMOOTHING_SQUARED = 9
"""In grid steps²: what the accountant takes off the variance of the total."""

TAIL = 12
"""Standard deviations of the total noise that a coordinate is given room for."""

_MOST_GRID_BITS = 24


@dataclass(frozen=True)
class IntegerMechanism:
    """Every public parameter of one noised sum over hospitals; agreed before the first round.

    Attributes:
        clipping_norm: L2 norm C > 0 of a patient's gradient.
        noise_multiplier: z > 0, std of the noise that is surely there and unknown, over the sensitivity.
        dimension: parameters d.
        shares: of the noise, one from each hospital that adds to the sum.
        grid_bits: K; the share of a hospital is a discrete Gaussian of parameter 2^K grid steps.
        ring: that sums are formed in; `for_patients` takes the smallest that holds them.

    Raises:
        PrivacyError: a parameter that does not hold, or a sensitivity that the grid cannot carry.
    """

    clipping_norm: float
    noise_multiplier: float
    dimension: int
    shares: NoiseShares
    grid_bits: int = 20
    ring: Ring = WIDEST

    def __post_init__(self) -> None:
        # 1 and 1.0 are one mechanism, and must be hashed as one.
        object.__setattr__(self, "clipping_norm", float(self.clipping_norm))
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {self.noise_multiplier}.")
        if not 2 <= self.grid_bits <= _MOST_GRID_BITS:
            raise PrivacyError(f"grid_bits must be between 2 and {_MOST_GRID_BITS}, got {self.grid_bits}. Use 20.")
        _ = self.grid

    @property
    def share_std(self) -> int:
        """Parameter of the discrete Gaussian that one hospital adds to each coordinate, in grid steps."""
        return 1 << self.grid_bits

    @cached_property
    def sensitivity(self) -> int:
        """D: L2 bound on one patient's row, in grid steps; the largest whole number with D z <= sqrt(h 4^K - 9)."""
        variance = self.shares.honest * self.share_std**2 - SMOOTHING_SQUARED
        return math.isqrt(math.floor(variance / Fraction(self.noise_multiplier) ** 2))

    @cached_property
    def grid(self) -> Grid:
        """The grid that patients' gradients are rounded to."""
        return Grid(self.clipping_norm, self.sensitivity, self.dimension)

    def largest_total(self, patients: int) -> int:
        """Largest size of a coordinate of the total over that many patients, in grid steps: B D + 12 · 2^K sqrt(n).

        The noise of a coordinate is beyond its part with a chance below 2 exp(-72) = 1.1e-31: a discrete Gaussian is
        subgaussian as the continuous one is, E exp(sX) = exp(s²σ²/2) ρ(Z - sσ²) / ρ(Z) <= exp(s²σ²/2).
        """
        return patients * self.sensitivity + TAIL * self.share_std * (math.isqrt(self.shares.hospitals) + 1)

    @property
    def largest_sample(self) -> int:
        """Patients of all hospitals in one round up to which no coordinate wraps around in the ring."""
        room = (1 << (self.ring.bits - 1)) - 1 - self.largest_total(0)
        return max(0, room // self.sensitivity)

    def for_patients(self, patients: int) -> "IntegerMechanism":
        """This mechanism in the smallest ring in which no sum over that many patients or fewer wraps around.

        Args:
            patients: B, from public numbers alone: the ring is agreed on, and seen by relays. More of them can
                cost the model a wrong sum, and cost no patient anything: it is computed from what was noised.

        Raises:
            FederationError: the sum could leave 64 bits.
        """
        return replace(self, ring=Ring.for_sums_up_to(self.largest_total(patients)))

    @property
    def parameters(self) -> dict[str, int | float | str]:
        """Every number by its name, the ring by its bits, as they are hashed into a round's transcript."""
        return {
            "clipping_norm": self.clipping_norm,
            "noise_multiplier": self.noise_multiplier,
            "dimension": self.dimension,
            **asdict(self.shares),
            "grid_bits": self.grid_bits,
            "ring": self.ring.bits,
        }

    def encode(self, gradients: Iterable[Gradient], random_bytes: RandomBytes) -> Int64:
        """One hospital's sum and its share of the noise, (parameter,), in grid steps.

        The share is drawn on a thread of its own while gradients are computed and rounded, and has been added when this
        returns. If either fails, both have ended when the exception passes: a share takes its time and no longer.
        That saves time where a core is to spare, and none elsewhere (`docs/secure-aggregation.md`).

        Args:
            gradients: of the patients sampled, one each, not clipped, each computed from its own patient alone (who
                joins may not change a bit of the others'); may be empty. Coordinates that one lacks at its end are
                zeros.
            random_bytes: a cryptographic source that no other round or hospital draws from; read by that thread alone.

        Raises:
            PrivacyError: the source failed; there is no sum without noise. Its own exceptions pass.
        """
        return self.noised(lambda: self.grid.sum_of(gradients), random_bytes)

    def noised(self, total_of: Callable[[], Int64], random_bytes: RandomBytes) -> Int64:
        """Returns a hospital's sum with its share of the noise, as `encode` does, of a sum that is formed otherwise.

        Args:
            total_of: forms the sum, (parameter,), in grid steps. One patient, added or removed, moves it by an L2 norm
                of at most `sensitivity`, with any others beside it.
            random_bytes: as in `encode`.
        """
        with ThreadPoolExecutor(1, "noise") as beside:
            share = beside.submit(discrete_gaussian, self.dimension, self.share_std, random_bytes)
            total = total_of()
            total += share.result()
        return total

    def in_ring(self, values: Int64) -> Residues:
        """Whole numbers modulo 2^b, in whole words, (parameter,): what masks are added to."""
        return values.astype(self.ring.dtype)

    def lifted(self, total: Residues) -> Int64:
        """The whole numbers in [-2^(b-1), 2^(b-1)) that a sum modulo 2^b stands for, (parameter,).

        Raises:
            PrivacyError: the sum is of another ring.
        """
        if total.dtype != self.ring.dtype:
            raise PrivacyError(f"A sum in the ring must be of {self.ring.dtype}, got {total.dtype}.")
        return self.ring.centred(total)

    def decode(self, total: Int64) -> Float64:
        """A total in grid steps as a sum of gradients, (parameter,); a post-processing of what was released.

        Its noise has std C z sqrt(hospitals / honest) in each coordinate, up to rounding of D and what the clip is
        tightened by. Divide by a public constant, never by the size of the sample.
        """
        return total.astype(np.float64) / self.grid.steps_per_unit
