"""Starting values for every parameter of a network, drawn from one given generator and from nothing else."""

import math
from collections.abc import Callable

import torch
from torch import nn

from wardround.errors import ModelError


def initialised(
    build: Callable[[], nn.Sequential], generator: torch.Generator, *, zero: frozenset[str]
) -> nn.Sequential:
    """Build a network and draw its parameters, without touching torch's global generator.

    Convolutions and linear layers are drawn from N(0, 2 / fan_in), biases are zero (He et al. 2015,
    https://arxiv.org/abs/1502.01852, section 2.2, equation 10); group normalisation starts as the identity.

    Args:
        build: returns the network; it runs on torch's `meta` device, which skips
            the layers' own draw from the global generator.
        generator: the only source of randomness. The same state gives the same parameters, bit for bit.
        zero: names of parameters that start at zero. A head at zero gives every class the same
            probability, so the first private gradients are bounded and no direction is preferred.

    Raises:
        ModelError: a layer with parameters for which no rule stands here.
    """
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    with torch.no_grad():
        for module in network.modules():
            _initialise(module, generator)
        for name, parameter in network.named_parameters():
            if name in zero:
                parameter.zero_()
    return network


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.GroupNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif next(module.parameters(recurse=False), None) is not None:
        raise ModelError(
            f"every layer with parameters must have a rule for its starting values, "
            f"got {type(module).__name__}. Add one to wardround.models.initialise."
        )
