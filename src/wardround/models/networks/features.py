"""Fixed public features: histograms of oriented gradients, and the rows that a private linear head is trained on.

With a few thousand patients a linear head on fixed features beats every convolutional network trained
privately from scratch (Tramèr and Boneh 2021, https://arxiv.org/abs/2011.11660): there is less to add noise
to, and nothing to learn that the noise would drown.

Everything here is a function of one picture, written in plain tensor operations so that it exports.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from wardround.models.network import Constants, Encoder

ORIENTATIONS = 9
BLOCK = 2
CELLS = 8
"""Cells along one side of a picture; a cell is `image_size // CELLS` pixels wide."""

BIAS = 0.3
"""Weight of the constant feature beside a row of norm one, before both are scaled to norm one together."""


class Hog(nn.Module):
    """Histograms of oriented gradients, the values of `skimage.feature.hog` with `block_norm="L2-Hys"`.

    Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177, section 6: central differences, the
    channel with the largest gradient at each pixel (the first of equals), unsigned orientations without
    interpolation, blocks of 2x2 cells normalised, clipped at 0.2 and normalised again.

    Args:
        cell: width of a cell in pixels; pixels beyond the last whole cell only enter as neighbours.
    """

    def __init__(self, cell: int) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Maps values 0..255, (picture, channel, height, width), to (picture, row, column, 2, 2, orientation)."""
        down, across, magnitude = _gradients(values)
        # Bin k holds the angles in [k, k + 1) * 180 / ORIENTATIONS degrees: those past its first edge
        # and not past the next one. Sums over cells are linear, so they are taken before the difference.
        past_edge = []
        for k in range(ORIENTATIONS):
            edge = math.pi * k / ORIENTATIONS
            is_past = math.cos(edge) * down - math.sin(edge) * across >= 0
            past_edge.append(magnitude * is_past.to(magnitude.dtype))
        summed = F.avg_pool2d(torch.cat(past_edge, dim=1), self.cell)
        cells = summed - F.pad(summed[:, 1:], (0, 0, 0, 0, 0, 1))
        return _normalised_blocks(cells.permute(0, 2, 3, 1))


class UnitRows(nn.Module):
    """Features to rows of norm one, each from its own picture alone, with a constant feature behind them."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features (picture, feature) or maps (picture, feature, *space) to rows (picture, feature + 1)."""
        means = features.flatten(2).mean(dim=2) if features.ndim > 2 else features
        centred = means - means.mean(dim=1, keepdim=True)
        directions = centred / torch.sqrt((centred * centred).sum(dim=1, keepdim=True) + 1e-12)
        rows = F.pad(directions, (0, 1), value=BIAS)
        return rows / torch.sqrt((rows * rows).sum(dim=1, keepdim=True))


class HogRows(Encoder):
    """Pictures to rows of norm one: the histograms of one picture minus their mean, and a constant.

    Histograms are positive, so all pictures share a large common part that would use up the norm; taking
    each row's own mean away removes most of it at no privacy cost. With rows of norm one the gradient of
    a two-class softmax starts at norm 0.71 and never exceeds 1.42. A clipping norm of 1 touches few patients;
    one of 0.25 levels those the model gets wrong, at a quarter of the noise.

    A picture without any gradient becomes the constant feature alone.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.hog, self._rows = Hog(image_size // CELLS), UnitRows()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Maps pictures (picture, channel, height, width), uint8, to rows (picture, feature), float32."""
        rows: torch.Tensor = self._rows(self.hog(pictures.to(torch.float32)).flatten(1))
        return rows

    def constants(self) -> Constants:
        """Returns what a row is normalised by: its own mean and norm."""
        return {"kind": "hog-rows", "cell": self.hog.cell, "bias": BIAS}


def num_features(image_size: int) -> int:
    """Returns the length of a row of `HogRows`, the constant included.

    >>> num_features(64)
    1765
    """
    blocks = image_size // (image_size // CELLS) - BLOCK + 1
    return blocks * blocks * BLOCK * BLOCK * ORIENTATIONS + 1


def _gradients(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the vertical and horizontal gradient and its magnitude, each (picture, 1, height, width).

    The gradient is that of the channel where it is largest, turned so that its angle lies in [0, 180) degrees.
    """
    down = F.pad(values[:, :, 2:] - values[:, :, :-2], (0, 0, 1, 1))
    across = F.pad(values[:, :, :, 2:] - values[:, :, :, :-2], (1, 1))
    squared = down * down + across * across
    if values.shape[1] > 1:
        # Whole numbers up to 2 * 255**2 are exact in float32, so that equal gradients compare as equal.
        strongest = squared.argmax(dim=1, keepdim=True)
        down, across, squared = (part.gather(1, strongest) for part in (down, across, squared))
    points_up = (down < 0) | ((down == 0) & (across < 0))
    sign = 1.0 - 2.0 * points_up.to(values.dtype)
    return down * sign, across * sign, torch.sqrt(squared)


def _normalised_blocks(cells: torch.Tensor) -> torch.Tensor:
    """Maps cells (picture, row, column, orientation) to blocks of 2x2 cells, "L2-Hys" normalised."""
    rows, columns = cells.shape[1] - BLOCK + 1, cells.shape[2] - BLOCK + 1
    parts = [cells[:, i : i + rows, j : j + columns] for i in range(BLOCK) for j in range(BLOCK)]
    stacked = torch.stack(parts, dim=3)
    blocks = stacked.reshape(*stacked.shape[:3], BLOCK, BLOCK, ORIENTATIONS)
    return _unit(_unit(blocks).clamp(max=0.2))


def _unit(blocks: torch.Tensor) -> torch.Tensor:
    return blocks / torch.sqrt((blocks * blocks).sum(dim=(3, 4, 5), keepdim=True) + 1e-10)
