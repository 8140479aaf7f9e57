"""One patient's gradient, computed from their own pictures and with nobody else in the batch.

A kernel may add up in another order when a batch grows by one: in common batches, who joins changes the last bits of
everybody's gradient, and by how much at worst nobody can say (a value next to zero may pass a ReLU or not). Sums on a
grid promise a sensitivity in whole numbers, so that such bits count. Alone, a gradient is a function of the patient,
the public weights and, with dropout, a seed of the patient's own; the others' do not move when one comes or goes.

The gradient of a large matrix that multiplied one vector is the outer product of two vectors. It may be left as these.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.privacy.clipping import PatientBatch, dropout_from, one_thread
from wardround.privacy.engine import Loss, anatomy_of, losses_of
from wardround.privacy.layout import Layout
from wardround.privacy.uses.base import SMALL_WEIGHT

_BLOCK = 1 << 15
"""Numbers at a time: what a processor's cache holds."""


@dataclass(frozen=True)
class PatientGradient:
    """One patient's gradient, not clipped. Private.

    Attributes:
        formed: gradients by parameter; one that is missing here and below is zero.
        factors: by parameter, a matrix: two vectors, (row,) and (column,), whose outer product is its gradient.
    """

    formed: dict[str, Tensor]
    factors: dict[str, tuple[Tensor, Tensor]]

    def norm(self) -> float:
        """L2 norm, added up in float64; infinity or NaN where the gradient has them."""
        total = sum(map(_squares, self.formed.values()))
        return math.sqrt(total + sum(_squares(a) * _squares(b) for a, b in self.factors.values()))

    def row(self, layout: Layout) -> Tensor:
        """The gradient in one row, (parameter,)."""
        outer = {name: torch.outer(*pair) for name, pair in self.factors.items()}
        return layout.flat([outer.get(name, self.formed.get(name)) for name in layout.parameters])


@one_thread()
def gradient_alone(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    *,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
    factored: bool = False,
) -> PatientGradient:
    """The gradient of the mean loss over one patient's pictures.

    Args:
        model: as in `wardround.privacy.clipping.clipped_sum`; so is the loss.
        layout: of its trained parameters.
        loss: of each picture.
        inputs: the patient's encoded pictures, (picture, ...); without any, the gradient is zero.
        labels: of these, (picture, ...).
        memory_bytes: for activations at one time; public, as everything but the pictures.
        dropout_seed: of this patient's masks, and nobody else's.
        factored: leave large matrices that multiplied one vector as factors.

    Guarantee: none. What is returned depends on this patient alone, bit for bit.
    """
    if len(inputs) == 0:
        return PatientGradient({}, {})
    parameters, names = list(layout.parameters.values()), list(layout.parameters)
    # Looked at with zeros: not even how many pictures go at once may follow from somebody's picture.
    anatomy = anatomy_of(model, layout, loss, torch.zeros_like(inputs[:1]), torch.zeros_like(labels[:1]))
    at_once = 1 if anatomy.whole else max(1, memory_bytes // max(1, anatomy.bytes_per_picture))
    formed: dict[str, Tensor] = {}
    book: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with dropout_from(dropout_seed, layout.device), torch.enable_grad(), _noting(model, layout, book, factored):
        for at in range(0, len(inputs), at_once):
            part, targets = inputs[at : at + at_once], labels[at : at + at_once]
            value = losses_of(loss, model(part), targets, len(part)).sum() / len(inputs)
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    formed[name] = formed[name] + gradient if name in formed else gradient
    factors = {name: pairs[0] for name, pairs in book.items() if len(pairs) == 1 and name not in formed}
    for name, pairs in book.items():
        if name not in factors:  # several uses of one matrix add up
            for pair in pairs:
                formed[name] = formed[name] + torch.outer(*pair) if name in formed else torch.outer(*pair)
    return PatientGradient(formed, factors)


def patients_of(batch: PatientBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of each patient of a batch, in their order; of one without pictures, none."""
    counts = torch.bincount(batch.patient, minlength=batch.num_patients).tolist()
    yield from zip(torch.split(batch.inputs, counts), torch.split(batch.labels, counts), strict=True)


def blocks(gradient: Tensor, start: int = 0) -> Iterator[tuple[slice, np.ndarray[Any, np.dtype[np.float64]]]]:
    """A gradient in float64, a piece at a time, and where each stands if the gradient begins at `start`."""
    flat = gradient.detach().cpu().contiguous().view(-1).numpy()
    for at in range(0, flat.size, _BLOCK):
        piece = flat[at : at + _BLOCK].astype(np.float64)
        yield slice(start + at, start + at + piece.size), piece


def _squares(gradient: Tensor) -> float:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return float(sum(np.einsum("i,i->", piece, piece) for _, piece in blocks(gradient)))


@contextmanager
def _noting(
    model: nn.Module, layout: Layout, book: dict[str, list[tuple[Tensor, Tensor]]], wanted: bool
) -> Iterator[None]:
    """Has large linear layers note the two vectors of each use, and form no gradient of their matrix."""
    names = {id(parameter): name for name, parameter in layout.parameters.items()}
    layers: list[nn.Module] = []
    for module in model.modules() if wanted else ():
        if (
            type(module) is not nn.Linear
            or id(module.weight) not in names
            or module.weight.numel() <= SMALL_WEIGHT
        ):
            continue
        layer: nn.Module = module
        layer.forward = _Noting(module, module.forward, book.setdefault(names[id(module.weight)], []))
        layers.append(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
    for name in [name for name, pairs in book.items() if not pairs]:
        del book[name]


class _Noting:
    """Stands in for a linear layer's forward."""

    def __init__(self, layer: nn.Linear, forward: Any, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self._layer, self._forward, self._pairs = layer, forward, pairs

    def __call__(self, vectors: Tensor) -> Tensor:
        if vectors.ndim != 2 or len(vectors) != 1:
            result: Tensor = self._forward(vectors)
            return result
        output: Tensor = _OneVector.apply(self._pairs, vectors, self._layer.weight, self._layer.bias)  # type: ignore[no-untyped-call]
        return output


class _OneVector(torch.autograd.Function):
    """A matrix times one vector, (1, column); backward it notes the factors in place of the matrix's gradient."""

    @staticmethod
    def forward(
        ctx: Any, pairs: list[tuple[Tensor, Tensor]], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> Any:
        (g,) = output_gradients
        x, weight = ctx.saved_tensors
        ctx.pairs.append((g[0].detach(), x[0].detach()))
        _, of_input, _, of_bias = ctx.needs_input_grad
        return None, g @ weight if of_input else None, None, g[0] if of_bias else None
