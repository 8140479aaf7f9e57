"""A clipping norm that follows a quantile of the patients' gradient norms.

What is released, and to whom: one number more in every noised sum, the count of patients whose norm was within
the clip, centred. It travels as one coordinate of the same vector: a reader of the sum sees it, equally noised.

Sensitivity (add or remove one patient): the gradient is clipped to C sqrt(1 - s), the coordinate is +-C sqrt(s),
so what one patient adds has an L2 norm of at most C. Noise, accountant and ledger are those of the plain sum: the
count is paid for by the gradient's tighter clip. This is the split of Andrew, Thakkar, McMahan and Ramaswamy 2021,
Theorem 1, https://arxiv.org/abs/1905.03871 (their z_delta^-2 + (2 sigma_b)^-2 = z^-2), written as one Gaussian
mechanism; the update is their Algorithm 1.

The norm of a round is computed from released sums only. All sums are released in units of the plan's clipping
norm, so that noise shares never depend on it.
"""

import math
from dataclasses import dataclass

import torch

from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.types import Vector


@dataclass(frozen=True)
class AdaptiveNorm:
    """The rule by which the norm follows.

    Attributes:
        quantile: share of patients whose gradients should be left as they are.
        rate: of the geometric update; 0.2 is the source's.
        share: s, the part of the squared sensitivity that the count takes.
    """

    quantile: float = 0.5
    rate: float = 0.2
    share: float = 0.01

    def __post_init__(self) -> None:
        if not (0 <= self.quantile <= 1 and 0 < self.share < 1 and 0 < self.rate < math.inf):
            raise PrivacyError(
                f"An adaptive norm needs a quantile in [0, 1], a share in (0, 1) and a rate > 0, got "
                f"{self.quantile}, {self.share} and {self.rate}."
            )

    def gradient_norm(self, clipping_norm: float) -> float:
        """The norm that gradients are clipped to in a round of that clipping norm."""
        return clipping_norm * math.sqrt(1 - self.share)

    def reaches(self, clipping_norm: float, start: float, rounds: int) -> bool:
        """Returns whether a norm can follow from `start` in so many rounds, for all sums that these may have.

        `separated` moves the logarithm by rate * quantile at most upwards and by rate * (1 - quantile) at most
        downwards; each round's norm is kept in single precision.
        """
        if not 0 < clipping_norm < math.inf:
            return False
        moved, rounding = math.log(clipping_norm / start), 1e-6 * (rounds + 1)
        least, most = -self.rate * (1 - self.quantile) * rounds, self.rate * self.quantile * rounds
        return least - rounding <= moved <= most + rounding

    def extended(self, clipped: ClippedSum, num_patients: int, clipping_norm: float, unit: float) -> ClippedSum:
        """The sum and its count as one vector, in units in which its sensitivity is `unit`.

        Args:
            clipped: of gradients clipped to `gradient_norm(clipping_norm)`.
            num_patients: patients in it.
            clipping_norm: C of the round.
            unit: the plan's clipping norm.
        """
        if clipped.sensitivity > self.gradient_norm(clipping_norm):
            raise PrivacyError(
                f"A sum must have sensitivity <= {self.gradient_norm(clipping_norm)}, got {clipped.sensitivity}."
            )
        count = unit * 2 * math.sqrt(self.share) * (clipped.within - num_patients / 2)
        vector = clipped.vector * (unit / clipping_norm)
        return ClippedSum(torch.cat([vector, vector.new_tensor([count])]), unit, clipped.within)

    def separated(
        self, released: Vector, expected_patients: float, clipping_norm: float, unit: float
    ) -> tuple[Vector, float]:
        """The noised gradient sum in its own units, and the next round's clipping norm: post-processing.

        Args:
            released: noised sum of what `extended` gave, (parameter + 1,).
            expected_patients: public or noised expected number of patients in it.
            clipping_norm: C of the round.
            unit: the plan's clipping norm.
        """
        centred = float(released[-1]) / (unit * 2 * math.sqrt(self.share))
        within = min(1.0, max(0.0, 0.5 + centred / expected_patients))
        following = clipping_norm * math.exp(-self.rate * (within - self.quantile))
        return released[:-1] * released.dtype.type(clipping_norm / unit), following
