"""The trained part of a network: its head, its head and norms, or all of it."""

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
    """Returns a network of some parts that trains what the stage says.

    "head" moves everything before the head into the encoding, where it runs in evaluation mode and, for one row of
    features a picture, only once. "norms" leaves the layers where they are and takes the gradient from all that is
    neither head nor norm; a network without norms is then the same as with "head".

    The parts are used as they are, and the body's parameters are told here which of them require a gradient.
    """
    check_stage(stage)
    backbone, head = cut(parts.body, parts.head)
    parts.body.requires_grad_(True).train()
    norms = [module for module in backbone.modules() if isinstance(module, NORMS)]
    encode: nn.Module
    if stage == "all" or not any(True for _ in backbone.parameters()):
        encode, trained = parts.encoder, parts.body
    elif stage == "norms" and norms:
        backbone.requires_grad_(False)
        for norm in norms:
            norm.requires_grad_(True)
        encode, trained = parts.encoder, parts.body
    else:
        # Maps of a whole volume would fill the memory that one row of features does not.
        encode, trained = nn.Sequential(parts.encoder, Frozen(backbone)), head
    once = parts.encode_once or (trained is head and not segments)
    return Network(name, encode, trained, once, weights, segments, stage, parts)


def check_stage(stage: str) -> None:
    """Refuses a stage that does not exist, with a `ModelError`."""
    if stage not in STAGES:
        raise ModelError(f"train must be 'all', 'norms' or 'head', got {stage!r}. Choose what is trained.")


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
