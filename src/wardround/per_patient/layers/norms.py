"""Group, instance and layer normalisation with a trained scale and offset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wardround.per_patient.layers.base import Fold, Weighted, over_space, widened


@dataclass
class GroupNorm(Weighted):
    """Group normalisation with a trained scale and offset, channels last; others are `group_norm_of_each`."""

    bias: Tensor | None
    trains: tuple[bool, bool]
    groups: int
    eps: float

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        x = widened(inputs[0])
        count, channels = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(
            x, _wide(self.weight), _wide(self.bias), count, channels, math.prod(x.shape[2:]), self.groups, self.eps
        )
        return as_torch_gives(y, inputs[0], self.weight, self.bias), (x, mean, rstd)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        (x, mean, rstd) = saved
        count, channels = x.shape[:2]
        g = widened(g).contiguous(memory_format=_format_of(x))
        gradients: Any = torch.ops.aten.native_group_norm_backward(
            g, x, mean, rstd, _wide(self.weight), count, channels, math.prod(x.shape[2:]), self.groups,
            (True, False, False),
        )  # fmt: skip
        return (gradients[0],)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        x, mean, rstd = saved
        g = widened(g)
        count, channels = x.shape[:2]
        plain = over_space(g)
        out = []
        if self.trains[0]:
            # The sum of g (x - mean) rstd over space, as two sums, so that x-hat is never formed again.
            each = (count, self.groups, channels // self.groups)
            grouped = over_space(g * x).view(each) - mean[..., None] * plain.view(each)
            out.append(fold((grouped * rstd[..., None]).view(count, channels)))
        return out + ([fold(plain)] if self.trains[1] else [])


def takes_channels_last(x: Tensor) -> bool:
    """Returns whether a kernel reads values as channels-last ones, (picture, *space, channel) in memory."""
    return not x.is_contiguous() and _format_of(x) is not torch.contiguous_format


def group_norm_of_each(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
    """Returns the group norm with a scale and offset of each picture's own, (picture * channel,), in autograd's graph.

    One kernel does it: the batch as one picture whose channels are (picture, channel). Its groups are those of the
    pictures, so the output is the same; and as no channel is shared, autograd's "sum over the batch" of the scale's
    gradient is that of each picture. One group a channel is instance normalisation.
    """
    wide = widened(x).contiguous()
    count, channels, space = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    wide = wide.view(1, count * channels, space)  # its shape decides the format that the kernel reads
    y, _, _ = torch.native_group_norm(wide, weight, bias, 1, count * channels, space, count * groups, eps)
    # A view would be copied where it is changed in place afterwards; to autograd this is none.
    output: Tensor = torch.ops.aten._unsafe_view.default(y, x.shape)
    return output


def _wide(value: Tensor | None) -> Tensor | None:
    return None if value is None else widened(value)


def as_torch_gives(y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Returns the output in half precision where input and weights are in it; under autocast weights are not."""
    own = bias if weight is None else weight
    return y.to(x.dtype) if own is not None and own.dtype is x.dtype else y


def _format_of(x: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(x.ndim, torch.contiguous_format)
    return wanted if x.is_contiguous(memory_format=wanted) else torch.contiguous_format


@dataclass
class LayerNorm(Weighted):
    """Layer normalisation over the last axes, with a trained scale and offset."""

    bias: Tensor | None
    trains: tuple[bool, bool]
    shape: tuple[int, ...]
    eps: float

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        x = widened(inputs[0]).contiguous()
        y, mean, rstd = torch.native_layer_norm(x, self.shape, _wide(self.weight), _wide(self.bias), self.eps)
        return as_torch_gives(y, inputs[0], self.weight, self.bias), (x, mean, rstd)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        (x, mean, rstd) = saved
        gradients: Any = torch.ops.aten.native_layer_norm_backward(
            widened(g).contiguous(), x, self.shape, mean, rstd, _wide(self.weight), _wide(self.bias),
            (True, False, False),
        )  # fmt: skip
        return (gradients[0],)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        x, mean, rstd = saved
        g, out = widened(g), []
        if self.trains[0]:
            out.append(fold(self._over_tokens(g * ((x - mean) * rstd))))
        return out + ([fold(self._over_tokens(g))] if self.trains[1] else [])

    def _over_tokens(self, g: Tensor) -> Tensor:
        return g.reshape(g.shape[0], -1, *self.shape).sum(1)
