"""Rules: for each torch function with per-patient gradients, the layer that it is recorded as.

A rule gets the function's own arguments, some of which are trained parameters. It records the use and returns the
output; NotImplemented sends the caller to the slow path. A rule must know that the first axis of its input is the
picture: `Recorder.is_batched` compares its length with the number of pictures, and two different numbers are tried
before a network is trusted (`anatomy`).
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.per_patient.layers.convolution import Convolution
from wardround.per_patient.layers.elementwise import Embedding, Scale, Shift, Slope
from wardround.per_patient.layers.linear import Linear
from wardround.per_patient.layers.norms import (
    GroupNorm,
    LayerNorm,
    as_torch_gives,
    group_norm_of_each,
    takes_channels_last,
)
from wardround.per_patient.layers.pooling import max_pool2d
from wardround.per_patient.layers.products import is_onednns, matmul
from wardround.per_patient.layers.standardised import (
    StandardisedConvolution,
    standardised,
    standardised_convolution,
)
from wardround.per_patient.recorder import Recorder, Rule

Maybe = Tensor | None


def _batched(rule: Rule) -> Rule:
    """Returns a rule for inputs whose first axis is the picture; others take the slow path."""

    def of_batches(recorder: Recorder, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return rule(recorder, x, *args, **kwargs) if recorder.is_batched(x) else NotImplemented

    return of_batches


@_batched
def _linear(recorder: Recorder, x: Tensor, weight: Tensor, bias: Maybe = None) -> Any:
    return recorder.use(Linear(*recorder.trained(weight, bias)), x) if x.ndim >= 2 else NotImplemented


@_batched
def _matmul(recorder: Recorder, x: Tensor, weight: Tensor) -> Any:
    if recorder.is_trained(x) or not recorder.is_trained(weight) or weight.ndim != 2 or x.ndim < 2:
        return NotImplemented
    return recorder.use(Linear(*recorder.trained(weight, None), columns=True), x)


def _convolution(dims: int) -> Rule:
    @_batched
    def rule(
        recorder: Recorder, x: Tensor, weight: Tensor, bias: Maybe = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        if x.ndim != dims + 2:
            return NotImplemented
        dilations = _dilations(x, weight, stride, dilation)
        if isinstance(padding, str):
            kernel = weight.shape[2:]
            both = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
            if any(p % 2 for p in both):  # one side gets a pixel more, which only an explicit pad can do
                x = F.pad(x, [side for p in reversed(both) for side in (p // 2, p - p // 2)])
                both = [0] * dims
            padding = [p // 2 for p in both]
        use = Convolution(
            *recorder.trained(weight, bias), _many(stride, dims), _many(padding, dims), dilations,
            False, (0,) * dims, groups,
        )  # fmt: skip
        return recorder.use(use, x)

    return rule


@_batched
def _standardised(
    recorder: Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    dims = weight.ndim - 2
    if x.ndim != weight.ndim or isinstance(padding, str):
        return NotImplemented
    names, raw, bias, trains = recorder.trained(weight, bias)
    use = StandardisedConvolution(
        names, standardised(raw), bias, trains, _many(stride, dims), _many(padding, dims),
        _dilations(x, raw, stride, dilation), False, (0,) * dims, groups, raw,
    )  # fmt: skip
    return recorder.use(use, x)


def _transposed(dims: int) -> Rule:
    @_batched
    def rule(
        recorder: Recorder, x: Tensor, weight: Tensor, bias: Maybe = None,
        stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Any:  # fmt: skip
        if x.ndim != dims + 2:
            return NotImplemented
        use = Convolution(
            *recorder.trained(weight, bias), _many(stride, dims), _many(padding, dims), _many(dilation, dims),
            True, _many(output_padding, dims), groups,
        )  # fmt: skip
        return recorder.use(use, x)

    return rule


def _dilations(x: Tensor, weight: Tensor, stride: Any, dilation: Any) -> tuple[int, ...]:
    """Returns the dilation of each axis: 2 for a kernel of one place and stride 1, to which it is nothing.

    Without stride and dilation torch leaves fewer than 16 pictures to MKL where it has one thread.
    """
    dims = weight.ndim - 2
    is_pointwise = max(weight.shape[2:]) == max(_many(stride, dims)) == 1
    return (2,) * dims if is_pointwise and is_onednns(x) else _many(dilation, dims)


def _many(value: Any, dims: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dims
    return tuple(value) if len(value) == dims else tuple(value) * dims


@_batched
def _group_norm(
    recorder: Recorder, x: Tensor, groups: int, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Any:
    return _normed(recorder, x, groups, weight, bias, eps)


@_batched
def _instance_norm(
    recorder: Recorder, x: Tensor, running_mean: Maybe = None, running_var: Maybe = None,
    weight: Maybe = None, bias: Maybe = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if not use_input_stats or running_mean is not None:
        return NotImplemented
    return _normed(recorder, x, x.shape[1], weight, bias, eps)


def _normed(recorder: Recorder, x: Tensor, groups: int, weight: Maybe, bias: Maybe, eps: float) -> Tensor:
    names, weight, bias, trains = recorder.trained(weight, bias)
    if takes_channels_last(x):
        return recorder.use(GroupNorm(names, weight, bias, trains, groups, eps), x)
    scale, offset = recorder.tape.spread(names, (weight, bias), trains, len(x))
    return as_torch_gives(group_norm_of_each(x, scale, offset, groups, eps), x, weight, bias)


@_batched
def _layer_norm(
    recorder: Recorder, x: Tensor, shape: Any, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Any:
    if len(shape) >= x.ndim:
        return NotImplemented
    return recorder.use(LayerNorm(*recorder.trained(weight, bias), tuple(shape), eps), x)


@_batched
def _rms_norm(recorder: Recorder, x: Tensor, shape: Any, weight: Maybe = None, eps: float | None = None) -> Any:
    if weight is None or len(shape) >= x.ndim:
        return NotImplemented
    return recorder.use(Scale(recorder.names(weight), weight.detach()), F.rms_norm(x, shape, None, eps))


@_batched
def _batch_norm(
    recorder: Recorder, x: Tensor, running_mean: Maybe, running_var: Maybe,
    weight: Maybe = None, bias: Maybe = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if training or running_mean is None:
        return NotImplemented  # statistics of the batch are refused before this point
    y = F.batch_norm(x, running_mean, running_var, None, None, False, momentum, eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        value = weight.detach().view(shape)
        y = recorder.use(Scale(recorder.names(weight), value), y) if recorder.is_trained(weight) else y * value
    if bias is not None:
        value = bias.detach().view(shape)
        y = recorder.use(Shift(recorder.names(bias), value, 1.0), y) if recorder.is_trained(bias) else y + value
    return y


@_batched
def _prelu(recorder: Recorder, x: Tensor, weight: Tensor) -> Any:
    value = weight.detach()
    if value.numel() == 1:
        return recorder.use(Slope(recorder.names(weight), value), x)
    value = value.view((1, -1) + (1,) * (x.ndim - 2))
    return F.relu(x) + recorder.use(Scale(recorder.names(weight), value), torch.clamp(x, max=0))


@_batched
def _embedding(
    recorder: Recorder, index: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq:
        return NotImplemented
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    return recorder.use(Embedding(recorder.names(weight), weight.detach(), padding_idx), index)


def _broadcasts(recorder: Recorder, x: Any, weight: Tensor) -> bool:
    """Returns whether x has pictures on its first axis, and the weight is broadcast over them."""
    if not isinstance(x, Tensor) or recorder.is_trained(x) or not recorder.is_batched(x):
        return False
    return weight.ndim < x.ndim or (weight.ndim == x.ndim and weight.shape[0] == 1)


def _multiply(recorder: Recorder, a: Any, b: Any) -> Any:
    x, weight = (b, a) if recorder.is_trained(a) else (a, b)
    if not _broadcasts(recorder, x, weight):
        return NotImplemented
    return recorder.use(Scale(recorder.names(weight), weight.detach()), x)


def _add(recorder: Recorder, a: Any, b: Any, *, alpha: float = 1) -> Any:
    x, weight = (b, a) if recorder.is_trained(a) else (a, b)
    if alpha != 1 or not _broadcasts(recorder, x, weight):
        return NotImplemented
    return recorder.use(Shift(recorder.names(weight), weight.detach(), 1.0), x)


def _subtract(recorder: Recorder, a: Any, b: Any, *, alpha: float = 1) -> Any:
    if alpha != 1 or recorder.is_trained(a) or not _broadcasts(recorder, a, b):
        return NotImplemented
    return recorder.use(Shift(recorder.names(b), b.detach(), -1.0), a)


def _expand(recorder: Recorder, weight: Tensor, *sizes: Any) -> Any:
    wanted = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if len(wanted) < weight.ndim or wanted[0] != recorder.num_pictures:
        return NotImplemented
    if len(wanted) == weight.ndim and weight.shape[0] != 1:
        return NotImplemented
    extra = len(wanted) - weight.ndim
    shape = tuple(weight.shape[i - extra] if size == -1 else size for i, size in enumerate(wanted))
    return recorder.use(Shift(recorder.names(weight), weight.detach(), 1.0, shape))


_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, operator.matmul)

RULES: dict[Any, Rule] = {
    F.linear: _linear,
    F.conv1d: _convolution(1),
    F.conv2d: _convolution(2),
    F.conv3d: _convolution(3),
    standardised_convolution: _standardised,
    F.conv_transpose1d: _transposed(1),
    F.conv_transpose2d: _transposed(2),
    F.conv_transpose3d: _transposed(3),
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    F.prelu: _prelu,
    F.embedding: _embedding,
    Tensor.expand: _expand,
    **dict.fromkeys(_PRODUCTS, _matmul),
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _multiply),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), _subtract),
}

FASTER: dict[Any, Rule] = {
    F.max_pool2d: max_pool2d,
    **dict.fromkeys((*_PRODUCTS, torch.bmm, Tensor.bmm), matmul),
}
"""For functions of values alone, without a trained parameter: one that gives the same in less time, up to rounding."""
