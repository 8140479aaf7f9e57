"""Networks whose logits are one linear layer over fixed inputs."""

from torch import nn

from wardround.models.network import Network
from wardround.models.networks.ordinal import ContinuationRatios


def linear_layer(network: Network) -> nn.Linear | None:
    """Returns the one layer that is trained, if all before it is fixed and it gives the logits; else None."""
    layer, is_ordinal = scoring_layer(network)
    return None if is_ordinal else layer


def scoring_layer(network: Network) -> tuple[nn.Linear | None, bool]:
    """Returns the one layer that is trained, and whether its scores are those of grades; None as `linear_layer`."""
    layers = [module for module in network.trained.modules() if not list(module.children())]
    is_ordinal = bool(layers) and isinstance(layers[-1], ContinuationRatios)
    match layers[: len(layers) - is_ordinal]:
        case [*before, nn.Linear() as head] if not network.segments and head.weight.requires_grad:
            if all(isinstance(layer, nn.Flatten | nn.Identity) for layer in before):
                return head, is_ordinal
    return None, is_ordinal
