"""Starting values for every parameter of a network, drawn from one given generator and from nothing else."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wardround.errors import ModelError

_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_NORMS = nn.GroupNorm | nn.LayerNorm | nn.modules.instancenorm._InstanceNorm

_TOKENS = frozenset({"cls_token", "position_embeddings"})
"""Parameters of a transformer that belong to no layer."""

_TOKEN_DEVIATION = 0.02
_FILLS = (torch.Tensor.normal_, torch.Tensor.erfinv_, torch.Tensor.clamp_)


def unfilled(build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """Returns the layers of a network, without values and without memory: on torch's `meta` device."""
    with torch.device("meta"), _Unfilled():
        return build()


class _Unfilled(TorchFunctionMode):
    """Leaves starting values out: without memory these do nothing, and import torch's compiler, which takes 1.1 s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _FILLS else func(*args, **(kwargs or {}))


def initialised(
    build: Callable[[], nn.Sequential],
    generator: torch.Generator,
    *,
    zero: frozenset[str],
    linear_deviation: float | None = None,
) -> nn.Sequential:
    """Builds a network and draws its parameters, without touching torch's global generator.

    Convolutions and linear layers are drawn from N(0, 2 / fan_in), biases are zero (He et al. 2015,
    https://arxiv.org/abs/1502.01852, section 2.2, equation 10); norms start as the identity. The fan-in of a
    transposed convolution is the number of inputs that reach one output.

    Args:
        build: returns the network; run on torch's `meta` device, without the layers' own draw from the global
            generator (`unfilled`).
        generator: the only source of randomness. The same state gives the same parameters, bit for bit.
        zero: names of parameters that start at zero. A head at zero gives every class the same probability, so the
            first private gradients are bounded and no direction is preferred.
        linear_deviation: of linear layers, where the network's authors say another than He's.

    Raises:
        ModelError: a layer with parameters for which no rule stands here, or with a buffer, which the `meta`
            device leaves without values.
    """
    network = unfilled(build)
    # `to_empty` does the same, and imports SymPy for it, a third of a second.
    network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for module in network.modules():
            _initialise(module, generator, linear_deviation)
        buffer = next((name for name, _ in network.named_buffers()), None)
        if buffer is not None:
            raise ModelError(
                f"A network here must have parameters only, got the buffer {buffer!r}; build it elsewhere."
            )
        for name in zero:
            network.get_parameter(name).zero_()
    return network


def _initialise(module: nn.Module, generator: torch.Generator, linear_deviation: float | None) -> None:
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, _CONVOLUTIONS | _TRANSPOSED | nn.Linear):
        deviation = math.sqrt(2.0 / _fan_in(module))
        deviation = linear_deviation if linear_deviation and isinstance(module, nn.Linear) else deviation
        module.weight.normal_(0.0, deviation, generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, _NORMS):
        for name, parameter in own.items():
            parameter.fill_(float(name == "weight"))
    elif own.keys() <= _TOKENS:
        for name in sorted(own):
            own[name].normal_(0.0, _TOKEN_DEVIATION, generator=generator)
    else:
        raise ModelError(
            f"every layer with parameters must have a rule for its starting values, "
            f"got {type(module).__name__}. Add one to wardround.models.initialise."
        )


def _fan_in(layer: nn.Module) -> float:
    """Returns the number of inputs that one output is the sum of."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(layer, _TRANSPOSED):  # (input, output / groups, *kernel), spread over stride outputs a side
        return weight[:, 0].numel() / layer.groups / math.prod(layer.stride)
    return weight[0].numel()
