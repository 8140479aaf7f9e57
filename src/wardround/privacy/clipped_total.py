"""A sum of clipped gradients in double precision, one patient after the other, whose rounding error is bounded.

Sensitivity: what a patient adds is, in real numbers, v = f g with g the gradient as it was computed from this patient
alone (`wardround.privacy.alone`) and f = min(1, C / N) in float64, N the norm of g added up in float64. With u = 2^-53
and at most 2^28 parameters N is right to 2^-26 of itself, hence |v| <= C' = C (1 + 2^-24).

What is returned is not the sum of these v but a floating-point sum. In each coordinate it adds one number a patient,
rounded at most twice, in some order: |fl(sum) - sum of v| <= gamma(m + 2) sum of |v| for m patients, gamma(k) =
k u / (1 - k u) (Higham 2002, Accuracy and Stability of Numerical Algorithms, sections 3.1 and 4.2: any order, with or
without fused multiply-adds). By the triangle inequality that is, in L2 norm,

    error(m)  <=  gamma(m + 2) m C'         below 2^-17 C (1 + 2^-15) for m <= 2^18.

The sums of two neighbours therefore differ by at most C' plus the errors of both, C (1 + 2^-15) with room to spare.
Where a gradient is left as two factors, each of its entries is one product of two numbers: nothing cancels within a
patient, and the bound is the same. It would not be for a product over several places of a picture, whose terms may be
far larger than the gradient that they add up to. Such gradients are formed first. What underflows is far below any of
this for C >= 1e-10, which is demanded.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.errors import PrivacyError
from wardround.privacy.alone import PatientGradient, blocks
from wardround.privacy.layout import Layout

_LEAST_NORM = 1e-10

_AT_ONCE = 32
"""Patients whose factors are multiplied together."""


class ClippedTotal:
    """Adds up clipped gradients; private until noised.

    Args:
        layout: of the trained parameters.
        clipping_norm: L2 norm C > 0 that each is scaled down to.

    Raises:
        PrivacyError: a clipping norm that is none, or one that rounding errors cannot be held against.
    """

    def __init__(self, layout: Layout, clipping_norm: float) -> None:
        if not _LEAST_NORM <= clipping_norm < math.inf:
            raise PrivacyError(f"clipping_norm must be >= {_LEAST_NORM:g} and finite, got {clipping_norm}.")
        self._layout, self._clipping_norm = layout, clipping_norm
        self._total = np.zeros(layout.size)
        self._waiting: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def add(self, gradient: PatientGradient) -> None:
        """Adds one patient, each of whom is added once.

        Guarantee:
            Relation: add or remove one patient. `vector` moves by at most C (1 + 2^-15) in L2 norm, for up to 2^18
            patients. A patient whose gradient is not finite adds exactly zero, which is decided from it alone.
        """
        norm = gradient.norm()
        if not math.isfinite(norm):
            return
        factor = min(1.0, self._clipping_norm / norm) if norm > 0 else 1.0
        for name, formed in gradient.formed.items():
            for place, piece in blocks(formed, self._layout.starts[name]):
                piece *= factor
                self._total[place] += piece
        for name, (rows, columns) in gradient.factors.items():
            waiting = self._waiting.setdefault(name, [])
            waiting.append((rows.to(torch.float64).mul_(factor), columns.to(torch.float64)))
            if len(waiting) == _AT_ONCE:
                self._multiply(name)

    def vector(self) -> npt.NDArray[np.float64]:
        """The sum so far, (parameter,)."""
        for name in list(self._waiting):
            self._multiply(name)
        return self._total

    def _multiply(self, name: str) -> None:
        rows, columns = (torch.stack(factors) for factors in zip(*self._waiting.pop(name), strict=True))
        matrix = torch.from_numpy(self._total[self._layout.place(name)]).view(rows.shape[1], columns.shape[1])
        matrix.addmm_(rows.t(), columns)
