"""Clipped sums of a linear softmax head on fixed rows, as matrix products: no backward pass, no per-patient gradient.

The gradient of a picture's cross-entropy is r x^T, with x its row and r = softmax(W x) - e_label. Of a patient with
pictures j it is the mean, and its squared norm is the sum over pairs j, k of (r_j . r_k) (x_j . x_k) / pictures^2: a
ghost norm, which needs products of the patient's own rows only. The clipped sum over patients is one matrix product of
the scaled residuals with the rows (Goodfellow 2015, https://arxiv.org/abs/1510.01799, for one picture a patient).

Released: nothing. Sensitivity and neighbouring relation are those of `wardround.per_patient.clipped_sum`: norms are in
float64 of the very residuals that are summed, and the clip aims below C by the same margin. A patient's terms may
cancel: pictures that are alike, with several labels. The product would then round more than the margin, so this
patient's gradient is formed in float64, and the vector that is measured is the vector that is added.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.margins import LEAST_CLIPPING_NORM, MOST_CANCELLED


@dataclass(frozen=True)
class HeadBatch:
    """Rows of some patients, each patient with all pictures, one after the other.

    Attributes:
        rows: float32, finite, (picture, feature).
        labels: class of each picture, (picture,).
        patient: position of each picture's patient, 0, 1, ..., ascending, (picture,).
        num_patients: patients, of whom some may have no picture.
        squares: squared norm of each row, float64, (picture,).
        first: position of the first picture of each pair of pictures of one patient, (pair,).
        second: position of the second, (pair,).
        products: inner product of the pair's rows, float64, (pair,).
    """

    rows: Tensor
    labels: Tensor
    patient: Tensor
    num_patients: int
    squares: Tensor
    first: Tensor
    second: Tensor
    products: Tensor


def head_sums(
    weights: Tensor,
    biases: Tensor | None,
    batch: HeadBatch,
    *,
    clipping_norm: float | None,
    clipping: Clipping,
    class_weights: Tensor | None = None,
) -> list[ClippedSum]:
    """Returns, at each of several weights, the sum of the patients' clipped gradients of mean cross-entropy.

    The rows are read once for all of them. No sum depends on the other weights but for the rounding of the products.

    Args:
        weights: of heads, float32, (head, class, feature).
        biases: of the heads, (head, class), or None.
        batch: the patients.
        clipping_norm: L2 bound C > 0 that each patient's gradient is scaled to; None adds gradients up as they are.
        clipping: how gradients are brought to that norm.
        class_weights: of the loss of each class, public, (class,); one if not given.

    Guarantee:
        That of `wardround.per_patient.clipped_sum.clipped_sum`: one patient, added or removed, moves each vector,
        (parameter,), the weight by rows and then the bias, by at most C. A patient whose gradient is not finite adds
        exactly zero.

    Raises:
        PrivacyError: `clipping_norm` is too small to be measured in single precision.
    """
    if clipping_norm is not None:
        if not clipping_norm >= LEAST_CLIPPING_NORM:
            raise PrivacyError(f"clipping_norm must be >= {LEAST_CLIPPING_NORM:g}, got {clipping_norm}.")
        clipping.check(clipping_norm)
    number, classes, features = weights.shape
    shares = torch.bincount(batch.patient, minlength=batch.num_patients)[batch.patient]
    logits = F.linear(batch.rows, weights.flatten(0, 1), None if biases is None else biases.flatten())
    residuals = _residuals(logits.view(-1, number, classes), batch.labels, class_weights) / shares[:, None, None]
    constant = 0.0 if biases is None else 1.0
    squared, terms = _squared_norms(residuals.to(torch.float64), batch, constant)
    norms, finite = squared.clamp_min(0).sqrt(), torch.isfinite(terms)
    formed = {
        (patient, head): _gradient(residuals[:, head], batch, patient, constant)
        for patient, head in torch.nonzero(finite & (squared < MOST_CANCELLED * terms)).tolist()
    }
    for at, gradient in formed.items():
        norms[at] = torch.linalg.vector_norm(gradient)
    factors, within = finite.to(torch.float64), torch.zeros(number, dtype=torch.int64)
    if clipping_norm is not None:
        each = torch.where(finite, norms, 1.0).flatten()[None]
        found = clipping.factors(each, [classes * (features + int(constant))], clipping_norm)[0]
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
    sensitivity = float("inf") if clipping_norm is None else clipping_norm
    return [ClippedSum(vector, sensitivity, count) for vector, count in zip(vectors, within.tolist(), strict=True)]


def _residuals(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Returns the gradient of each picture's loss by its logits, (picture, head, class)."""
    residuals = torch.softmax(logits, dim=2)
    residuals[torch.arange(len(labels)), :, labels] -= 1
    return residuals if class_weights is None else residuals * class_weights[labels][:, None, None]


def _squared_norms(residuals: Tensor, batch: HeadBatch, constant: float) -> tuple[Tensor, Tensor]:
    """Returns squared norms of the patients' gradients, and the sums of the sizes of their terms, (patient, head).

    Both are float64. Rounding may carry a squared norm below zero.
    """
    own = (residuals * residuals).sum(2) * (batch.squares + constant)[:, None]
    squared = torch.zeros(batch.num_patients, own.shape[1], dtype=torch.float64).index_add_(0, batch.patient, own)
    terms = squared.clone()
    if len(batch.first):
        products = (batch.products + constant)[:, None]
        crossed = 2 * (residuals[batch.first] * residuals[batch.second]).sum(2) * products
        squared.index_add_(0, batch.patient[batch.first], crossed)
        terms.index_add_(0, batch.patient[batch.first], crossed.abs())
    return squared, terms


def _gradient(residuals: Tensor, batch: HeadBatch, patient: int, constant: float) -> Tensor:
    """Returns one patient's gradient at the head with these residuals, (picture, class); float64, (parameter,)."""
    own = batch.patient == patient
    r, x = residuals[own].to(torch.float64), batch.rows[own].to(torch.float64)
    weight = (r.T @ x).flatten()
    return torch.cat([weight, r.sum(0)]) if constant else weight
