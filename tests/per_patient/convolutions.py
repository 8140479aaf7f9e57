"""A convolution as the engine records it."""

from typing import Any

from wardround.per_patient.layers.convolution import Convolution


def use_of(layer: Any) -> Any:
    """Returns the use of a convolution's weight, as the engine records it."""
    weight, zeros = layer.weight.detach(), (0,) * len(layer.stride)
    return Convolution(
        ("weight",), weight, None, (True, False), layer.stride, layer.padding, layer.dilation, False, zeros,
        layer.groups,
    )  # fmt: skip
