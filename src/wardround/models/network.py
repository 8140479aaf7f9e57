"""The value of every network: a fixed public encoding of one picture, and the part that is trained.

The encoding is public: it depends on nothing but the one picture it is given, so it costs no privacy and may be
computed once and kept. A patient could be found in the trained part, and only its parameters are clipped, noised and
sent.

Pictures are uint8, (picture, channel, *space), already of the study's size; space is (height, width), or (x, y, z)
for volumes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Stage = Literal["all", "last-block", "norms", "lora", "biases", "head"]
"""The trained parameters: everything; or the head with every norm and the last block before the head, with every norm,
with every norm and low-rank adapters, with every bias, or alone."""

HeadName = Literal["softmax", "ordinal"]
"""The last layers of `features`: a score a class, or `wardround.models.networks.ordinal`."""

PUBLIC_MEAN = 0.5
PUBLIC_STD = 0.25
"""Normalisation constants. They are agreed, not measured: measuring them would be a release of its own."""


Constants = dict[str, str | float | bool]
"""A normalisation as JSON holds it: `kind`, and the public numbers it subtracts and divides by."""

FULL_SCALE = 255.0
"""The brightest value of a picture."""

MOST_GROUPS = 32
"""Wu and He 2018, https://arxiv.org/abs/1803.08494, section 3.2."""

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm, nn.modules.batchnorm._BatchNorm)
"""Layers whose scale and offset are trained by `train="norms"`."""


@dataclass(frozen=True)
class Form:
    """The shape of a network's pictures and of its answer, from which its layers are sized.

    Attributes:
        size: of the space: (height, width) of a picture in pixels, or (x, y, z) of a volume in voxels.
        channels: 1 for grey, 3 for colour, 4 for four sequences of one examination.
        num_classes: number of logits, for each picture or for each of its pixels.
        width: channels of the first level, for the networks whose width can be chosen; 0 for the others.
        is_ordinal: the head is one for grades in an order, of the network `features`.
    """

    size: tuple[int, ...]
    channels: int
    num_classes: int
    width: int = 0
    is_ordinal: bool = False

    @property
    def dimensions(self) -> int:
        """Number of axes: 2 for pictures, 3 for volumes."""
        return len(self.size)


class Encoder(nn.Module, ABC):
    """A fixed public encoding: pictures, uint8, to float inputs, each from its own picture alone."""

    @abstractmethod
    def constants(self) -> Constants:
        """Returns the numbers that the encoding normalises by, for the model card."""


class Normalise(Encoder):
    """Pictures as floats: (picture / 255 - mean) / std, with public constants."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, *space), uint8, to the same shape in float32."""
        return (pictures.to(torch.float32) / FULL_SCALE - PUBLIC_MEAN) / PUBLIC_STD

    def constants(self) -> Constants:
        """See `Encoder`."""
        return {"kind": "fixed", "full_scale": FULL_SCALE, "mean": PUBLIC_MEAN, "std": PUBLIC_STD}


class Standardise(Encoder):
    """Each picture minus its own mean, divided by its own standard deviation.

    Brightness and contrast of a radiograph say more about the machine than about the lung, and as a
    shortcut they predict the label; this removes both, from each picture alone. A constant picture
    becomes zero: `FLOOR` is added in quadrature to the deviation. `each_channel` takes every channel by itself, for
    measurements of different kinds (the sequences of a magnetic resonance examination).
    """

    FLOOR = 0.01
    """In units of full brightness."""

    def __init__(self, *, each_channel: bool = False) -> None:
        super().__init__()
        self.each_channel = each_channel

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, *space), uint8, to the same shape in float32."""
        values = pictures.to(torch.float32) / FULL_SCALE
        axes = tuple(range(2 if self.each_channel else 1, values.ndim))
        centred = values - values.mean(dim=axes, keepdim=True)
        variance = (centred * centred).mean(dim=axes, keepdim=True)
        return centred / torch.sqrt(variance + self.FLOOR**2)

    def constants(self) -> Constants:
        """See `Encoder`."""
        own: Constants = {"kind": "own-deviation", "full_scale": FULL_SCALE, "floor": self.FLOOR}
        return own | {"each_channel": self.each_channel}


class Frozen(nn.Module):
    """A module whose parameters stay as they are, in evaluation mode whatever the modules around it do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in evaluation mode: a frozen backbone has no dropout."""
        return super().train(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the output of the inner module, without a gradient."""
        with torch.no_grad():
            outputs: Tensor = self.inner(inputs)
        return outputs


@dataclass(frozen=True)
class Parts:
    """All layers of a network and the encoding before them: what it is cut from.

    Attributes:
        encoder: the fixed encoding without any layer of the body.
        body: all layers in the order in which they run; a network shares its parameters.
        head: dotted name of the first layer of the head; all after it belong to the head.
        encode_once: the encoding is worth keeping even when the whole body is trained.
    """

    encoder: Encoder
    body: nn.Sequential
    head: str
    encode_once: bool


@dataclass(frozen=True)
class Network:
    """A named network, cut where private training begins.

    Attributes:
        encode: fixed and public: pictures (picture, channel, *space), uint8, to float inputs
            (picture, ...). No trained parameter, and no picture's inputs depend on another picture.
        trained: inputs to logits: (picture, class), or (picture, class, *space) if it segments. Those of its
            parameters that require a gradient are the model that hospitals train.
        encode_once: the inputs are small enough, and dear enough, to be computed once and kept.
        weights_sha256: of a user's file that it starts from; None for a network that starts from its initialisation.
        parts: what it was cut from; None for a network that was not made by `build`.
    """

    name: str
    encode: nn.Module
    trained: nn.Module
    encode_once: bool
    weights_sha256: str | None = None
    segments: bool = False
    stage: Stage = "all"
    parts: Parts | None = field(default=None, repr=False, compare=False)

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters, which is the length of an update."""
        return sum(parameter.numel() for parameter in self.trained.parameters() if parameter.requires_grad)

    def whole(self) -> nn.Module:
        """Returns one module from uint8 pictures to logits; it shares its parameters with this network."""
        return nn.Sequential(self.encode, self.trained)


def group_norm(channels: int) -> nn.GroupNorm:
    """Returns a group norm with the largest number of groups, up to 32, that divides the channels.

    >>> group_norm(64).num_groups, group_norm(48).num_groups, group_norm(7).num_groups
    (32, 24, 7)
    """
    groups = max(g for g in range(1, min(MOST_GROUPS, channels) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def activation_bytes(trained: nn.Module, inputs: Tensor) -> int:
    """Returns the bytes that the backward pass of some pictures finds kept, parameters aside."""
    own, kept = {each.untyped_storage().data_ptr() for each in trained.parameters()}, dict[int, int]()

    def seen(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        found = trained(inputs)
    del found  # until here the graph holds what was kept, so that no place is used twice
    return sum(kept.values())
