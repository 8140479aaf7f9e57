"""Low-rank adapters of linear layers and convolutions, which `train = "lora"` trains in place of their weights.

An adapted layer computes W x + B A x. W is frozen; A, (rank, in), and B, (out, rank), are trained. B starts at zero, so
that a network's first answers are those of W. Of a convolution the kernel is flattened: A is a convolution of the same
kernel with `rank` outputs, and B combines these at each place. In evaluation mode a layer computes (W + B A) x. A saved
model has the weight W + B A under the layer's own name, and no adapter.

Sources: Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3, whose scale is 1 here; with private gradients Yu
et al. 2022, https://arxiv.org/abs/2110.06500, section 3.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.errors import ModelError

RANK = 4
"""The most rows of A. A layer with fewer inputs or outputs has as many as those."""

DOWN, UP = "lora_down", "lora_up"
"""Names of A and B, beside a layer's `weight`."""


class AdaptedLinear(nn.Linear):
    """Linear layer with an adapter."""

    lora_down: nn.Parameter
    lora_up: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Maps (picture, ..., in) to (picture, ..., out)."""
        if not self.training:
            return F.linear(input, _sum(self.weight, self.lora_down, self.lora_up), self.bias)
        return super().forward(input) + F.linear(F.linear(input, self.lora_down), self.lora_up)


class _Adapted:
    """Convolution with an adapter, mixed in before the layer."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer: nn.modules.conv._ConvNd = self  # type: ignore[assignment]  # mixed into convolutions alone
        down, up = layer.get_parameter(DOWN), layer.get_parameter(UP)
        plain = super()._conv_forward  # type: ignore[misc]  # of the layer
        if not layer.training:
            merged: Tensor = plain(input, _sum(weight, down, up), bias)
            return merged
        combine = F.conv2d if up.ndim == 4 else F.conv3d
        found: Tensor = plain(input, weight, bias) + combine(plain(input, down, None), up)
        return found


class AdaptedConv2d(_Adapted, nn.Conv2d):
    """Convolution of pictures with an adapter."""


class AdaptedConv3d(_Adapted, nn.Conv3d):
    """Convolution of volumes with an adapter."""


_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
}


def add_adapters(body: nn.Sequential, head: nn.Module, generator: torch.Generator) -> None:
    """Gives an adapter to every linear layer and ungrouped convolution before the head, in place.

    A is drawn from N(0, 1 / in), of a convolution with all inputs of its kernel counted, and from the generator alone.

    Raises:
        ModelError: there is no such layer (code `model-no-adapter`).
    """
    of_head = set(head.modules())
    found = [
        module
        for module in body.modules()
        if type(module) in _OF and module not in of_head and getattr(module, "groups", 1) == 1
    ]
    if not found:
        raise ModelError(
            '`[model] train = "lora"` is for networks with linear layers or convolutions before the head, got one '
            'without; set it to "head".',
            code="model-no-adapter",
        )
    for module in found:
        out, *inputs = module.get_parameter("weight").shape
        rank = min(RANK, out, math.prod(inputs))
        down = torch.randn((rank, *inputs), generator=generator) / math.sqrt(math.prod(inputs))
        module.register_parameter(DOWN, nn.Parameter(down))
        module.register_parameter(UP, nn.Parameter(torch.zeros(out, rank, *[1] * (len(inputs) - 1))))
        module.__class__ = _OF[type(module)]


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a network's values by name, with W + B A for each W that has an adapter, and without adapters."""
    found = dict(state)
    for layer in _adapted(state):
        down, up = found.pop(layer + DOWN), found.pop(layer + UP)
        found[f"{layer}weight"] = _sum(found[f"{layer}weight"], down, up)
    return found


def unmerged(named: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns values with adapters whose `merged` is `named`, to rounding; W, and what A is taken from, are `before`'s.

    With D = B A and the earlier A', the columns of D A'^T span those of D: an orthonormal basis of them is the new B.
    """
    found = dict(named)
    for layer in _adapted(before):
        weight, down, up = (before[layer + name] for name in ("weight", DOWN, UP))
        moved = (named[f"{layer}weight"].to(torch.float64) - weight).flatten(1)
        basis = torch.linalg.qr(moved @ down.flatten(1).to(torch.float64).T).Q
        found[f"{layer}weight"] = weight
        found[layer + UP] = basis.to(up.dtype).view(up.shape)
        found[layer + DOWN] = (basis.T @ moved).to(down.dtype).view(down.shape)
    return found


def _adapted(state: Mapping[str, Tensor]) -> list[str]:
    """Returns the beginning of the names of each layer with an adapter."""
    return [name.removesuffix(UP) for name in state if name.rpartition(".")[2] == UP]


def _sum(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return weight + (up.flatten(1) @ down.flatten(1)).view(weight.shape)
