"""Convolutions whose weights are standardised: each output channel's weights less their mean, at a fixed norm.

The trained numbers are the weights before that. A patient's gradient by them is the ordinary one, (out, in, *kernel),
pulled back through the standardisation, a linear map that is the same for every patient.

Source: Qiao et al. 2019, https://arxiv.org/abs/1903.10520, equation 2; under privacy De et al. 2022,
https://arxiv.org/abs/2204.13650, section 3.1. The norm is sqrt(2), that of He's starting values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from wardround.per_patient.layers.base import Fold
from wardround.per_patient.layers.convolution import Convolution

NORM = math.sqrt(2.0)
_FLOOR = 1e-6
"""Added to the squared norm: a channel of equal weights becomes zero."""


def standardised(weight: Tensor) -> Tensor:
    """Returns weights of mean 0 and norm sqrt(2) in each output channel, (out, in, *kernel)."""
    flat = weight.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return (NORM * centred / _length(centred)).view_as(weight)


def standardised_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Returns a zero-padded convolution with `standardised` weights; axes as `torch.nn.functional.conv2d`."""
    arguments = (x, weight, bias)
    if has_torch_function(arguments):  # the engine's recorder sees it as one function, with a rule
        output: Tensor = handle_torch_function(
            standardised_convolution, arguments, *arguments, stride, padding, dilation, groups
        )
        return output
    convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    found: Tensor = convolution(x, standardised(weight), bias, stride, padding, dilation, groups)
    return found


@dataclass
class StandardisedConvolution(Convolution):
    """Convolution with standardised weights; `weight` has them, `raw` the trained numbers."""

    raw: Tensor

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """See `Use`."""
        found = super().per_patient(g, saved, fold)
        return [_pulled(found[0], self.raw), *found[1:]] if self.trains[0] else found

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """See `Use`: a ghost norm would be that of the standardised weights."""
        return False


def _pulled(gradients: Tensor, raw: Tensor) -> Tensor:
    """Returns gradients by the raw weights, (patient, out, in, *kernel), from those by the standardised ones."""
    flat = raw.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    length = _length(centred)
    along = centred / length
    each = gradients.flatten(2)
    each = (each - along * (along * each).sum(dim=2, keepdim=True)) * (NORM / length)
    return (each - each.mean(dim=2, keepdim=True)).view_as(gradients)


def _length(centred: Tensor) -> Tensor:
    return torch.sqrt((centred * centred).sum(dim=1, keepdim=True) + _FLOOR)
