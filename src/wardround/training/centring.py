"""The mean row of a head's patients, released with noise, and rows less that mean.

Rows have norm one, and what all of them share uses up most of it where public constants do not fit the study's
pictures: the clip and the step are then spent on what tells no patient from another. Rows x less the mean m, the
constant c kept, and multiplied by one number g, so that their mean squared norm is one again, are a matrix times x:

    x'_i = g (x_i - m_i x_d / c),   x'_d = x_d,   g^2 = (1 - c^2) / (1 - c^2 - |m|^2)

A head V on x' is therefore the head W on x with W_i = g V_i and W_d = V_d - (g / c) sum_i V_i m_i (`folded`), and
nothing that reads a model needs to know of it.

Released: the sum over patients of the mean of their rows, cut to norm one, with noise
(`wardround.federation.strategies.centred`). Sensitivity: rows are multiplied by the clipping norm C, so that one
patient, added or removed with all pictures, moves the sum by at most C in L2 norm. Nothing else of a patient enters the
centre: n is public or the noised count. Rows less a centre are longer than one for some patients; their gradients are
clipped to C as all are, for any centre.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.errors import ModelError
from wardround.models.linear import scoring_layer
from wardround.models.network import Network
from wardround.models.networks.features import BIAS
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.types import Vector

CONSTANT = BIAS / math.sqrt(1 + BIAS**2)
"""c, the last number of every row."""

LEAST_REST = 0.1
"""Least 1 - c^2 - |m|^2: rows are multiplied by 3.03 at most."""

_AT_ONCE = 256

Rows32 = npt.NDArray[np.float32]
Rows64 = npt.NDArray[np.float64]


def unit_of(clipping_norm: float) -> float:
    """Returns the number that a patient's mean row is multiplied by."""
    return clipping_norm * DOUBLE_PRECISION


def cut_rows(inputs: Tensor) -> Rows64:
    """Returns rows (picture, feature) in double precision, each cut to norm one; zeros for one that is not finite."""
    rows = inputs.flatten(1).numpy().astype(np.float64)
    with np.errstate(invalid="ignore"):
        norms = np.sqrt((rows * rows).sum(axis=1))
        cut = rows / np.maximum(1.0, norms)[:, None]
    return np.where(np.isfinite(norms)[:, None], cut, 0.0)


def estimated(total: Vector, patients: float, std: float, features: int) -> Vector:
    """Returns the centre from a noised sum of rows, zeros behind it, (parameter,): post-processing.

    The mean is shrunk towards zero by the part of its square that is noise (James and Stein 1961).

    Args:
        total: the sum, divided by the unit, (parameter,).
        patients: n, public or noised.
        std: of the noise in each number of it.
        features: d.
    """
    mean = total[:features].astype(np.float64) / patients
    square = float(mean @ mean)
    noise = features * (std / patients) ** 2
    centre = np.zeros_like(total)
    centre[:features] = mean * (max(0.0, 1 - noise / square) if square else 0.0)
    return centre


def centred_inputs(network: Network, inputs: Tensor | None, centre: Vector) -> Tensor:
    """Returns kept inputs of a network less the centre, as `centred` does.

    Raises:
        ModelError: the network is no linear head without bias on kept inputs.
    """
    layer, _ = scoring_layer(network)
    has_bias = layer is not None and layer.bias is not None
    if inputs is None or layer is None or has_bias:
        raise ModelError("A centre is of the rows of a linear head; train one, or leave centre_rounds out.")
    return centred(inputs, centre)


def centred(inputs: Tensor, centre: Vector) -> Tensor:
    """Returns rows (picture, feature) less the centre, float32; no bit of a row depends on another."""
    rows = inputs.flatten(1)
    mean, scale = _moved(centre, rows.shape[1])
    found = torch.empty(rows.shape)
    for start in range(0, len(rows), _AT_ONCE):
        own = rows[start : start + _AT_ONCE].numpy().astype(np.float64)
        moved = scale * (own - mean * (own[:, -1:] / CONSTANT))
        moved[:, -1] = own[:, -1]
        found[start : start + _AT_ONCE] = torch.from_numpy(moved)
    return found


def folded(weights: Vector, centre: Vector, features: int) -> Vector:
    """Returns the head on rows as they are that gives the scores of a head on rows less the centre, (parameter,)."""
    table = weights.reshape(-1, features).astype(np.float64)
    mean, scale = _moved(centre, features)
    found = scale * table
    found[:, -1] = table[:, -1] - scale / CONSTANT * (table @ mean)
    return found.astype(np.float32).ravel()


class Moves:
    """Several heads, each on rows less a centre of its own: their products from those of the rows as they are.

    Args:
        centres: (head, parameter), as `estimated` gives them.
        features: d.
    """

    def __init__(self, centres: Rows32, features: int) -> None:
        self._centres, self._features = centres, features
        found = [_moved(centre, features) for centre in centres]
        self._means = torch.from_numpy(np.stack([mean for mean, _ in found]))
        self._scales = torch.tensor([scale for _, scale in found], dtype=torch.float64)

    def folded(self, weights: Rows32) -> Rows32:
        """Returns each head on rows as they are, (head, parameter)."""
        return np.stack([folded(*each, self._features) for each in zip(weights, self._centres, strict=True)])

    def gradient(self, head: int, gradient: Tensor) -> Tensor:
        """Returns a head's gradient, (parameter,), from that of the residuals on rows as they are."""
        table = gradient.view(-1, self._features).to(torch.float64)
        moved = self._scales[head] * (table - self._means[head] * (table[:, -1:] / CONSTANT))
        moved[:, -1] = table[:, -1]
        return moved.flatten()

    def products(
        self, rows: Tensor, squares: Tensor, first: Tensor, second: Tensor, doubled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns squared norms of the moved rows, (picture, head), and twice the products of pairs, (pair, head).

        Args:
            rows: as they are, (picture, feature).
            squares: their squared norms, (picture,).
            first: of each pair of pictures.
            second: the other one.
            doubled: twice the product of each pair's rows, (pair,).
        """
        last = rows[:, -1].to(torch.float64)
        along = (rows @ self._means.T.to(torch.float32)).to(torch.float64)  # x . m
        own = (self._means**2).sum(1)

        def moved(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
            u, v = last[one, None] / CONSTANT, last[other, None] / CONSTANT
            less = along[one] * v + along[other] * u - own * u * v
            kept = CONSTANT**2 * u * v
            return self._scales**2 * (product[:, None] - kept - less) + kept

        everyone = torch.arange(len(rows))
        return moved(squares, everyone, everyone), 2 * moved(doubled / 2, first, second)


def _moved(centre: Vector, features: int) -> tuple[Rows64, float]:
    """Returns m, with a zero for the constant, and g."""
    mean = centre[:features].astype(np.float64)
    mean[-1] = 0.0
    varying = 1 - CONSTANT**2
    return mean, math.sqrt(varying / max(LEAST_REST, varying - float(mean @ mean)))
