"""The one dictionary that names the networks, and `build`, which makes one.

Every body is a Sequential whose last child is called `classifier`. Its first `head_start` layers and all
that stands before them are the backbone; `train="head"` freezes the backbone and moves it into the encoding.
"""

import difflib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models import alexnet, features, small_cnn, squeezenet
from wardround.models.initialise import initialised
from wardround.models.network import Frozen, Network, Normalise, Standardise
from wardround.models.weights import load_weights


@dataclass(frozen=True)
class Builder:
    """How one network of the catalogue is made.

    Attributes:
        encoder: image_size to the fixed encoding of pictures.
        body: (image_size, channels, num_classes) to the network behind the encoding.
        smallest_picture: the least image_size, in pixels, that the network can read.
        head_start: where the head begins within `classifier`.
        starts_at_zero: the head's weights start at zero.
        encode_once: the encoding is worth keeping even when the whole body is trained.
    """

    encoder: Callable[[int], nn.Module]
    body: Callable[[int, int, int], nn.Sequential]
    smallest_picture: int
    head_start: int = 0
    starts_at_zero: bool = True
    encode_once: bool = False


def _linear(image_size: int, channels: int, num_classes: int) -> nn.Sequential:
    classifier = nn.Sequential(nn.Linear(channels * image_size * image_size, num_classes))
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=classifier))


def _feature_head(image_size: int, channels: int, num_classes: int) -> nn.Sequential:
    del channels  # the strongest gradient of all channels is taken
    # The rows end in a constant feature, which is the bias and is clipped like the rest.
    classifier = nn.Sequential(nn.Linear(features.num_features(image_size), num_classes, bias=False))
    return nn.Sequential(OrderedDict(classifier=classifier))


NETWORKS: dict[str, Builder] = {
    "linear": Builder(lambda _: Normalise(), _linear, smallest_picture=1),
    "features": Builder(features.HogRows, _feature_head, features.SMALLEST_PICTURE, encode_once=True),
    "small_cnn": Builder(lambda _: Standardise(), small_cnn.small_cnn, small_cnn.SMALLEST_PICTURE),
    # A last convolution at zero, followed by a ReLU, would have no gradient and stay there.
    "squeezenet": Builder(
        lambda _: Normalise(),
        squeezenet.squeezenet,
        squeezenet.SMALLEST_PICTURE,
        head_start=squeezenet.HEAD_START,
        starts_at_zero=False,
    ),
    "alexnet": Builder(
        lambda _: Normalise(),
        alexnet.alexnet,
        alexnet.SMALLEST_PICTURE,
        head_start=alexnet.HEAD_START,
    ),
}


def build(
    name: str,
    *,
    image_size: int,
    channels: int,
    num_classes: int,
    init_generator: torch.Generator,
    train: Literal["all", "head"] = "all",
    weights: Path | None = None,
) -> Network:
    """A network by name, initialised, with a user's weights if there are any.

    Args:
        name: a key of `NETWORKS`.
        image_size: width and height of the pictures, in pixels.
        channels: of the pictures: 1 for grey, 3 for colour.
        num_classes: number of logits.
        init_generator: the only source of the starting values.
        train: "all", or "head" to freeze everything before the last layer. `linear` and `features` are heads
            already. A frozen backbone without `weights` is a random one.
        weights: a `.safetensors` file, see `wardround.models.weights.load_weights`.

    Raises:
        ModelError: an unknown name, a picture too small for the network, or weights that do not fit.
    """
    builder = _builder(name)
    _check(name, builder, image_size, num_classes, train)
    body_of = builder.body
    with torch.device("meta"):
        head = _head_names(body_of(image_size, channels, num_classes), builder.head_start)
    body = initialised(
        lambda: body_of(image_size, channels, num_classes),
        init_generator,
        zero=head if builder.starts_at_zero else frozenset(),
    )
    report = None if weights is None else load_weights(body, weights, head=head)
    encoder = builder.encoder(image_size)
    backbone, trained = _cut(body, builder.head_start)
    if train == "head" and any(True for _ in backbone.parameters()):
        return Network(name, nn.Sequential(encoder, Frozen(backbone)), trained, encode_once=True, weights=report)
    return Network(name, encoder, body, encode_once=builder.encode_once, weights=report)


def _builder(name: str) -> Builder:
    if name in NETWORKS:
        return NETWORKS[name]
    nearest = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.0)[0]
    raise ModelError(
        f"network must be one of {', '.join(NETWORKS)}, got {name!r}. The nearest known one is {nearest!r}."
    )


def _check(name: str, builder: Builder, image_size: int, num_classes: int, train: str) -> None:
    if image_size < builder.smallest_picture:
        raise ModelError(
            f"image_size must be at least {builder.smallest_picture} pixels for {name}, got {image_size}. "
            "Raise it, or choose another network."
        )
    if num_classes < 2:
        raise ModelError(
            f"num_classes must be at least 2, got {num_classes}. Name every class, also the healthy one."
        )
    if train not in ("all", "head"):
        raise ModelError(f"train must be 'all' or 'head', got {train!r}. Choose what is trained.")


def _head_names(body: nn.Sequential, head_start: int) -> frozenset[str]:
    return frozenset(name for name, _ in _cut(body, head_start)[1].named_parameters())


def _cut(body: nn.Sequential, head_start: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Backbone and head of a body, sharing its layers; every parameter keeps its name in both."""
    children = OrderedDict(body.named_children())
    classifier = list(children.pop("classifier").named_children())
    if head_start > 0:
        children["classifier"] = nn.Sequential(OrderedDict(classifier[:head_start]))
    head = nn.Sequential(OrderedDict(classifier[head_start:]))
    return nn.Sequential(children), nn.Sequential(OrderedDict(classifier=head))
