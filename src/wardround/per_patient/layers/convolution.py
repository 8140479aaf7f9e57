"""Convolutions and transposed convolutions, in any number of dimensions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.per_patient.layers.base import (
    SMALL_WEIGHT,
    STORE_BYTES,
    Fold,
    Weighted,
    over_space,
    product,
    squared,
)
from wardround.per_patient.layers.products import is_onednns, products

_FEW_CHANNELS = 16
"""Output channels below which oneDNN's gradient of the input is slow."""
_SMALL_PATCHES = 1 << 15
"""Numbers in all patches of one picture below which copies of them, in one and two dimensions, pay off."""
_PATCHES_AT_ONCE = 1 << 18
"""Numbers in the patches that are copied at one time, at most, unless one picture's are more: they fit into a cache."""


@dataclass
class Convolution(Weighted):
    """Convolution or transposed convolution in any number of dimensions, zero-padded."""

    bias: Tensor | None
    trains: tuple[bool, bool]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        y = torch.convolution(
            inputs[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups,
        )  # fmt: skip
        return y, inputs

    def _backward(self, g: Tensor, x: Tensor, weight: Tensor, groups: int, *, for_weight: bool) -> Tensor:
        gradients: list[Tensor] = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, groups, (not for_weight, for_weight, False),
        )  # fmt: skip
        return gradients[1 if for_weight else 0]

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        if self._turns(g):
            return (self._turned(g),)
        return (self._backward(g, saved[0].to(g.dtype), self.weight.to(g.dtype), self.groups, for_weight=False),)

    def _turns(self, g: Tensor) -> bool:
        """Returns whether the gradient of the input is the output of a convolution that takes less time.

        oneDNN has no fast kernel for the gradient of the input where the output has few channels: it took 2 to 14 times
        as long as this convolution (3x3 and 3x3x3, 2 to 12 channels out), and as long from 16 channels on, and at 1x1.
        """
        if self.transposed or self.groups > 1 or g.shape[1] >= _FEW_CHANNELS or max(self.stride) > 1:
            return False
        return max(self.weight.shape[2:]) > 1 and is_onednns(g) and min(self._turned_padding) >= 0

    @property
    def _turned_padding(self) -> list[int]:
        sides = zip(self.weight.shape[2:], self.dilation, self.padding, strict=True)
        return [dilation * (side - 1) - padding for side, dilation, padding in sides]

    def _turned(self, g: Tensor) -> Tensor:
        """Returns the gradient of the input of a convolution with stride 1, (picture, in, *space).

        Output y_o(t) = sum_{i,k} w_oi(k) x_i(t + d k - p), so the gradient by x_i(s) is
        sum_{o,k} w_oi(k) g_o(s - d k + p): a convolution of g with the kernel turned around, k to K - 1 - k, input and
        output channels exchanged and d (K - 1) - p for p.
        """
        axes = tuple(range(2, self.weight.ndim))
        weight = self.weight.flip(axes).transpose(0, 1).contiguous()
        return torch.convolution(
            g, weight, None, self.stride, self._turned_padding, self.dilation, False, self.output_padding, 1
        )

    @property
    def _is_pointwise(self) -> bool:
        if self.transposed or self.groups > 1 or max(self.weight.shape[2:]) > 1:
            return False
        return max(self.stride) == 1 and max(self.padding) == 0

    def _patches_at_once(self, space: Sequence[int]) -> int:
        """Returns of how many pictures all patches are copied at one time; 0 where one product a picture is as fast.

        Few channels in are meant, which cannot be folded into groups. A kernel call for each picture of 28 pixels took
        ten times as long as its copies. In 3-D kernels that cover few numbers pay off; their patches are many.
        """
        numbers = math.prod(self.weight.shape[1:])
        if self.groups > 1:
            return 0
        if self.weight.ndim == 5:
            return 1 if numbers <= 64 else 0
        is_small = self.weight.shape[1] < 8 and not self.transposed and numbers * math.prod(space) < _SMALL_PATCHES
        return max(1, _PATCHES_AT_ONCE // (numbers * math.prod(space))) if is_small else 0

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        out = [self._each_weight_gradient(g, saved[0], fold)] if self.trains[0] else []
        return out + ([fold(over_space(g))] if self.trains[1] else [])

    def _each_weight_gradient(self, g: Tensor, x: Tensor, fold: Fold) -> Tensor:
        """Returns the weight gradient of each patient, (patient, *shape)."""
        count, shape = g.shape[0], tuple(self.weight.shape)
        if self._is_pointwise:
            pixels = x.flatten(2).transpose(1, 2)
            return products(g.flatten(2), pixels, shape, fold)
        # A transposed convolution is a convolution with output and input in each other's place.
        near, far = (x, g) if self.transposed else (g, x)
        if at_once := self._patches_at_once(near.shape[2:]):
            gradients = g.new_empty(count, *shape)
            for first in range(0, count, at_once):
                some = slice(first, first + at_once)
                patches = self._patches(far[some], near.shape[2:])
                into = gradients[some].view(len(patches), near.shape[1], -1)
                torch.bmm(near[some].flatten(2), patches, out=into)
            return fold(gradients)
        if shape[1] < 8 or count * self.weight.numel() > 1_500_000:
            # One product a picture: folding few channels into groups is slow, and so is a huge result.
            gradients = g.new_empty(count, *shape)
            for i in range(count):
                gradients[i] = self._weight_gradient(g[i : i + 1], x[i : i + 1])
            return fold(gradients)
        # A batch is a batch of one whose channels are (picture, channel): a group for each picture and group.
        # The groups share no channel, so each weight gradient is that of its own picture.
        wide_x = x.reshape(1, count * x.shape[1], *x.shape[2:])
        wide_g = g.reshape(1, count * g.shape[1], *g.shape[2:])
        like = self.weight.new_empty(1).expand(count * shape[0], *shape[1:])
        wide = self._backward(wide_g, wide_x, like, count * self.groups, for_weight=True)
        return fold(wide.view(count, *shape))

    def _patches(self, image: Tensor, space: Sequence[int]) -> Tensor:
        """Returns the patch under the kernel at each of its places, (picture, place, channel * kernel)."""
        padded = F.pad(image, [side for p in reversed(self.padding) for side in (p, p)])
        steps = padded.stride()[2:]
        kernel = [d * step for d, step in zip(self.dilation, steps, strict=True)]
        places = [s * step for s, step in zip(self.stride, steps, strict=True)]
        patches = padded.as_strided(
            (*padded.shape[:2], *self.weight.shape[2:], *space), (*padded.stride()[:2], *kernel, *places)
        )
        return patches.reshape(len(image), -1, math.prod(space)).transpose(1, 2)

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """See `Use`: Gram matrices of T output pixels pay off when T is small and the weight is large."""
        size = self.weight.numel()
        if not (single and self.trains[0]) or size <= SMALL_WEIGHT:
            return False
        return self._has_cheap_gram(math.prod(g.shape[2:])) or g.shape[0] * size * 4 > STORE_BYTES

    def _has_cheap_gram(self, pixels: int) -> bool:
        return not self.transposed and 4 * pixels * pixels * self.groups <= self.weight.numel()

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor], patient: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Use`: |sum_t g_t p_t^T|^2 = sum_{t,u} (g_t . g_u)(p_t . p_u), p_t the patch under pixel t.

        Groups share no weight, so that each is a picture of its own, and the squares of a picture's groups add up.
        """
        x, area = saved[0], math.prod(self.weight.shape[2:])
        if self._has_cheap_gram(math.prod(g.shape[2:])):
            g_of, x_of = (t.reshape(len(t) * self.groups, -1, *t.shape[2:]) for t in (g, x))
            flat, patches = g_of.flatten(2), self._patch_gram(x_of, g.shape[2:])
            norms = (torch.bmm(flat.transpose(1, 2), flat) * patches).sum((1, 2), dtype=torch.float64).clamp(min=0)
            lengths = patches.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64)
            terms = product(squared(g_of), lengths, g_of, x_of, copies=area)
            norms, terms = (each.view(len(g), self.groups).sum(1) for each in (norms, terms))
        else:
            norms = torch.cat(
                [squared(self._weight_gradient(g[i : i + 1], x[i : i + 1])[None]) for i in range(len(g))]
            )
            terms = product(squared(g), squared(x), g, x, copies=area)
        if self.trains[1]:
            norms, terms = norms + squared(over_space(g)), terms + math.prod(g.shape[2:]) * squared(g)
        return norms, terms

    def _weight_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        return self._backward(g, x, self.weight, self.groups, for_weight=True)

    def _patch_gram(self, x: Tensor, space: Sequence[int]) -> Tensor:
        """Returns p_t . p_u for all output pixels t and u, (picture, T, T), from inner products of single pixels.

        p_t . p_u = sum over kernel offsets k of x[s t + d k] . x[s u + d k]: the same shift on both sides, so the
        pixel Gram matrix is formed once and a shifted view of it is added for every offset.
        """
        padded = F.pad(x, [side for p in reversed(self.padding) for side in (p, p)])
        pixels, sizes, axes = padded.flatten(2), padded.shape[2:], len(space)
        gram = torch.bmm(pixels.transpose(1, 2), pixels).view(len(x), *sizes, *sizes)
        kernel = zip(self.weight.shape[2:], self.dilation, self.stride, space, strict=True)
        for axis, (offsets, dilation, stride, places) in enumerate(kernel):  # one axis of the kernel at a time
            shifted: Tensor | None = None
            for offset in range(0, dilation * offsets, dilation):
                window = slice(offset, offset + stride * (places - 1) + 1, stride)
                index = [slice(None)] * gram.ndim
                index[1 + axis] = index[1 + axis + axes] = window
                view = gram[tuple(index)]
                shifted = view.clone() if shifted is None else shifted.add_(view)
            assert shifted is not None
            gram = shifted
        return gram.reshape(len(x), math.prod(space), math.prod(space))

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """See `Use`."""
        if self.trains[0]:
            into[0].add_(self._weight_gradient(g, saved[0]))
        if self.trains[1]:
            into[-1].add_(over_space(g).sum(0))
