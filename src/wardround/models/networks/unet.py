"""U-Nets with transposed convolutions, for pictures and for volumes, from MONAI's blocks.

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, with the blocks of nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z): two convolutions a level, instance norm, LeakyReLU, strided
convolutions down and transposed convolutions up. Under private training every parameter is noised, so the width
(channels of the first level; each level below has twice as many) is a public number of the study, and the slopes
are not trained.

MONAI's own `DynUNet` is made of the same blocks; its nested skip layers name every parameter twice, which a strict
weights file could not express, so the levels are joined here. Names: `encoder.LEVEL.conv1.conv.weight`,
`decoder.LEVEL.transp_conv.conv.weight` (from the lowest level up), `classifier`.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from wardround.models.network import Form
from wardround.models.networks.of_monai import optional

_NORM = ("instance", {"affine": True})
_ACTIVATION = ("leakyrelu", {"inplace": False, "negative_slope": 0.01})


class Encoder(nn.ModuleList):
    """The way down."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (picture, channel, *space) to the maps of all levels, finest first."""
        maps = []
        for block in self:
            x = block(x)
            maps.append(x)
        return maps


class Decoder(nn.ModuleList):
    """The way up: each block takes the map from below and the one from its own level."""

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Joins the maps of all levels, finest first, to (picture, width, *space)."""
        x = maps[-1]
        for block, beside in zip(self, reversed(maps[:-1]), strict=True):
            x = block(x, beside)
        return x


def unet(form: Form, depth: int) -> nn.Sequential:
    """Returns `encoder`, `decoder` and a `classifier` of each pixel, with depth + 1 levels.

    Sizes must be divisible by 2 ** depth, the number of transposed convolutions.
    """
    blocks = optional("monai.networks.blocks.dynunet_block")
    widths = [form.width * 2**level for level in range(depth + 1)]
    space = form.dimensions

    down = [
        blocks.UnetBasicBlock(space, before, width, 3, 1 if level == 0 else 2, _NORM, _ACTIVATION)
        for level, (before, width) in enumerate(pairwise([form.channels, *widths]))
    ]
    up = [
        blocks.UnetUpBlock(space, below, width, 3, 1, 2, _NORM, _ACTIVATION)
        for below, width in pairwise(reversed(widths))
    ]
    classifier = pointwise(space, form.width, form.num_classes)
    return nn.Sequential(OrderedDict(encoder=Encoder(down), decoder=Decoder(up), classifier=classifier))


def pointwise(dimensions: int, channels: int, num_classes: int) -> nn.Module:
    """Returns one linear layer, applied at every pixel or voxel."""
    return (nn.Conv2d if dimensions == 2 else nn.Conv3d)(channels, num_classes, kernel_size=1)
