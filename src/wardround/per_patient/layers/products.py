"""Matrix products in single precision by oneDNN, which torch has beside MKL.

Torch's own products (`mm`, `addmm`, `bmm`, `linear`) take MKL, which reaches half the speed of oneDNN on AMD processors
(112 against 230 to 255 GFLOP/s on a core of a Zen 5) and the same on Intel's. Sizes alone decide which library takes a
product, so that a machine repeats its bits. Small products stay with MKL: a call of oneDNN takes 13 us.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.per_patient.layers.base import Fold

_LARGE_PRODUCT = 1 << 22
"""Multiplications of a product from which oneDNN pays off."""
_LEAST_SIDE = 4
"""Least side of such a product."""
_LEAST_OF_EACH = 64
"""Least side where each picture has a product, and with it a call of oneDNN, of its own."""
_LARGE_OF_MANY = 1 << 20
_LEAST_OF_MANY = 32
"""Multiplications and least side of a product from which many of them take less time as one convolution in groups."""
_HAS_ONEDNN: bool = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_onednns(values: Tensor) -> bool:
    """Returns whether oneDNN computes with such values: in single precision, on a processor."""
    return _HAS_ONEDNN and values.dtype is torch.float32 and values.device.type == "cpu"


def takes_onednn(values: Tensor, *sizes: int, least: int = _LEAST_SIDE) -> bool:
    """Returns whether oneDNN takes a product of such sizes."""
    return math.prod(sizes) >= _LARGE_PRODUCT and min(sizes) >= least and is_onednns(values)


def onednn_product(rows: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns rows @ columns^T + bias, of (row, number) and (column, number), in float32.

    oneDNN reads a bias as if it lay in one piece and had a number for each column, and past its end otherwise.
    """
    if bias is not None:
        bias = bias.expand(len(columns)).contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, columns, bias, "none", [], "")
    return found


def products(a: Tensor, b: Tensor, shape: Sequence[int], fold: Fold) -> Tensor:
    """Returns one matrix product a picture as gradients of a parameter, (patient, *shape)."""
    gradients = a.new_empty(len(a), *shape)
    each = gradients.view(len(a), a.shape[1], b.shape[2])
    if takes_onednn(a, a.shape[1], b.shape[2], a.shape[2], least=_LEAST_OF_EACH):
        for into, rows, columns in zip(each, a, b.transpose(1, 2), strict=True):
            into.copy_(onednn_product(rows, columns))
    else:
        torch.bmm(a, b, out=each)
    return fold(gradients)


def matmul(*factors: Tensor, **named: Any) -> Any:
    """Returns `torch.matmul`, in half its time where it is many large products on a processor, as in attention.

    Products a_i b_i are a convolution in groups, one for each i, with kernels of one place: a_i has its weights, and
    columns of b_i are its places. Groups share nothing, so that no product has a part of another one. torch knows all
    derivatives of a convolution. Bits differ from those of `torch.matmul` as oneDNN's do from MKL's.

    Edge cases:
        other products, half precision, autocast, another device: NotImplemented, for `torch.matmul` itself.
    """
    if len(factors) != 2 or named or torch.is_autocast_enabled("cpu"):
        return NotImplemented
    a, b = factors
    if not (is_onednns(a) and is_onednns(b) and _are_many(a, b)):
        return NotImplemented
    count, (rows, inner) = math.prod(a.shape[:-2]), a.shape[-2:]
    weight = a.reshape(count * rows, inner, 1)
    # A dilation is nothing to a kernel of one place, but without it torch takes MKL on one thread.
    wide = F.conv1d(b.reshape(1, count * inner, -1), weight, dilation=2, groups=count)
    return wide.view(*a.shape[:-1], b.shape[-1])


def _are_many(a: Tensor, b: Tensor) -> bool:
    """Returns whether products are large, and not of sides for which oneDNN first reorders both factors."""
    if a.ndim < 3 or a.shape[:-2] != b.shape[:-2]:
        return False
    sides: tuple[int, ...] = (*a.shape[-2:], b.shape[-1])
    large = math.prod(sides) >= _LARGE_OF_MANY and min(sides) >= _LEAST_OF_MANY
    return large and (sides[0] % 4 > 0 or sides[1] % 4 > 0)
