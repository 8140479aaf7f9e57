"""Broadcast parameters (scales, offsets, slopes) and embedding tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.per_patient.layers.base import Fold, Weighted


@dataclass
class Scale(Weighted):
    """Product x * w with a broadcast parameter that has no values of its own for single pictures."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        return inputs[0] * self.weight, inputs

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        return ((g * self.weight).sum_to_size(saved[0].shape),)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        return [fold(sum_like(g * saved[0], self.weight))]


@dataclass
class Shift(Weighted):
    """Sum x + w or x - w, likewise; without an x, the parameter expanded over the pictures."""

    sign: float
    shape: tuple[int, ...] | None = None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        if self.shape is not None:
            return self.weight.expand(self.shape).clone(), ()
        self._of_input = inputs[0].shape
        return inputs[0] + self.sign * self.weight, ()

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        return (g.sum_to_size(self._of_input),) if self.shape is None else ()

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        return [fold(self.sign * sum_like(g, self.weight))]


def sum_like(g: Tensor, weight: Tensor) -> Tensor:
    """Returns each picture's gradient of a broadcast weight, (picture, *shape): g summed over the broadcast axes."""
    shape = tuple(weight.shape)
    shape = shape[1:] if len(shape) == g.ndim else shape  # the weight had an axis of length one for the pictures
    inner = (1,) * (g.ndim - 1 - len(shape)) + shape
    return g.sum_to_size((g.shape[0], *inner)).reshape(g.shape[0], *weight.shape)


@dataclass
class Slope(Weighted):
    """Parametric ReLU whose one slope all channels share."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        return F.leaky_relu(inputs[0], float(self.weight)), inputs

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        return (torch.ops.aten.leaky_relu_backward(g, saved[0], float(self.weight), False),)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        below = saved[0].clamp(max=0)
        return [fold((g * below).flatten(1).sum(1).reshape(-1, *self.weight.shape))]


@dataclass
class Embedding(Weighted):
    """Lookup in an embedding table."""

    padding_idx: int | None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        return F.embedding(inputs[0], self.weight), inputs

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        return (None,)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        index = saved[0].reshape(g.shape[0], -1)
        rows = g.reshape(g.shape[0], index.shape[1], -1)
        if self.padding_idx is not None:
            rows = rows * (index != self.padding_idx)[..., None]
        table = g.new_zeros(g.shape[0], *self.weight.shape)
        return [fold(table.scatter_add_(1, index[..., None].expand_as(rows), rows))]
