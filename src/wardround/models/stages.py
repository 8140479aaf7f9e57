"""What of a network is trained: its head, its head and norms, or all of it; and going from one to the next.

Transfer learning begins with the head, since a random head would push the backbone about, and unfreezes the rest
in stages. Under private training each stage has another vector of parameters, so the network is cut anew: a
vector, an optimizer or a velocity of one stage has no meaning in the next.
"""

import copy
from collections import OrderedDict

from torch import nn

from wardround.errors import ModelError
from wardround.models.network import Frozen, Network, Parts, Stage
from wardround.models.norms import NORMS
from wardround.models.weights import LoadedWeights

STAGES: tuple[Stage, ...] = ("all", "norms", "head")


def staged(
    name: str, parts: Parts, stage: Stage, *, segments: bool = False, weights: LoadedWeights | None = None
) -> Network:
    """A network of some parts that trains what the stage says.

    "head" moves everything before the head into the encoding, where it runs in evaluation mode and, for one row of
    features a picture, only once. "norms" leaves the layers where they are and takes the gradient from all that is
    neither head nor norm; a network without norms is then the same as with "head".

    Args:
        name: of the network.
        parts: used as they are; which of the body's parameters require a gradient is set here.
        stage: what is trained.
        segments: see `Network`.
        weights: see `Network`.
    """
    check_stage(stage)
    backbone, head = cut(parts.body, parts.head)
    parts.body.requires_grad_(True).train()
    has_norms = any(isinstance(module, NORMS) for module in backbone.modules())
    encode: nn.Module
    if stage == "all" or not any(True for _ in backbone.parameters()):
        encode, trained = parts.encoder, parts.body
    elif stage == "norms" and has_norms:
        backbone.requires_grad_(False)
        for module in backbone.modules():
            if isinstance(module, NORMS):
                module.requires_grad_(True)
        encode, trained = parts.encoder, parts.body
    else:
        # Maps of a whole volume would fill the memory that one row of features does not.
        encode, trained = nn.Sequential(parts.encoder, Frozen(backbone)), head
    once = parts.encode_once or (trained is head and not segments)
    return Network(name, encode, trained, once, weights, segments, stage, parts)


def unfreeze(network: Network, stage: Stage) -> Network:
    """The network with the same weights in a copy of its own, trained as another stage says.

    The network given stays as it is: no parameter of one is a parameter of the other, so an optimizer that was
    made for the old one cannot move the new one (`check_parameter_set` says so).

    Args:
        network: made by `build` or by this function.
        stage: what is trained from now on; freezing again is allowed.

    Raises:
        ModelError: an unknown stage, or a network that was put together by hand.
    """
    check_stage(stage)
    if network.parts is None:
        raise ModelError(
            f"A network can be unfrozen if it was made by build, got {network.name!r} put together by hand; "
            "set requires_grad on its parameters instead."
        )
    parts = Parts(
        network.parts.encoder,
        copy.deepcopy(network.parts.body),
        network.parts.head,
        network.parts.encode_once,
    )
    for parameter in parts.body.parameters():
        parameter.grad = None  # a gradient of the old stage is private, and of no use
    return staged(network.name, parts, stage, segments=network.segments, weights=network.weights)


def check_stage(stage: str) -> None:
    """Refuses a stage that does not exist.

    Raises:
        ModelError: as said.
    """
    if stage not in STAGES:
        raise ModelError(f"train must be 'all', 'norms' or 'head', got {stage!r}. Choose what is trained.")


def cut(body: nn.Sequential, head: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Backbone and head of a body, sharing its layers; every parameter keeps its name in both.

    Args:
        body: layers in the order in which they run.
        head: dotted name of the first layer of the head.
    """
    first, _, rest = head.partition(".")
    before: OrderedDict[str, nn.Module] = OrderedDict()
    after: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in body.named_children():
        if name == first and rest:
            assert isinstance(child, nn.Sequential)
            left, after[name] = cut(child, rest)
            if len(left) > 0:
                before[name] = left
        elif name == first or after:
            after[name] = child
        else:
            before[name] = child
    return nn.Sequential(before), nn.Sequential(after)
