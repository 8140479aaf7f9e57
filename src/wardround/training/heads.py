"""Clipped sums of a linear head on fixed rows, as matrix products: no backward pass, no per-patient gradient.

The gradient of a picture's cross-entropy is r x^T, with x its row and r = softmax(W x) - e_label. Of grades
(`wardround.models.networks.ordinal`) score k has r_k = [y >= k] (sigmoid(w_k x) - [y > k]), y the label. Of a patient
with pictures j the gradient is the mean, and its squared norm is the sum over pairs j, k of
(r_j . r_k) (x_j . x_k) / pictures^2: a ghost norm, which needs products of the patient's own rows only. The clipped sum
over patients is one matrix product of the scaled residuals with the rows (Goodfellow 2015,
https://arxiv.org/abs/1510.01799, for one picture a patient).

Released: nothing. Sensitivity and neighbouring relation are those of `wardround.per_patient.clipped_sum`: norms are in
float64 of the very residuals that are summed, and the clip aims below C by the same margin. A patient's terms may
cancel: pictures that are alike, with several labels. The product would then round more than the margin, so this
patient's gradient is formed in float64, and the vector that is measured is the vector that is added.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.errors import PrivacyError
from wardround.models.linear import scoring_layer
from wardround.models.network import Network
from wardround.models.networks.ordinal import asked_and_wanted
from wardround.per_patient.batch import Loss
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.margins import LEAST_CLIPPING_NORM, MOST_CANCELLED
from wardround.per_patient.process import in_single_precision
from wardround.randomness import Indices
from wardround.training.centring import Moves
from wardround.training.losses import cross_entropy
from wardround.training.pairs import Batches, Float64, Part
from wardround.training.patients import Rows, TrainingPatients
from wardround.types import Vector

_AT_ONCE = 512
"""Pictures in a matrix product: their rows stay in the processor's cache between the two products of a round."""

_MOST_SQUARE = 1e60
"""Largest squared norm of a row. The clipping factor of a longer one would have too few digits in float32."""


@dataclass(frozen=True)
class _Batch:
    """Whole patients, of each picture its row and the squared norm of the row and the bias's constant.

    `shares` are the numbers of pictures of each picture's patient, `wanted` the labels as vectors, (picture, score),
    `asked` of grades one where a score asks a picture, (picture, score), `pair_patient` the patient of each pair; other
    fields are those of `Part`, as tensors.
    """

    rows: Tensor
    squares: Tensor
    labels: Tensor
    wanted: Tensor
    asked: Tensor | None
    shares: Tensor
    patient: Tensor
    num_patients: int
    first: Tensor
    second: Tensor
    pair_patient: Tensor
    products: Tensor


class HeadSums:
    """Gradient sums of one linear head.

    Args:
        layer: the head.
        rows: of every picture, (picture, feature), float32 and finite.
        squares: squared norm of each row, float64, (picture,); NaN for a picture whose patient adds nothing.
        is_ordinal: its scores are those of grades.
        threads: that take batches side by side (`Batches.each`).
    """

    def __init__(
        self, layer: nn.Linear, rows: Tensor, squares: Tensor, *, is_ordinal: bool = False, threads: int = 1
    ) -> None:
        self._shape, self._has_bias, self._is_ordinal = layer.weight.shape, layer.bias is not None, is_ordinal
        self._rows, self._squares = rows, squares
        self._memory = threading.local()
        self._batches = Batches(self._products, _AT_ONCE, self._batch, _own, 4 * rows.shape[1], threads)

    @classmethod
    def of(cls, network: Network, inputs: Tensor | None, loss: Loss, threads: int = 1) -> "HeadSums | None":
        """Returns the sums of a head on kept inputs, of classes or grades; None where the engine is needed.

        The choice follows from the network and the loss alone: the engine rounds otherwise, so that one patient who
        changed it would change every other patient's gradient. A patient with a row that is not finite, or longer than
        10^30, adds exactly zero.
        """
        layer, is_ordinal = scoring_layer(network)
        if layer is None or inputs is None or loss is not cross_entropy or inputs.dtype != torch.float32:
            return None
        if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
            return None
        rows = inputs.flatten(1)
        squares = torch.empty(len(rows), dtype=torch.float64)
        for start in range(0, len(rows), _AT_ONCE):  # results between large blocks would hold on to these
            squares[start : start + _AT_ONCE] = rows[start : start + _AT_ONCE].to(torch.float64).square_().sum(1)
        is_fit = squares <= _MOST_SQUARE
        if not is_fit.all():
            rows, squares = torch.where(is_fit[:, None], rows, 0.0), torch.where(is_fit, squares, torch.nan)
        return cls(layer, rows, squares, is_ordinal=is_ordinal, threads=threads)

    @in_single_precision()
    def sums(
        self,
        weights: Vector,
        samples: Sequence[tuple[TrainingPatients, Indices]],
        clipping_norm: float,
        clipping: Clipping,
        class_weights: tuple[float, ...] | None,
    ) -> list[ClippedSum]:
        """Returns the clipped sum of each sample of patients; arguments as `Workbench.gradient_sums` has them.

        Guarantee:
            That of `wardround.per_patient.clipped_sum.clipped_sum`: one patient, added or removed, moves a sum,
            (parameter,), by at most C. A patient whose gradient is not finite adds exactly zero. A sample's sum does
            not depend on the other samples, to the last bit.

        Raises:
            PrivacyError: `clipping_norm` is too small to be measured in single precision.
        """
        return [self._sums(weights[None], sample, clipping_norm, clipping, class_weights)[0] for sample in samples]

    @in_single_precision()
    def sums_at(
        self,
        weights: npt.NDArray[np.float32],
        sample: tuple[TrainingPatients, Indices],
        clipping_norm: float,
        clipping: Clipping,
        moves: Moves | None = None,
    ) -> list[ClippedSum]:
        """Returns the clipped sum of a sample at each of several weights, (head, parameter); rows are read once.

        With `moves`, of heads on rows less a centre each: bounded as others are but for the rounding of their norms,
        which is that of single precision. They are for references, of which no patient is promised anything.
        """
        if moves is None:
            return self._sums(weights, sample, clipping_norm, clipping, None)
        found = self._sums(moves.folded(weights), sample, clipping_norm, clipping, None, moves)
        return [replace(one, vector=moves.gradient(head, one.vector)) for head, one in enumerate(found)]

    def _sums(
        self,
        weights: npt.NDArray[np.float32],
        sample: tuple[TrainingPatients, Indices],
        clipping_norm: float,
        clipping: Clipping,
        class_weights: tuple[float, ...] | None,
        moves: Moves | None = None,
    ) -> list[ClippedSum]:
        table = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
        classes, features = self._shape
        weight = table[:, : classes * features].reshape(-1, classes, features)
        bias = table[:, classes * features :] if self._has_bias else None
        losses = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        found: list[ClippedSum] = []

        def sums_of(batch: _Batch) -> list[ClippedSum]:
            return _sums_of(weight, bias, batch, clipping_norm, clipping, losses, moves)

        for parts in self._batches.each(sums_of, *sample):
            # One product stays in single precision, as in the engine: noise is drawn in the sum's precision.
            found = [
                ClippedSum(one.vector.to(torch.float64) + part.vector, clipping_norm, one.within + part.within)
                for one, part in zip(found, parts, strict=True)
            ] if found else parts  # fmt: skip
        return found or [ClippedSum(torch.zeros(table.shape[1]), clipping_norm, 0) for _ in table]

    def _batch(self, part: Part) -> _Batch:
        """Returns a batch whose rows the thread's next one writes over: new memory would take longer than a product."""
        places, out = torch.from_numpy(part.rows), None
        if len(places) <= _AT_ONCE:
            if not hasattr(self._memory, "rows"):
                self._memory.rows = torch.empty(_AT_ONCE, self._rows.shape[1])
            out = self._memory.rows[: len(places)]
        constant = 1.0 if self._has_bias else 0.0
        labels, asked = torch.from_numpy(part.labels), None
        if self._is_ordinal:
            asked, wanted = asked_and_wanted(labels, self._shape[0])
        else:
            wanted = F.one_hot(labels, self._shape[0])
        return _Batch(
            rows=torch.index_select(self._rows, 0, places, out=out),
            squares=self._squares[places] + constant,
            labels=labels,
            wanted=wanted.to(torch.float32),
            asked=None if asked is None else asked.to(torch.float32),
            shares=torch.from_numpy(part.counts[part.patient]).to(torch.float32),
            patient=torch.from_numpy(part.patient),
            num_patients=len(part.counts),
            first=torch.from_numpy(part.first),
            second=torch.from_numpy(part.second),
            pair_patient=torch.from_numpy(part.patient[part.first]),
            products=2 * (torch.from_numpy(part.products) + constant),
        )

    def _products(self, first: Rows, second: Rows) -> Float64:
        one, other = (self._rows[torch.from_numpy(rows)].to(torch.float64) for rows in (first, second))
        return np.asarray((one * other).sum(1).numpy())


def _own(batch: _Batch) -> _Batch:
    return replace(batch, rows=batch.rows.clone())


def _sums_of(
    weights: Tensor,
    biases: Tensor | None,
    batch: _Batch,
    clipping_norm: float,
    clipping: Clipping,
    class_weights: Tensor | None,
    moves: Moves | None,
) -> list[ClippedSum]:
    """Returns the clipped sum of a batch at each of several weights, (head, class, feature), and biases, (head, class).

    The rows are read once for all of them. No sum depends on the other weights but for the rounding of the products.
    """
    if not math.isinf(clipping_norm):
        if not clipping_norm >= LEAST_CLIPPING_NORM:
            raise PrivacyError(f"clipping_norm must be >= {LEAST_CLIPPING_NORM:g}, got {clipping_norm}.")
        clipping.check(clipping_norm)
    number, classes, features = weights.shape
    logits = F.linear(batch.rows, weights.flatten(0, 1), None if biases is None else biases.flatten())
    residuals = _residuals(logits.view(-1, number, classes), batch)
    if class_weights is not None:
        residuals *= class_weights[batch.labels][:, None, None]
    residuals /= batch.shares[:, None, None]
    squared, terms = _squared_norms(residuals.to(torch.float64), batch, *_products_of(batch, moves))
    norms, finite = squared.clamp_min(0).sqrt(), torch.isfinite(terms)
    formed = {
        (patient, head): _gradient(residuals[:, head], batch, patient, has_bias=biases is not None)
        for patient, head in torch.nonzero(finite & (squared < MOST_CANCELLED * terms)).tolist()
    }
    for at, gradient in formed.items():
        norms[at] = torch.linalg.vector_norm(gradient if moves is None else moves.gradient(at[1], gradient))
    factors, within = finite.to(torch.float64), torch.zeros(number, dtype=torch.int64)
    if not math.isinf(clipping_norm):
        each = torch.where(finite, norms, 1.0).flatten()[None]
        found = clipping.factors(each, [classes * (features + (biases is not None))], clipping_norm)[0]
        factors = torch.where(finite, found.view_as(finite), 0.0)
        within = (finite & (norms <= clipping_norm)).sum(0)
    in_product = finite.clone()
    for at in formed:
        in_product[at] = False
    scale = factors.to(torch.float32)[batch.patient][:, :, None]
    scaled = torch.where(in_product[batch.patient][:, :, None], residuals * scale, 0.0)
    parts = [(scaled.flatten(1).T @ batch.rows).view(number, -1)]
    if biases is not None:
        parts.append(scaled.sum(0))
    vectors = torch.cat(parts, dim=1)
    for (patient, head), gradient in formed.items():
        vectors[head] += factors[patient, head] * gradient
    return [
        ClippedSum(vector, clipping_norm, count) for vector, count in zip(vectors, within.tolist(), strict=True)
    ]


def _residuals(scores: Tensor, batch: _Batch) -> Tensor:
    """Returns the derivative of each picture's loss by its scores, (picture, head, score)."""
    if batch.asked is None:
        return torch.softmax(scores, dim=2) - batch.wanted[:, None]
    return (torch.sigmoid(scores) - batch.wanted[:, None]) * batch.asked[:, None]


def _products_of(batch: _Batch, moves: Moves | None) -> tuple[Tensor, Tensor]:
    """Returns squared norms of rows and twice the products of pairs, (picture, head) and (pair, head), float64."""
    if moves is None:
        return batch.squares[:, None], batch.products[:, None]
    return moves.products(batch.rows, batch.squares, batch.first, batch.second, batch.products)


def _squared_norms(residuals: Tensor, batch: _Batch, squares: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Returns squared norms of the patients' gradients, and the sums of the sizes of their terms, (patient, head).

    Both are float64. Rounding may carry a squared norm below zero.
    """
    own = (residuals * residuals).sum(2) * squares
    squared = torch.zeros(batch.num_patients, own.shape[1], dtype=torch.float64).index_add_(0, batch.patient, own)
    if not len(batch.first):
        return squared, squared
    crossed = (residuals[batch.first] * residuals[batch.second]).sum(2) * products
    terms = squared.index_add(0, batch.pair_patient, crossed.abs())
    return squared.index_add_(0, batch.pair_patient, crossed), terms


def _gradient(residuals: Tensor, batch: _Batch, patient: int, *, has_bias: bool) -> Tensor:
    """Returns one patient's gradient at the head with these residuals, (picture, class); float64, (parameter,)."""
    own = batch.patient == patient
    r, x = residuals[own].to(torch.float64), batch.rows[own].to(torch.float64)
    weight = (r.T @ x).flatten()
    return torch.cat([weight, r.sum(0)]) if has_bias else weight
