"""Gradient sums of a linear head in whole numbers: matrix products without rounding, for masked sums.

Masked sums need that no bit of a patient's contribution depends on the other patients. A product in floating point
does not promise that: the order of its additions follows from its shape. Here the factors of every product are whole
numbers in double precision, and all partial sums stay below 2^53. Each product is then exact, in any order and in
batches of any size. All other steps are additions, products, quotients, roots and roundings of single numbers, which
IEEE 754 determines to the last bit, in a fixed order. Nothing is assumed of kernels, threads or the processor.

    x   a row (with a one for the bias)       X = round(x 2^(24 - e)),  2^(e-1) <= |x| < 2^e,        |X| < 2^25
    w   the weights of a class                V = round(w 2^(26 - t)),  2^(t-1) <= |w| < 2^t,        |V| < 2^27
    logit                                     (V . X) 2^(t + e - 50);   |V . X| <= |V| |X| < 2^52
    r   softmax less label, over pictures, times the clip factor, in units of 2^-k grid steps; of grades the r of
        `wardround.training.heads`
    R   round(r 2^(e - 24)) = 2^13 R1 + R0    |R| <= 2^32
    S   sum over pictures of R X^T            256 pictures at a time: 2^8 2^19 2^25 < 2^53
    Y   floor(S 2^-k + 1/2)                   the sum in grid steps

Released: nothing; Y is private until noised. Neighbouring relation: add or remove one patient.
Sensitivity: a patient moves S by v = sum over the patient's pictures of R X^T, whole numbers that follow from this
patient and from public numbers alone. A coordinate of Y moves by less than |v_c| 2^-k + 1, and not at all where
v_c = 0, so that Y moves by at most |v| 2^-k + sqrt(d) in L2 norm. A patient with |v| 2^-k > D - sqrt(d) is left out;
the clip aims below it. Y moves by at most D, the bound of `wardround.secure_aggregation.integers.grid`.

|v|^2 is the sum over pairs of pictures of (R_j . R_k) (X_j . X_k): a ghost norm (Goodfellow 2015,
https://arxiv.org/abs/1510.01799). The second factor is exact. A bound on the rounding of the rest (Higham 2002,
Accuracy and Stability of Numerical Algorithms, section 3.1) is added before |v| is compared.
"""

import math
import threading
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.models.networks.ordinal import asked_and_wanted
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.margins import before_margin
from wardround.per_patient.process import one_at_a_time
from wardround.randomness import Indices
from wardround.training.pairs import Batches, Float64, Part
from wardround.training.patients import Rows, TrainingPatients
from wardround.types import Vector

Int64: TypeAlias = npt.NDArray[np.int64]

_ROW_BITS, _WEIGHT_BITS, _SUM_BITS, _LOW_BITS = 24, 26, 49, 13
_MOST_RESIDUAL = 2.0**32
_AT_ONCE = 256
_MOST_SQUARE = 1e60
_UP = 1 + 2.0**-50

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # fdlibm, e_exp.c
_FACTORIALS = [math.factorial(n) for n in range(13, -1, -1)]


@dataclass(frozen=True)
class Steps:
    """The grid that a sum is formed on.

    Attributes:
        bound: D, L2 norm in grid steps that one patient moves the sum by, at most.
        dimension: d, coordinates of the grid.
        per_unit: grid steps to one unit of a gradient.
    """

    bound: int
    dimension: int
    per_unit: float

    @property
    def most(self) -> int:
        """D - sqrt(d), rounded down: the norm of v in grid steps, at most."""
        return self.bound - math.isqrt(self.dimension - 1) - 1

    @property
    def are_fine(self) -> bool:
        """True where rounding a sum takes an eighth of the bound at most."""
        return 8 * self.most >= 7 * self.bound

    @property
    def fine_bits(self) -> int:
        """k: a grid step is 2^k of the units that S is formed in, and D is below 2^49 of them."""
        return _SUM_BITS - self.bound.bit_length()


@dataclass(frozen=True)
class _Batch:
    """Whole patients: X in parts, each picture's power of two and |X|^2, and whether each patient can be summed."""

    of: Part
    parts: list[Tensor]
    powers: Int64
    squares: Float64
    is_fit: npt.NDArray[np.bool_]


class ExactHead:
    """Sums of one linear head on kept rows.

    Args:
        classes: scores of the head: one a class, or one fewer than grades.
        inputs: of every picture, (picture, ...), float32; may be a memory map.
        has_bias: whether the head has a bias.
        is_ordinal: its scores are those of grades.
        threads: that take batches side by side (`Batches.each`).
    """

    def __init__(
        self, classes: int, inputs: Tensor, has_bias: bool, *, is_ordinal: bool = False, threads: int = 1
    ) -> None:
        self._classes, self._rows, self._has_bias = classes, inputs.flatten(1), has_bias
        self._residuals = _residuals_of_grades if is_ordinal else _residuals
        row_bytes = 8 * (self._rows.shape[1] + has_bias)
        self._batches = Batches(self._products, _AT_ONCE, self._batch, _own, row_bytes, threads)
        self._memory = threading.local()
        count = len(self._rows)
        self._powers, self._is_fit = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        self._squares = np.zeros(count)
        for start in range(0, count, _AT_ONCE):
            own = np.arange(start, min(start + _AT_ONCE, count))
            squares = _squares(self._rows[torch.from_numpy(own)].to(torch.float64).numpy()) + has_bias
            self._is_fit[own] = squares <= _MOST_SQUARE  # not where it is no number
            self._powers[own] = np.frexp(np.sqrt(np.where(self._is_fit[own], squares, 0.0)))[1]
            self._squares[own] = self._products(own, own)

    @one_at_a_time()
    def sum_of(
        self,
        weights: Vector,
        patients: TrainingPatients,
        chosen: Indices,
        rule: Clipping,
        clipping_norm: float,
        steps: Steps,
    ) -> Int64:
        """Returns the sum over some patients of their clipped gradients, in grid steps, (parameter,).

        Args:
            weights: of the head, public, (parameter,): by class, then the bias.
            patients: of a hospital.
            chosen: positions of those that take part, each once.
            rule: by which a gradient is brought to the norm.
            clipping_norm: C > 0, in units of a gradient.
            steps: a grid whose steps `are_fine`.

        Guarantee:
            One patient, added or removed, moves the sum by an L2 norm of at most `steps.bound`. It does not depend on
            the order of patients, their batches or threads. Private until noised.

        Edge cases:
            no patients, or weights that are not finite: zeros.
            a patient without pictures, or with a row that is not finite or longer than 10^30: adds zero.
            a sum of 2^26 patients or more could leave 64 bits; no hospital has them.
        """
        high, low = self._fine_sum(weights, patients, chosen, rule, clipping_norm, steps)
        shift = steps.fine_bits - _LOW_BITS  # floor((2^13 high + low + 2^(k-1)) / 2^k)
        rounded = (high + (low >> _LOW_BITS) + (1 << (shift - 1))) >> shift
        if not self._has_bias:
            return rounded.ravel()
        return np.concatenate([rounded[:, :-1].ravel(), rounded[:, -1]])

    def _fine_sum(
        self,
        weights: Vector,
        patients: TrainingPatients,
        chosen: Indices,
        rule: Clipping,
        clipping_norm: float,
        steps: Steps,
    ) -> tuple[Int64, Int64]:
        """Returns S as 2^13 times the first part plus the second, (class, feature); arguments as `sum_of` has them."""
        table = self._with_bias(weights.astype(np.float64))
        total = np.zeros((2, *table.shape), dtype=np.int64)
        if not np.isfinite(table).all():
            return total[0], total[1]
        powers = np.frexp(np.sqrt(_squares(table)))[1].astype(np.int64)
        whole = torch.from_numpy(np.rint(np.ldexp(table, (_WEIGHT_BITS - powers)[:, None])))

        def sums_of(batch: _Batch) -> list[Int64]:
            products = torch.cat([whole @ part.T for part in batch.parts], dim=1).numpy().T
            logits = np.ldexp(products, batch.powers[:, None] + powers - (_ROW_BITS + _WEIGHT_BITS))
            shares = _clipped(self._residuals(logits, batch), batch, rule, clipping_norm, steps, weights.size)
            upper = np.rint(np.ldexp(shares, -_LOW_BITS))
            both = torch.from_numpy(np.concatenate([upper, shares - np.ldexp(upper, _LOW_BITS)], axis=1).T.copy())
            each = torch.split(both, [len(part) for part in batch.parts], dim=1)
            return [(own @ part).numpy().astype(np.int64) for own, part in zip(each, batch.parts, strict=True)]

        for found in self._batches.each(sums_of, patients, chosen):
            for sums in found:
                total += sums.reshape(total.shape)
        return total[0], total[1]

    def _with_bias(self, weights: Float64) -> Float64:
        """Returns the weights by class, (class, feature), the bias as a last feature."""
        if not self._has_bias:
            return weights.reshape(self._classes, -1)
        by_class = weights[: -self._classes].reshape(self._classes, -1)
        return np.concatenate([by_class, weights[-self._classes :, None]], axis=1)

    def _batch(self, part: Part) -> _Batch:
        starts = range(0, max(1, len(part.rows)), _AT_ONCE)
        whole = [self._whole(part.rows[at : at + _AT_ONCE], place) for place, at in enumerate(starts)]
        unfit = np.bincount(part.patient[~self._is_fit[part.rows]], minlength=len(part.counts))
        return _Batch(part, whole, self._powers[part.rows], self._squares[part.rows], unfit == 0)

    def _whole(self, rows: Rows, part: int = 0) -> Tensor:
        """Returns X of some pictures, (picture, feature), float64; zeros where the row cannot be summed.

        It lies in memory that the thread's next call for the same part of a batch writes over.
        """
        if not hasattr(self._memory, "parts"):
            self._memory.parts, self._memory.given = list[Tensor](), torch.empty(_AT_ONCE, self._rows.shape[1])
        parts, given = self._memory.parts, self._memory.given[: len(rows)]
        while len(parts) <= part:
            parts.append(torch.empty(_AT_ONCE, self._rows.shape[1] + self._has_bias, dtype=torch.float64))
        whole: Tensor = parts[part][: len(rows)]
        is_fit = torch.from_numpy(self._is_fit[rows])
        torch.index_select(self._rows, 0, torch.from_numpy(rows), out=given)
        whole[:, : given.shape[1]] = given
        if self._has_bias:
            whole[:, -1] = 1.0
        if not is_fit.all():
            whole[~is_fit] = 0.0
        scale = torch.from_numpy(np.ldexp(1.0, _ROW_BITS - self._powers[rows]))
        return whole.mul_(scale[:, None]).round_()

    def _products(self, first: Rows, second: Rows) -> Float64:
        """Returns X_j . X_k of pairs of pictures, (pair,): whole numbers below 2^50, exact in any order."""
        return np.asarray((self._whole(first) * self._whole(second, 1)).sum(1).numpy())


def _own(batch: _Batch) -> _Batch:
    return replace(batch, parts=[part.clone() for part in batch.parts])


def _squares(rows: Float64) -> Float64:
    """Returns the squared norm of each row, (row,), added up in an order that follows from the length alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = rows * rows
        while values.shape[1] > 1:
            half = (values.shape[1] + 1) // 2
            left = values[:, :half].copy()
            left[:, : values.shape[1] - half] += values[:, half:]
            values = left
    return values[:, 0]


def _residuals(logits: Float64, batch: _Batch) -> Float64:
    """Returns softmax less label, over the patient's pictures, (picture, class)."""
    shares = _exp(np.maximum(logits - logits.max(axis=1, keepdims=True), -700.0))
    total = np.zeros(len(shares))
    for own in shares.T:
        total = total + own
    shares = shares / total[:, None]
    shares[np.arange(len(shares)), batch.of.labels] -= 1
    return np.asarray(shares / batch.of.counts[batch.of.patient][:, None])


def _residuals_of_grades(scores: Float64, batch: _Batch) -> Float64:
    """Returns sigmoid less answer of the scores that ask a picture, over the patient's pictures, (picture, score)."""
    asked, wanted = asked_and_wanted(torch.from_numpy(batch.of.labels), scores.shape[1])
    tail = _exp(np.maximum(-np.abs(scores), -700.0))
    beyond = np.where(scores >= 0, 1.0, tail) / (1.0 + tail)
    found = np.where(asked.numpy(), beyond - wanted.numpy(), 0.0)
    return np.asarray(found / batch.of.counts[batch.of.patient][:, None])


def _exp(values: Float64) -> Float64:
    """Returns e^v for -700 <= v <= 0 from steps that IEEE 754 determines, unlike a library's exp; right to 2^-51."""
    whole = np.rint(values * math.log2(math.e))
    rest = (values - whole * _LN2_HIGH) - whole * _LN2_LOW
    found = np.zeros_like(values)
    for factorial in _FACTORIALS:
        found = found * rest + 1 / factorial
    return np.asarray(np.ldexp(found, whole.astype(np.int64)))


def _clipped(
    residuals: Float64, batch: _Batch, rule: Clipping, clipping_norm: float, steps: Steps, parameters: int
) -> Float64:
    """Returns R, whole numbers, (picture, class): of a patient whose |v| is within the bound, and else zeros."""
    scale, unit = np.ldexp(1.0, batch.powers - _ROW_BITS), math.ldexp(steps.per_unit, steps.fine_bits)
    most = math.ldexp(steps.most, steps.fine_bits)
    norms = _norms(residuals, scale, batch)
    factors = rule.factors(torch.from_numpy(norms)[None], [parameters], before_margin(clipping_norm))[0].numpy()
    # Rounding R moves v by half a unit in each class times |X|, for each picture.
    room = np.maximum(most - batch.of.counts * (math.sqrt(residuals.shape[1]) * 2.0**_ROW_BITS), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.minimum(factors * unit, room / (norms * _UP))
    factors = np.where(batch.is_fit & (norms > 0), factors, 0.0)
    values = residuals * (factors[batch.of.patient] * scale)[:, None]
    peaks = np.full(len(batch.of.counts), _MOST_RESIDUAL)
    np.maximum.at(peaks, batch.of.patient, np.abs(values).max(axis=1))
    shares = np.rint(values * (_MOST_RESIDUAL / peaks)[batch.of.patient][:, None])
    is_within = _norms(shares, np.ones(len(scale)), batch) * _UP <= most
    return np.where(is_within[batch.of.patient][:, None], shares, 0.0)


def _norms(shares: Float64, scale: Float64, batch: _Batch) -> Float64:
    """Returns a bound on the norm of each patient's sum of share_j scale_j X_j^T, (patient,), tight to rounding.

    With m pictures and K classes, rounding takes at most (m^2 + K + 8) 2^-52 of (sum of |share_j| scale_j |X_j|)^2.
    """
    own, crossed = np.zeros(len(shares)), np.zeros(len(batch.of.first))
    for share in shares.T:
        own = own + share * share
        crossed = crossed + share[batch.of.first] * share[batch.of.second]
    own = own * batch.squares * scale * scale
    crossed = 2 * crossed * batch.of.products * scale[batch.of.first] * scale[batch.of.second]
    count = len(batch.of.counts)
    squared = np.bincount(batch.of.patient, own, count) + np.bincount(
        batch.of.patient[batch.of.first], crossed, count
    )
    reach = np.bincount(batch.of.patient, np.sqrt(own), count)
    rounding = (batch.of.counts.astype(np.float64) ** 2 + shares.shape[1] + 8) * 2.0**-52
    return np.asarray(np.sqrt(np.maximum(squared, 0.0) + rounding * reach * reach))
