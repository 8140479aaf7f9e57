"""The one dictionary that names the networks, and `build`, which makes one.

Every body is a Sequential whose layers run in the order of their names. From the layer that its builder calls
`head` on, all is the head; the layers before it are the backbone. `wardround.models.stages` says which of them is
trained.
"""

import difflib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, assert_never, get_args

import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.adapters import add_adapters
from wardround.models.backbones.names import Backbone, OwnEncoder
from wardround.models.backbones.own import OnnxRows, body_of_catalogue, check_hash
from wardround.models.backbones.rows import BackboneRows
from wardround.models.backbones.rows import num_features as num_backbone_features
from wardround.models.initialise import initialised, unfilled
from wardround.models.network import Encoder, Form, HeadName, Network, Normalise, Parts, Stage, Standardise
from wardround.models.networks import features, of_monai, vgg
from wardround.models.networks.alexnet import WIDTH, alexnet
from wardround.models.networks.ordinal import head_of
from wardround.models.networks.small_cnn import small_cnn
from wardround.models.networks.squeezenet import squeezenet
from wardround.models.networks.unet import unet
from wardround.models.networks.unet_vgg11 import unet_vgg11
from wardround.models.networks.voxel_features import VoxelFeatures, boxed_voxel_features, voxel_features
from wardround.models.stages import cut, staged
from wardround.models.standardised import with_standardised_weights
from wardround.models.weights import load_weights

PICTURES = frozenset({2})
VOLUMES = frozenset({3})
EITHER = PICTURES | VOLUMES


@dataclass(frozen=True)
class Builder:
    """The making of one network of the catalogue.

    Attributes:
        head: dotted name of the layer where the head begins.
        smallest: the least size along each axis, in pixels or voxels: below it, a pooling has nothing to pool.
        dimensions: which of 2 (pictures) and 3 (volumes) it reads.
        segments: its logits are (picture, class, *space), else (picture, class).
        divisor: every size must be a multiple of it.
        square: it reads square pictures only.
        width: channels of the first level if the study does not say; None where it cannot be chosen.
        absent: first part of the names that a weights file may lack altogether.
        starts_at_zero: the head's weights start at zero. Not those of a network that segments: from zero, classes
            of equal size get equal gradients and stay one class. A 3-D U-Net on the hippocampus left that saddle
            after 250 steps; from a drawn head it had both parts after 100.
        linear_deviation: see `initialised`.
        encode_once: the encoding is worth keeping even when the whole body is trained.
    """

    body: Callable[[Form], nn.Sequential]
    head: str
    encoder: Callable[[Form], Encoder] = lambda _: Normalise()
    smallest: int = 1
    dimensions: frozenset[int] = PICTURES
    segments: bool = False
    divisor: int = 1
    square: bool = False
    width: int | None = None
    absent: str | None = None
    starts_at_zero: bool = True
    linear_deviation: float | None = None
    encode_once: bool = False


def _linear(form: Form) -> nn.Sequential:
    classifier = nn.Sequential(nn.Linear(form.channels * math.prod(form.size), form.num_classes))
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=classifier))


def _feature_head(form: Form) -> nn.Sequential:
    # The strongest gradient of all channels is taken, so their number does not matter. The rows end in a constant
    # feature, which is the bias and is clipped like the rest.
    return _with_head(features.num_features(form.size[0]), form)


def _with_head(length: int, form: Form, **before: nn.Module) -> nn.Sequential:
    classifier = head_of(length, form.num_classes, is_ordinal=form.is_ordinal)
    return nn.Sequential(OrderedDict(before, classifier=classifier))


def _segmenter(body: Callable[[Form], nn.Sequential], dimensions: frozenset[int] = EITHER, **more: Any) -> Builder:
    return Builder(body, "classifier", segments=True, starts_at_zero=False, dimensions=dimensions, **more)


def _each_channel(_: Form) -> Encoder:
    # Each channel by itself: the sequences of a magnetic resonance examination share no scale.
    return Standardise(each_channel=True)


def _unet(depth: int, width: int, dimensions: frozenset[int]) -> Builder:
    return _segmenter(
        partial(unet, depth=depth), dimensions, encoder=_each_channel, divisor=1 << depth, width=width,
        smallest=2 << depth,  # an instance norm leaves nothing of a single pixel
    )  # fmt: skip


NETWORKS: dict[str, Builder] = {
    # One answer for each picture.
    "linear": Builder(_linear, "classifier", dimensions=EITHER),
    "features": Builder(
        _feature_head, "classifier", encoder=lambda form: features.HogRows(form.size[0]),
        smallest=2 * features.CELLS, square=True, encode_once=True,
    ),
    "small_cnn": Builder(small_cnn, "classifier", encoder=lambda _: Standardise(), smallest=16),
    # A last convolution at zero, followed by a ReLU, would have no gradient and stay there.
    "squeezenet": Builder(squeezenet, "classifier.1", smallest=17, starts_at_zero=False),
    "alexnet": Builder(alexnet, "classifier.6", smallest=63, width=WIDTH),
    "vgg11": Builder(partial(vgg.vgg, plan=vgg.VGG11), "classifier.6", smallest=32),
    "vgg11_gn": Builder(vgg.vgg11_gn, "classifier.0", smallest=32),
    "vgg16": Builder(partial(vgg.vgg, plan=vgg.VGG16), "classifier.6", smallest=32),
    "resnet18": Builder(of_monai.resnet18, "fc", smallest=32, dimensions=EITHER),
    "densenet121": Builder(of_monai.densenet121, "class_layers.out", smallest=32, dimensions=EITHER),
    "vit_tiny": Builder(
        of_monai.vit_tiny, "classifier", smallest=of_monai.VIT_PATCH, divisor=of_monai.VIT_PATCH,
        linear_deviation=of_monai.VIT_DEVIATION,
    ),
    # One answer for each pixel or voxel.
    "voxel_features": _segmenter(voxel_features, encoder=lambda _: VoxelFeatures(), width=16),
    "boxed_voxel_features": _segmenter(
        boxed_voxel_features, encoder=lambda _: VoxelFeatures(boxed=True), width=16
    ),
    "unet": _unet(depth=3, width=16, dimensions=EITHER),
    "unet3d": _unet(depth=3, width=8, dimensions=VOLUMES),
    "small_unet": _unet(depth=2, width=8, dimensions=EITHER),
    "unet_vgg11": _segmenter(unet_vgg11, PICTURES, smallest=32, divisor=32, absent="decoder."),
    "segresnet": _segmenter(of_monai.segresnet, encoder=_each_channel, smallest=8, divisor=8, width=8),
}  # fmt: skip

NAMES: dict[str, tuple[str, ...]] = {
    "classification": tuple(name for name, builder in NETWORKS.items() if not builder.segments),
    "segmentation": tuple(name for name, builder in NETWORKS.items() if builder.segments),
}
"""The names by what they answer; each can stand in a study file's `[model] name`."""


def build(
    name: str,
    *,
    size: tuple[int, ...],
    channels: int,
    num_classes: int,
    init_generator: torch.Generator,
    train: Stage = "all",
    weights: Path | None = None,
    width: int | None = None,
    backbone: Backbone | OwnEncoder | None = None,
    head: HeadName = "softmax",
    standardise_weights: bool = False,
) -> Network:
    """Returns a network by name, initialised, with a user's weights if there are any.

    Args:
        name: a key of `NETWORKS`.
        size: of the pictures, (height, width) in pixels, or of the volumes, (x, y, z) in voxels.
        channels: of the pictures: 1 for grey, 3 for colour.
        num_classes: number of logits; a network that segments counts the background.
        init_generator: the only source of the starting values.
        train: what is trained, see `wardround.models.network.Stage`; "head" freezes everything before the last layer.
            `linear` and `features` are heads already. "lora" adds `wardround.models.adapters`. A frozen backbone
            without `weights` is a random one.
        weights: a `.safetensors` file, see `wardround.models.weights.load_weights`.
        width: channels of the first level, for the networks whose builder has a width.
        backbone: encoder of `features` in place of the histograms. Of a user's own one `weights` is its file; a
            network of the catalogue may be filled later.
        head: of `features`: "ordinal" is for grades in an order.
        standardise_weights: of every convolution before the head, see `wardround.models.standardised`.

    Raises:
        ModelError: an unknown name, pictures of a size that the network cannot read, weights that do not fit, or an
            encoder's file of another hash.
        MissingExtra: the network is MONAI's, which is not installed; or the backbone's weights are not installed.
    """
    builder, form = described(
        name, size=tuple(size), channels=channels, num_classes=num_classes, width=width, backbone=backbone,
        weights=weights, head=head,
    )  # fmt: skip
    if standardise_weights:
        builder = _standardising(builder)
    if train not in get_args(Stage):
        raise ModelError(
            f"train must be one of {', '.join(get_args(Stage))}, got {train!r}. Choose what is trained."
        )
    names = layout_of(builder, form)
    of_head = frozenset(key for key, _ in cut(names, builder.head)[1].named_parameters())
    body = initialised(
        lambda: builder.body(form),
        init_generator,
        zero=of_head if builder.starts_at_zero else frozenset(),
        linear_deviation=builder.linear_deviation,
    )
    absent = frozenset(key for key in body.state_dict() if builder.absent and key.startswith(builder.absent))
    parts = Parts(builder.encoder(form), body, builder.head, builder.encode_once)
    if isinstance(backbone, OwnEncoder):
        if weights is not None and backbone.architecture is not None:
            found = load_weights(
                cut(body, builder.head)[0].get_submodule("encoder.layers"), weights, head=frozenset()
            )
            check_hash(weights, found, backbone.sha256)
        return staged(name, parts, "head")
    sha256 = None if weights is None else load_weights(body, weights, head=of_head, absent=absent)
    if train == "lora":
        add_adapters(body, cut(body, builder.head)[1], init_generator)
    return staged(name, parts, train, segments=builder.segments, weights_sha256=sha256)


def layout_of(builder: Builder, form: Form) -> nn.Sequential:
    """Returns the layers of a network, without values and without memory."""
    return unfilled(lambda: builder.body(form))


def described(
    name: str,
    *,
    size: tuple[int, ...],
    channels: int,
    num_classes: int,
    width: int | None,
    backbone: Backbone | OwnEncoder | None,
    weights: Path | None,
    head: HeadName,
) -> tuple[Builder, Form]:
    """Returns the making of a network by name, and its form; arguments and errors are those of `build`."""
    if name not in NETWORKS:
        nearest = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.0)[0]
        raise ModelError(
            f"network must be one of {', '.join(NETWORKS)}, got {name!r}. The nearest known one is {nearest!r}."
        )
    given = "encoder" if backbone is not None else "head" if head == "ordinal" else ""
    if given and name != "features":
        raise ModelError(f"`[model] {given}` is for the network features, got {name}; leave it out.")
    match backbone:
        case None:
            builder = NETWORKS[name]
        case Backbone():
            builder = _with_backbone(backbone)
        case OwnEncoder():
            builder = _with_own(backbone, weights)
        case _:
            assert_never(backbone)
    form = Form(size, channels, num_classes, _width(name, builder, width), head == "ordinal")
    _check(name, builder, form)
    return builder, form


def _standardising(builder: Builder) -> Builder:
    def body(form: Form) -> nn.Sequential:
        found = builder.body(form)
        return with_standardised_weights(found, cut(found, builder.head)[1])

    return replace(builder, body=body)


def _with_backbone(backbone: Backbone) -> Builder:
    """Returns the builder of a linear head on a backbone's rows, which end in a constant feature, the bias."""

    def head(form: Form) -> nn.Sequential:
        return _with_head(num_backbone_features(backbone), form)

    return Builder(head, "classifier", encoder=lambda form: BackboneRows(backbone, form), encode_once=True)


def _with_own(own: OwnEncoder, path: Path | None) -> Builder:
    """Returns the builder of a linear head on the rows of a user's encoder."""
    if own.architecture is None:
        if path is None:
            raise ModelError(
                "The file of the ONNX encoder must be given, and is not; name it.", code="model-encoder-hash"
            )

        def graph(form: Form) -> OnnxRows:
            return OnnxRows(path, own, form)

        def head(form: Form) -> nn.Sequential:
            return _with_head(graph(form).num_features, form)

        return Builder(head, "classifier", encoder=graph, encode_once=True)
    inner = NETWORKS[own.architecture]

    def layers(form: Form) -> nn.Sequential:
        form = replace(form, width=_width(own.architecture or "", inner, None))
        _check(own.architecture or "", inner, form)
        kept, length = body_of_catalogue(cut(inner.body(form), inner.head)[0], inner.encoder(form), form)
        return _with_head(length, form, encoder=kept)

    return Builder(layers, "classifier", encoder=inner.encoder, encode_once=True)


def _width(name: str, builder: Builder, width: int | None) -> int:
    if width is not None and builder.width is None:
        chosen = ", ".join(key for key, other in NETWORKS.items() if other.width is not None)
        raise ModelError(f"width can be chosen for {chosen}, got {width} for {name}; leave it out.")
    if width is not None and width < 1:
        raise ModelError(f"width must be at least 1 channel, got {width}; {builder.width} is usual for {name}.")
    return builder.width or 0 if width is None else width


def _check(name: str, builder: Builder, form: Form) -> None:
    shown = " x ".join(map(str, form.size))
    if form.dimensions not in builder.dimensions:
        what = {2: "pictures (two sizes)", 3: "volumes (three sizes)"}
        fit = [key for key, other in NETWORKS.items() if form.dimensions in other.dimensions]
        reads = " or ".join(what[d] for d in sorted(builder.dimensions))
        raise ModelError(
            f"{name} reads {reads}, got the size {shown or 'none'}; "
            f"{'choose one of ' + ', '.join(fit) if fit else 'give two sizes or three'}."
        )
    if min(form.size) < builder.smallest:
        raise ModelError(
            f"image_size must be at least {builder.smallest} pixels for {name}, got {shown}. "
            "Raise it, or choose another network."
        )
    if any(side % builder.divisor for side in form.size):
        fitting = " x ".join(str(side + -side % builder.divisor) for side in form.size)
        raise ModelError(
            f"Every size must be a multiple of {builder.divisor} for {name}, got {shown}; "
            f"pad or resize to {fitting}."
        )
    if builder.square and len(set(form.size)) > 1:
        raise ModelError(f"Pictures must be square for {name}, got {shown}; make both sizes the same.")
    if form.channels < 1:
        raise ModelError(f"channels must be at least 1, got {form.channels}; 1 is grey, 3 is colour.")
    if form.num_classes < 2:
        raise ModelError(
            f"num_classes must be at least 2, got {form.num_classes}. Name every class, also the healthy one."
        )
