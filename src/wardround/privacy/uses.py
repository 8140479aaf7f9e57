"""What one use of trained parameters owes to each patient: the rules of the book-keeping engine.

In the forward pass every operation that reads a trained parameter becomes a `Use`. In the backward pass it gets
the gradient of its output, returns the gradient of its input, and answers three questions about the gradient
of its parameter: each patient's, (patient, *shape); the squared norm of each patient's without forming it (where
there is a cheaper way); and the sum over pictures with weights, in one product. Autograd itself never forms an
ordinary weight gradient.

Source: Bu, Wang, Zha, Karypis 2022 ("book-keeping"), https://arxiv.org/abs/2210.00038, sections 3.1 and 3.2; Gram
matrices of patches from shifted pixel Gram matrices, and convolutions of a whole batch folded into groups,
are ours to re-derive: the comments do so.

Conventions: the first axis of every input is the picture; `fold` sums rows of pictures into rows of patients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Fold = Callable[[Tensor], Tensor]
"""Rows of pictures, (picture, ...), to rows of patients, (patient, ...)."""

_SMALL_WEIGHT = 100_000
"""Weights up to this size are formed for each patient; larger ones go by Gram matrices where those are cheap."""
_BLOCK = 1024
_STORE_BYTES = 96 << 20
"""Per-patient gradients of one weight above this size are not kept: formed for their norm, and dropped."""


class Use:
    """One operation with trained parameters. Subclasses hold public settings; tensors come as arguments.

    Attributes:
        names: the parameters, in the order in which `per_patient` gives their gradients.
    """

    names: tuple[str, ...]

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The operation's output, and what the backward pass has to keep."""
        raise NotImplementedError

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        raise NotImplementedError

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """Gradients of the parameters, each (patient, *shape)."""
        raise NotImplementedError

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """Whether `squared_norms` and then `add_weighted_sum` are cheaper than `per_patient`.

        `single`: no patient has two pictures in this batch.
        """
        del g, saved, single
        return False

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Squared norm of each picture's gradient of all parameters, and of the terms it was added up from.

        Both (picture,), in float64. Where the first is far smaller than the second, terms cancelled and rounding
        decides: such a picture's gradient has to be formed.
        """
        raise NotImplementedError

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Adds the gradients of the parameters over all pictures; weights are already multiplied into `g`."""
        raise NotImplementedError


def squared(rows: Tensor) -> Tensor:
    """Squared norm of each row, (row,), in float64.

    Single precision is left only inside blocks of 1,024 entries, whose rounding is below 2^-14: a long row of
    equal entries added up in single precision would come out too small, and be clipped too little.
    """
    flat = rows.reshape(len(rows), -1)
    whole = flat.shape[1] // _BLOCK * _BLOCK
    total = torch.linalg.vector_norm(flat[:, whole:], dim=1).to(torch.float64).square()
    if whole:
        blocks = torch.linalg.vector_norm(flat[:, :whole].reshape(len(flat), -1, _BLOCK), dim=2)
        total = total + blocks.to(torch.float64).square().sum(1)
    norms: Tensor = total
    return norms


def _product(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, *, copies: int = 1) -> Tensor:
    """Product of two squared norms, not smaller than the true one where squares underflowed.

    A square that vanished was below the smallest normal number; `copies` is how often an entry of `columns` may
    have been squared.
    """
    tiny = torch.finfo(rows.dtype).tiny
    return (a + tiny * rows[0].numel()) * (b + tiny * columns[0].numel() * copies)


def _over_space(g: Tensor) -> Tensor:
    """(picture, channel, *space) -> (picture, channel)."""
    return g.flatten(2).sum(2) if g.ndim > 2 else g


@dataclass
class Linear(Use):
    """x W^T + b, on any number of middle axes; `columns` says that W is stored transposed (x @ W)."""

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    trains: tuple[bool, bool]
    columns: bool = False

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (x,) = inputs
        weight = self.weight.t() if self.columns else self.weight
        if x.ndim == 2:
            return F.linear(x, weight, self.bias), (x,)
        # F.linear would return a view of a flat product, and a view may not be changed in place afterwards.
        y = x.new_empty(*x.shape[:-1], weight.shape[0])
        flat = y.view(-1, weight.shape[0])
        if self.bias is None:
            torch.mm(x.reshape(-1, x.shape[-1]), weight.t(), out=flat)
        else:
            torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), weight.t(), out=flat)
        return y, (x,)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        return (g @ (self.weight.t() if self.columns else self.weight),)

    def _tokens(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output gradient and input as (picture, token, feature), swapped when the weight is stored transposed."""
        g3, x3 = g.reshape(g.shape[0], -1, g.shape[-1]), x.reshape(x.shape[0], -1, x.shape[-1])
        return (x3, g3) if self.columns else (g3, x3)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        rows, columns = self._tokens(g, saved[0])
        out = [fold(torch.bmm(rows.transpose(1, 2), columns))] if self.trains[0] else []
        return out + ([fold(g.reshape(g.shape[0], -1, g.shape[-1]).sum(1))] if self.trains[1] else [])

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """See `Use`: a Gram matrix of T tokens against a gradient of rows x columns entries."""
        if not (single and self.trains[0]):
            return False
        tokens = g.numel() // max(1, g.shape[0] * g.shape[-1])
        return tokens == 1 or 2 * tokens * (g.shape[-1] + saved[0].shape[-1]) < self.weight.numel()

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `Use`: |sum_t g_t x_t^T|^2 = sum_{t,u} (g_t . g_u)(x_t . x_u)."""
        rows, columns = self._tokens(g, saved[0])
        terms = _product(squared(rows), squared(columns), rows, columns)
        norms = terms
        if rows.shape[1] > 1:
            gram = torch.bmm(rows, rows.transpose(1, 2)) * torch.bmm(columns, columns.transpose(1, 2))
            norms = gram.sum((1, 2), dtype=torch.float64).clamp(min=0)
        if self.trains[1]:
            each = g.reshape(g.shape[0], -1, g.shape[-1])
            norms, terms = norms + squared(each.sum(1)), terms + each.shape[1] * squared(each)
        return norms, terms

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """See `Use`."""
        rows, columns = self._tokens(g, saved[0])
        if self.trains[0]:
            into[0].addmm_(rows.flatten(0, 1).t(), columns.flatten(0, 1))
        if self.trains[1]:
            into[-1].add_(g.reshape(-1, g.shape[-1]).sum(0))


@dataclass
class Convolution(Use):
    """Convolution or transposed convolution in any number of dimensions, zero-padded."""

    names: tuple[str, ...]
    weight: Tensor
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
        (x,) = inputs
        y = torch.convolution(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups,
        )  # fmt: skip
        return y, (x,)

    def _backward(self, g: Tensor, x: Tensor, weight: Tensor, groups: int, *, for_weight: bool) -> Tensor:
        gradients: Any = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, groups, (not for_weight, for_weight, False),
        )  # fmt: skip
        found: Tensor = gradients[1 if for_weight else 0]
        return found

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        (x,) = saved
        return (self._backward(g, x, self.weight, self.groups, for_weight=False),)

    @property
    def _is_pointwise(self) -> bool:
        return (
            not self.transposed
            and self.groups == 1
            and all(k == 1 for k in self.weight.shape[2:])
            and all(s == 1 for s in self.stride)
            and all(p == 0 for p in self.padding)
        )

    @property
    def _has_small_patches(self) -> bool:
        """A first layer in two dimensions: so few numbers under its kernel that copying them all is cheapest."""
        return (
            not self.transposed
            and self.groups == 1
            and self.weight.ndim == 4
            and math.prod(self.weight.shape[1:]) <= 64
        )

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        out = []
        if self.trains[0]:
            pictures = self._per_picture(g, saved[0])
            out.append(fold(pictures))
        return out + ([fold(_over_space(g))] if self.trains[1] else [])

    def _per_picture(self, g: Tensor, x: Tensor) -> Tensor:
        """Weight gradient of each picture, (picture, *shape)."""
        count, shape = g.shape[0], tuple(self.weight.shape)
        if self._is_pointwise:
            return torch.bmm(g.flatten(2), x.flatten(2).transpose(1, 2)).view(count, *shape)
        if self._has_small_patches:
            patches = F.unfold(x, shape[2:], self.dilation, self.padding, self.stride)
            return torch.bmm(g.flatten(2), patches.transpose(1, 2)).view(count, *shape)
        if shape[1] < 8 or count * self.weight.numel() > 4_000_000:
            # One product a picture: folding few channels into groups is slow, and so is a huge result.
            out = g.new_empty(count, *shape)
            for i in range(count):
                out[i] = self._weight_gradient(g[i : i + 1], x[i : i + 1])
            return out
        # A batch is a batch of one whose channels are (picture, channel): a group for each picture and group.
        # The groups share no channel, so each weight gradient is that of its own picture.
        wide_x = x.reshape(1, count * x.shape[1], *x.shape[2:])
        wide_g = g.reshape(1, count * g.shape[1], *g.shape[2:])
        like = self.weight.new_empty(1).expand(count * shape[0], *shape[1:])
        return self._backward(wide_g, wide_x, like, count * self.groups, for_weight=True).view(count, *shape)

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """See `Use`: Gram matrices of T output pixels pay off when T is small and the weight is large."""
        size, pixels = self.weight.numel(), math.prod(g.shape[2:])
        if not (single and self.trains[0]) or size <= _SMALL_WEIGHT:
            return False
        return self._has_cheap_gram(pixels) or g.shape[0] * size * 4 > _STORE_BYTES

    def _has_cheap_gram(self, pixels: int) -> bool:
        return not self.transposed and self.groups == 1 and 4 * pixels * pixels <= self.weight.numel()

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `Use`: |sum_t g_t p_t^T|^2 = sum_{t,u} (g_t . g_u)(p_t . p_u), p_t the patch under pixel t."""
        x, area = saved[0], math.prod(self.weight.shape[2:])
        if self._has_cheap_gram(math.prod(g.shape[2:])):
            flat, patches = g.flatten(2), self._patch_gram(x, g.shape[2:])
            norms = (torch.bmm(flat.transpose(1, 2), flat) * patches).sum((1, 2), dtype=torch.float64).clamp(min=0)
            terms = _product(
                squared(g), patches.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64), g, x, copies=area
            )
        else:
            norms = torch.cat(
                [squared(self._weight_gradient(g[i : i + 1], x[i : i + 1])[None]) for i in range(len(g))]
            )
            terms = _product(squared(g), squared(x), g, x, copies=area)
        if self.trains[1]:
            norms, terms = norms + squared(_over_space(g)), terms + math.prod(g.shape[2:]) * squared(g)
        return norms, terms

    def _weight_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        return self._backward(g, x, self.weight, self.groups, for_weight=True)

    def _patch_gram(self, x: Tensor, space: Sequence[int]) -> Tensor:
        """p_t . p_u for all output pixels t and u, (picture, T, T), from inner products of single pixels.

        p_t . p_u = sum over kernel offsets k of x[s t + d k] . x[s u + d k]: the same shift on both sides, so the
        pixel Gram matrix is formed once and a shifted view of it is added for every offset.
        """
        padded = F.pad(x, [side for p in reversed(self.padding) for side in (p, p)])
        pixels = padded.flatten(2)
        sizes = padded.shape[2:]
        gram = torch.bmm(pixels.transpose(1, 2), pixels).view(x.shape[0], *sizes, *sizes)
        total: Tensor | None = None
        for offset in _offsets(self.weight.shape[2:]):
            window = tuple(
                slice(d * k, d * k + s * (n - 1) + 1, s)
                for d, k, s, n in zip(self.dilation, offset, self.stride, space, strict=True)
            )
            view = gram[(slice(None), *window, *window)]
            total = view.clone() if total is None else total.add_(view)
        assert total is not None
        count = math.prod(space)
        return total.reshape(x.shape[0], count, count)

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """See `Use`."""
        if self.trains[0]:
            into[0].add_(self._weight_gradient(g, saved[0]))
        if self.trains[1]:
            into[-1].add_(_over_space(g).sum(0))


def _offsets(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    return [
        tuple(int(v) for v in index)
        for index in torch.cartesian_prod(*map(torch.arange, kernel)).view(-1, len(kernel))
    ]


@dataclass
class GroupNorm(Use):
    """Group normalisation with a trained scale and offset; one group a channel is instance normalisation."""

    names: tuple[str, ...]
    weight: Tensor | None
    bias: Tensor | None
    trains: tuple[bool, bool]
    groups: int
    eps: float
    _folded: Tensor | None = None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (x,) = inputs
        if _format_of(x) is torch.contiguous_format:
            x = x.contiguous()
        count, channels = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(
            x, self.weight, self.bias, count, channels, math.prod(x.shape[2:]), self.groups, self.eps
        )
        return y, (x, mean, rstd)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        if self._folded is not None:
            gradient, self._folded = self._folded, None
            return (gradient,)
        (x, mean, rstd) = saved
        count, channels = x.shape[:2]
        g = g.contiguous() if x.is_contiguous() else g.contiguous(memory_format=_format_of(x))
        gradients: Any = torch.ops.aten.native_group_norm_backward(
            g, x, mean, rstd, self.weight, count, channels, math.prod(x.shape[2:]), self.groups,
            (True, False, False),
        )  # fmt: skip
        return (gradients[0],)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        x, mean, rstd = saved
        count, channels = x.shape[:2]
        if x.is_contiguous():
            return self._per_patient_folded(g.contiguous(), x, mean, rstd, fold)
        plain = _over_space(g)
        out = []
        if self.trains[0]:
            # The sum of g (x - mean) rstd over space, as two sums, so that x-hat is never formed again.
            each = (count, self.groups, channels // self.groups)
            grouped = _over_space(g * x).view(each) - mean[..., None] * plain.view(each)
            out.append(fold((grouped * rstd[..., None]).view(count, channels)))
        return out + ([fold(plain)] if self.trains[1] else [])

    def _per_patient_folded(self, g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, fold: Fold) -> list[Tensor]:
        """One kernel for everything: the batch as one picture whose channels are (picture, channel).

        Its groups are those of the pictures, so the gradient of the input is the same; and as no channel is
        shared, the "sum over the batch" of the scale's gradient is that of each picture.
        """
        count, channels = x.shape[:2]
        weight = None if self.weight is None else self.weight.repeat(count)
        gradients: Any = torch.ops.aten.native_group_norm_backward(
            g.view(1, count * channels, -1), x.view(1, count * channels, -1), mean.view(1, -1), rstd.view(1, -1),
            weight, 1, count * channels, math.prod(x.shape[2:]), count * self.groups, (True, *self.trains),
        )  # fmt: skip
        self._folded = gradients[0].view_as(x)
        return [
            fold(part.view(count, channels)) for part, on in zip(gradients[1:], self.trains, strict=True) if on
        ]


def _format_of(x: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(x.ndim, torch.contiguous_format)
    return wanted if x.is_contiguous(memory_format=wanted) else torch.contiguous_format


@dataclass
class LayerNorm(Use):
    """Layer normalisation over the last axes, with a trained scale and offset."""

    names: tuple[str, ...]
    weight: Tensor | None
    bias: Tensor | None
    trains: tuple[bool, bool]
    shape: tuple[int, ...]
    eps: float

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (x,) = inputs
        x = x.contiguous()
        y, mean, rstd = torch.native_layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        return y, (x, mean, rstd)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        (x, mean, rstd) = saved
        gradients: Any = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(), x, self.shape, mean, rstd, self.weight, self.bias, (True, False, False)
        )
        return (gradients[0],)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        x, mean, rstd = saved
        out = []
        if self.trains[0]:
            out.append(fold(self._over_tokens(g * ((x - mean) * rstd))))
        return out + ([fold(self._over_tokens(g))] if self.trains[1] else [])

    def _over_tokens(self, g: Tensor) -> Tensor:
        return g.reshape(g.shape[0], -1, *self.shape).sum(1)


@dataclass
class Scale(Use):
    """x * w with a parameter that is broadcast, and not over the pictures."""

    names: tuple[str, ...]
    weight: Tensor

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (x,) = inputs
        return x * self.weight, (x,)

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """See `Use`."""
        (x,) = saved
        return ((g * self.weight).sum_to_size(x.shape),)

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        return [fold(sum_like(g * saved[0], self.weight))]


@dataclass
class Shift(Use):
    """x + w or x - w, likewise; without an x, the parameter itself, spread over the pictures."""

    names: tuple[str, ...]
    weight: Tensor
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
    """Gradient of a broadcast weight for each picture: g summed over what was broadcast, (picture, *shape)."""
    shape = tuple(weight.shape)
    shape = shape[1:] if len(shape) == g.ndim else shape  # an axis of length one stood where the pictures are
    inner = (1,) * (g.ndim - 1 - len(shape)) + shape
    return g.sum_to_size((g.shape[0], *inner)).reshape(g.shape[0], *weight.shape)


@dataclass
class Embedding(Use):
    """Rows of a table."""

    names: tuple[str, ...]
    weight: Tensor
    padding_idx: int | None

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Use`."""
        (index,) = inputs
        return F.embedding(index, self.weight), (index,)

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
