"""Max-pooling by torch's kernel for channels-last pictures, which compares several channels at once.

Its kernel for channels-first pictures compares one number after the other, and took up to a fifth of a private step.
Values, their places and gradients are the same in every bit.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_FEW_CHANNELS, _FEW_NUMBERS = 4, 1 << 17
"""Channels of a picture and numbers of a batch below which copies take longer than they save."""

_BYTES_AT_ONCE = 1 << 20
"""Pictures that are copied at one time; copies of this size stay in the processor's cache."""


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Returns `torch.nn.functional.max_pool2d` of channels-first pictures, (picture, channel, height, width).

    Edge cases:
        few channels or numbers, other formats, another device, `torch.func` or a forward-mode derivative in the
        network: NotImplemented, for torch's own.
    """
    if x.ndim != 4 or x.shape[1] < _FEW_CHANNELS or x.numel() < _FEW_NUMBERS or not x.is_contiguous():
        return NotImplemented
    if x.device.type != "cpu" or return_indices or _is_transformed():
        return NotImplemented
    window = kernel_size, [] if stride is None else stride, padding, dilation, ceil_mode
    return _Pooled.apply(x, window)  # type: ignore[no-untyped-call]


def _is_transformed() -> bool:
    """Returns whether a derivative is being taken for which `_Pooled` has no rule."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _channels_last(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.channels_last)


class _Pooled(torch.autograd.Function):
    """Max-pooling of a few pictures at a time; its backward pass is torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        pool: Any = torch.ops.aten.max_pool2d_with_indices
        values, places = (torch.empty_like(each, device=x.device) for each in pool(x.to("meta"), *window))
        # Copies lie in the same memory for all parts: glibc seldom gives freed memory to a request of the same size.
        at_once = min(len(x), max(1, _BYTES_AT_ONCE // (x[0].numel() * x.element_size())))
        copies = [_channels_last(each[:at_once]) for each in (x, values, places)]
        for first in range(0, len(x), at_once):
            some = slice(first, first + at_once)
            part, found, where = (copy[: len(x) - first] for copy in copies)
            pool.out(part.copy_(x[some]), *window, out=found, indices=where)
            values[some], places[some] = found, where
        ctx.save_for_backward(x, places)
        ctx.window = window
        return values

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> Any:
        x, places = ctx.saved_tensors
        (g,) = output_gradients
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *ctx.window, places), None
