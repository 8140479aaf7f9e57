"""Networks whose logits are one linear layer over fixed inputs."""

from torch import nn

from wardround.models.network import Network
from wardround.models.networks.ordinal import ContinuationRatios


def linear_layer(network: Network) -> nn.Linear | None:
    """Returns the one layer that is trained, if all before it is fixed and it gives the logits; else None."""
    layers = [module for module in network.trained.modules() if not list(module.children())]
    head = layers[-1] if layers else None
    fixed = all(isinstance(layer, nn.Flatten | nn.Identity) for layer in layers[:-1])
    is_head = not network.segments and isinstance(head, nn.Linear) and fixed and head.weight.requires_grad
    return head if is_head else None  # type: ignore[return-value]  # it is a linear layer


def scoring_layer(network: Network) -> tuple[nn.Linear | None, bool]:
    """Returns the trained linear layer, and whether its scores are those of grades; None where there is none."""
    match list(network.trained.modules())[-2:]:
        case [nn.Linear() as scores, ContinuationRatios()]:
            return scores, True
        case _:
            return linear_layer(network), False
