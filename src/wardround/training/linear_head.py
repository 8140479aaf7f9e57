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


def head_sum(
    weight: Tensor,
    bias: Tensor | None,
    batch: HeadBatch,
    *,
    clipping_norm: float | None,
    clipping: Clipping,
    class_weights: Tensor | None = None,
) -> ClippedSum:
    """Returns the sum of the patients' gradients of mean cross-entropy, each scaled to a norm of `clipping_norm`.

    Args:
        weight: of the head, float32, (class, feature).
        bias: of the head, (class,), or None.
        batch: the patients.
        clipping_norm: L2 bound C > 0; None adds gradients up as they are.
        clipping: how gradients are brought to that norm.
        class_weights: of the loss of each class, public, (class,); one if not given.

    Guarantee:
        That of `wardround.per_patient.clipped_sum.clipped_sum`: one patient, added or removed, moves the vector,
        (parameter,), the weight by rows and then the bias, by at most C. A patient whose gradient is not finite adds
        exactly zero.

    Raises:
        PrivacyError: `clipping_norm` is too small to be measured in single precision.
    """
    if clipping_norm is not None:
        if not clipping_norm >= LEAST_CLIPPING_NORM:
            raise PrivacyError(f"clipping_norm must be >= {LEAST_CLIPPING_NORM:g}, got {clipping_norm}.")
        clipping.check(clipping_norm)
    shares = torch.bincount(batch.patient, minlength=batch.num_patients)[batch.patient]
    residuals = _residuals(F.linear(batch.rows, weight, bias), batch.labels, class_weights) / shares[:, None]
    constant = 0.0 if bias is None else 1.0
    squared, terms = _squared_norms(residuals.to(torch.float64), batch, constant)
    norms, finite = squared.clamp_min(0).sqrt(), torch.isfinite(terms)
    formed = {
        patient: _gradient(residuals, batch, patient, constant)
        for patient in torch.nonzero(finite & (squared < MOST_CANCELLED * terms))[:, 0].tolist()
    }
    for patient, gradient in formed.items():
        norms[patient] = torch.linalg.vector_norm(gradient)
    within = 0
    factors = finite.to(torch.float64)
    if clipping_norm is not None:
        size = weight.numel() + (0 if bias is None else bias.numel())
        found = clipping.factors(torch.where(finite, norms, 1.0)[None], [size], clipping_norm)[0]
        factors = torch.where(finite, found, 0.0)
        within = int((finite & (norms <= clipping_norm)).sum())
    in_product = finite.clone()
    in_product[list(formed)] = False
    scale = factors.to(torch.float32)[batch.patient][:, None]
    scaled = torch.where(in_product[batch.patient][:, None], residuals * scale, 0.0)
    parts = [(scaled.T @ batch.rows).flatten()]
    if bias is not None:
        parts.append(scaled.sum(0))
    vector = torch.cat(parts)
    for patient, gradient in formed.items():
        vector += factors[patient] * gradient
    return ClippedSum(vector, float("inf") if clipping_norm is None else clipping_norm, within)


def _residuals(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Returns the gradient of each picture's loss by its logits, (picture, class)."""
    residuals = torch.softmax(logits, dim=1)
    residuals[torch.arange(len(labels)), labels] -= 1
    return residuals if class_weights is None else residuals * class_weights[labels][:, None]


def _squared_norms(residuals: Tensor, batch: HeadBatch, constant: float) -> tuple[Tensor, Tensor]:
    """Returns the squared norm of each patient's gradient, and the sum of the sizes of its terms, float64, (patient,).

    Rounding may carry a squared norm below zero.
    """
    own = (residuals * residuals).sum(1) * (batch.squares + constant)
    squared = torch.zeros(batch.num_patients, dtype=torch.float64).index_add_(0, batch.patient, own)
    terms = squared.clone()
    if len(batch.first):
        crossed = 2 * (residuals[batch.first] * residuals[batch.second]).sum(1) * (batch.products + constant)
        squared.index_add_(0, batch.patient[batch.first], crossed)
        terms.index_add_(0, batch.patient[batch.first], crossed.abs())
    return squared, terms


def _gradient(residuals: Tensor, batch: HeadBatch, patient: int, constant: float) -> Tensor:
    """Returns one patient's gradient, float64, (parameter,)."""
    own = batch.patient == patient
    r, x = residuals[own].to(torch.float64), batch.rows[own].to(torch.float64)
    weight = (r.T @ x).flatten()
    return torch.cat([weight, r.sum(0)]) if constant else weight
