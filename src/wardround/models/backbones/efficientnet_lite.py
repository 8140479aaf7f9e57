"""EfficientNet-Lite0 without its classifier, every batch norm folded into the convolution before it.

Tan and Le 2019, https://arxiv.org/abs/1905.11946, table 1, with the changes of the Lite variant (tensorflow/tpu,
`efficientnet/lite`): no squeeze-and-excitation, ReLU6 in place of swish. A folded batch norm is an affine map with
constants, so no statistic of a batch is left, and a picture's activations follow from this picture alone.

Padding is that of TensorFlow ("SAME"): a convolution of stride 2 pads the even side of a map by one pixel less before
it than after it.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32
HEAD = 1280
EXPANSION = 6
BATCH_NORM_FLOOR = 1e-3
GRID = 4
"""Cells along one side in which the two inner stages are averaged."""


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table: `blocks` inverted residual blocks, the first of them with the stride."""

    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    Stage(3, 1, 16, 1), Stage(3, 2, 24, 2), Stage(5, 2, 40, 2), Stage(3, 2, 80, 3),
    Stage(5, 1, 112, 3), Stage(5, 2, 192, 4), Stage(3, 1, 320, 1),
)  # fmt: skip
EARLY, MIDDLE, LAST = 2, 4, 6
"""Positions of the stages whose outputs are features: 40 channels of 28 x 28, 112 of 14 x 14, and 320 of 7 x 7."""

SIZES = (STAGES[EARLY].channels * GRID**2, STAGES[MIDDLE].channels * GRID**2, STAGES[LAST].channels, HEAD)
"""Numbers of the four blocks of features: 640, 1,792, 320 and 1,280."""


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding, and ReLU6 after it if `active`."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)
        self.before = (kernel - stride) // 2 if stride > 1 else 0
        self.after = kernel - stride - self.before if stride > 1 else 0
        self.active = active

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (picture, inputs, height, width) to (picture, outputs, height / stride, width / stride)."""
        if self.after:
            maps = F.pad(maps, (self.before, self.after, self.before, self.after))
        maps = super().forward(maps)
        return maps.clamp_(0, 6) if self.active else maps


class Block(nn.Module):
    """An inverted residual block: 1 x 1 convolution to more channels, one a channel, 1 x 1 to few, and the input.

    The input is added where the block keeps size and channels.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = Convolution(wide, outputs, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (picture, inputs, height, width) to (picture, outputs, height / stride, width / stride)."""
        found: Tensor = self.project(self.depthwise(self.expand(maps)))
        return found.add_(maps) if self.adds else found


class EfficientNetLite0(nn.Module):
    """The folded network up to its pooled activations; 3,350,000 parameters, none of which is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        inputs = STEM
        for number, stage in enumerate(STAGES):
            blocks = nn.Sequential()
            for position in range(stage.blocks):
                stride, expansion = stage.stride if position == 0 else 1, EXPANSION if number else 1
                blocks.append(
                    Block(inputs, stage.channels, kernel=stage.kernel, stride=stride, expansion=expansion)
                )
                inputs = stage.channels
            self.stages.append(blocks)
        self.head = Convolution(inputs, HEAD)

    def forward(self, values: Tensor, blocks: int = len(SIZES)) -> tuple[Tensor, ...]:
        """Maps values (picture, 3, 224, 224), (pixel - 127) / 128, to the first blocks of features.

        Returns:
            Of the 40-channel stage its means over 4 x 4 cells, (picture, 640); of the 112-channel stage its means over
            4 x 4 overlapping windows of 5 x 5, (picture, 1792); and, with `blocks` = 4, the means of the 320-channel
            stage, (picture, 320), and of the head after ReLU6, (picture, 1280). Channels are the slowest index.
        """
        found = []
        maps = self.stem(values)
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number == EARLY:
                found.append(F.avg_pool2d(maps, 7).flatten(1))
            elif number == MIDDLE:
                found.append(F.avg_pool2d(maps, 5, stride=3).flatten(1))
                if blocks == len(found):
                    return tuple(found)
        found.append(maps.mean(dim=(2, 3)))
        found.append(self.head(maps).mean(dim=(2, 3)))
        return tuple(found)


def folded(weights: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weights and bias, float32, of a convolution without bias followed by a batch norm in evaluation mode.

    norm(w * x) = (w * x - mean) scale / sqrt(variance + 0.001) + shift, in double precision by NumPy, one rounded
    operation at a time, so every machine gets the same bits.
    """
    w, g, b, m, v = (
        np.asarray(part.numpy(), dtype=np.float64) for part in (weights, scale, shift, mean, variance)
    )
    gain = g / np.sqrt(v + BATCH_NORM_FLOOR)
    return (
        torch.from_numpy((w * gain[:, None, None, None]).astype(np.float32, order="C")),
        torch.from_numpy((b - m * gain).astype(np.float32)),
    )
