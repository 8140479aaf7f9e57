"""Networks whose convolutions have standardised weights (`wardround.per_patient.layers.standardised`)."""

from torch import Tensor, nn

from wardround.errors import ModelError
from wardround.per_patient.layers.standardised import standardised_convolution


class _Standardised:
    """Convolution layer with the same parameters and standardised weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer: nn.modules.conv._ConvNd = self  # type: ignore[assignment]  # mixed into convolutions alone
        return standardised_convolution(
            input, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )


class StandardisedConv2d(_Standardised, nn.Conv2d):
    """Convolution of pictures with standardised weights."""


class StandardisedConv3d(_Standardised, nn.Conv3d):
    """Convolution of volumes with standardised weights."""


_OF: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: StandardisedConv2d, nn.Conv3d: StandardisedConv3d}


def with_standardised_weights(body: nn.Sequential, head: nn.Module) -> nn.Sequential:
    """Returns a body whose convolutions before the head have standardised weights, in the same parameters.

    Raises:
        ModelError: it has no convolution before the head.
    """
    of_head = set(head.modules())
    found = [module for module in body.modules() if type(module) in _OF and module not in of_head]
    if not found:
        raise ModelError(
            "`[model] standardise_weights` is for networks with convolutions before the head, got one without; set it "
            "to false.",
            code="model-no-convolution",
        )
    for module in found:
        module.__class__ = _OF[type(module)]
    return body
