"""U-Net with the encoder of VGG-11, as in deepee's liver segmentation, with group norms.

Architecture: `Unet("vgg11_bn")` of segmentation_models_pytorch,
https://github.com/qubvel-org/segmentation_models.pytorch: the convolutions of VGG-11 with their five poolings, two
convolutions at the bottom, then five times a doubling by nearest neighbours, the encoder's map beside it and two
convolutions (256, 128, 64, 32 and 16 channels; the last without a map beside it), and a 3x3 convolution to the
classes. With 3 channels and one output it has 18,259,537 parameters, as there: a group norm has the scale and
offset of a batch norm.

The encoder's names are those of `vgg11_gn` (`features.N`), so a file with that network's weights starts it.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from wardround.models.network import Form
from wardround.models.networks.vgg import VGG11, convolutions
from wardround.models.norms import group_norm

_BESIDE = (512, 512, 256, 128, 0)
_WIDTHS = (256, 128, 64, 32, 16)


class VggMaps(nn.Sequential):
    """The convolutional layers of a VGG, with its maps."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (picture, channel, height, width) to the maps before each pooling and the last one after."""
        maps = []
        for layer in self:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]


class TwoConvolutions(nn.Sequential):
    """Two convolutions of 3x3, each with a group norm and a ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for before in (channels, width):
            convolution = nn.Conv2d(before, width, kernel_size=3, padding=1, bias=False)
            layers += [convolution, group_norm(width), nn.ReLU()]
        super().__init__(*layers)


class Decoder(nn.Module):
    """The way up."""

    def __init__(self) -> None:
        super().__init__()
        self.center = TwoConvolutions(512, 512)
        below = (512, *_WIDTHS[:-1])
        self.blocks = nn.ModuleList(
            TwoConvolutions(under + beside, width)
            for under, beside, width in zip(below, _BESIDE, _WIDTHS, strict=True)
        )

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps the encoder's maps, finest first, to (picture, 16, height, width)."""
        x: torch.Tensor = self.center(maps[-1])
        # The map of full resolution is not used.
        for block, beside in zip(self.blocks, [*reversed(maps[1:-1]), None], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x if beside is None else torch.cat([x, beside], dim=1))
        return x


def unet_vgg11(form: Form) -> nn.Sequential:
    """Returns `features` with the zoo's numbering, `decoder` and a `classifier` of each pixel."""
    return nn.Sequential(
        OrderedDict(
            features=VggMaps(*convolutions(form.channels, VGG11, normalised=True)),
            decoder=Decoder(),
            classifier=nn.Conv2d(_WIDTHS[-1], form.num_classes, kernel_size=3, padding=1),
        )
    )
