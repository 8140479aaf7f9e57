"""The trained part of a network: all of it, its head, or its head with a part of the layers before it."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import assert_never

from torch import nn

from wardround.models.adapters import DOWN, UP
from wardround.models.network import NORMS, Frozen, Network, Parts, Stage


def staged(
    name: str, parts: Parts, stage: Stage, *, segments: bool = False, weights_sha256: str | None = None
) -> Network:
    """Returns a network of some parts that trains what the stage says.

    "head" moves everything before the head into the encoding, where it runs in evaluation mode and, for one row of
    features a picture, only once. "last-block", "norms", "lora" and "biases" leave the layers where they are and
    take the gradient from all that is not named; a network that has nothing of what is named is then the same as with
    "head".

    Source of "biases": Bu et al. 2022 (DP-BiTFiT), https://arxiv.org/abs/2210.00036, section 3.

    The parts are used as they are, and the body's parameters are told here which of them require a gradient.
    """
    backbone, head = cut(parts.body, parts.head)
    parts.body.requires_grad_(True).train()
    kept = list(_trained_before_head(backbone, stage))
    encode: nn.Module
    if kept or not any(True for _ in backbone.parameters()):
        backbone.requires_grad_(False)
        for parameter in kept:
            parameter.requires_grad_(True)
        encode, trained = parts.encoder, parts.body
    else:
        # Maps of a whole volume would fill the memory that one row of features does not.
        encode, trained = nn.Sequential(parts.encoder, Frozen(backbone)), head
    once = parts.encode_once or (trained is head and not segments)
    return Network(name, encode, trained, once, weights_sha256, segments, stage, parts)


def _trained_before_head(backbone: nn.Sequential, stage: Stage) -> Iterator[nn.Parameter]:
    """Yields the parameters before the head that a stage trains; one may come twice."""
    match stage:
        case "all":
            yield from backbone.parameters()
        case "last-block" | "norms" | "lora":
            for module in backbone.modules():
                if isinstance(module, NORMS):
                    yield from module.parameters()
            if stage == "last-block":
                yield from last_block(backbone).parameters()
            if stage == "lora":
                yield from (value for name, value in backbone.named_parameters() if name.endswith((DOWN, UP)))
        case "biases":
            yield from (value for name, value in backbone.named_parameters() if name.endswith("bias"))
        case "head":
            return
        case _:
            assert_never(stage)


def last_block(backbone: nn.Module) -> nn.Module:
    """Returns the last layer, or block of layers, that has a weight of two axes or more.

    Containers are entered, and so is a module that is alone in having such weights.
    """
    weighted = [child for child in backbone.children() if any(value.ndim > 1 for value in child.parameters())]
    if not weighted:
        return backbone
    is_entered = len(weighted) == 1 or isinstance(weighted[-1], nn.Sequential | nn.ModuleList)
    return last_block(weighted[-1]) if is_entered else weighted[-1]


def cut(body: nn.Sequential, head: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns backbone and head of a body, sharing its layers; every parameter keeps its name in both.

    The head begins at the layer of that dotted name, in the order in which layers run.
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
