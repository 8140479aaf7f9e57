"""Fixed public features of every pixel or voxel, and the small network that is trained on them.

Private noise grows with the square root of the number of
parameters, and a U-Net spends hundreds of thousands of them on learning blurs and edges that can be written down
(Tramèr and Boneh 2021, https://arxiv.org/abs/2011.11660). The filters are Gaussians and their derivatives at
public widths (the local jet, Koenderink and van Doorn 1987, https://doi.org/10.1007/BF00318371), looks to either
side, and the place in the picture. Trained are a hidden layer and the classes, the same at every voxel: some 700
parameters for a grey volume with two regions.

Every filter is one matrix along each axis, (out, in), so that pictures and volumes, and all channels, go the same
way, and a row can end at the border: its weights are brought back to sum to one. Widths and distances are in
pixels or voxels: studies of volumes state their spacing. The gains bring every feature to about unit size; they are
round numbers, agreed and not measured.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from wardround.models.network import FULL_SCALE, Constants, Encoder, Form, Standardise
from wardround.models.networks.unet import pointwise

WIDTHS = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the Gaussians, in pixels or voxels, each the double of the one before."""

SLOPED = (1.0, 2.0, 4.0)
"""Widths at which first derivatives are taken."""

CURVED = (2.0,)
"""Widths at which second derivatives are taken."""

AFAR = ((2.0, 5.0), (4.0, 10.0))
"""Width and distance of the Gaussians that look to either side along each axis."""

SMOOTHED = 0.8
"""Standard deviation of the Gaussian over class probabilities, in pixels or voxels."""

_LEAST = 1e-12
_BAND_GAINS = (1.0, 2.0, 2.0, 2.0, 2.0)
_DERIVATIVE_GAIN = 3.0
_STEEPNESS_OFFSET = 0.5


class VoxelFeatures(Encoder):
    """The features of each pixel or voxel.

    Of each channel, standardised by the picture's own mean and deviation, in this order: the five bands between the
    widths, finest first; for each width of `SLOPED`, the slope along each axis and their length; for each width of
    `CURVED`, the curvature along each axis; for each of `AFAR`, the look back and the look ahead along each axis.
    All channels of one kind of filter stand together. Last, once for all channels, the place: each axis from -1 to
    1, its square, and the products of two axes.

    With `boxed`, mean and deviation are those of the content, the voxels above 0, and the place is that in the box
    around the content: -1 and 1 are its borders, and nothing lies beyond 1.5. Volumes that were padded to one size then
    have places that fit each other. A picture without content has the whole grid as its box.

    It has no parameter and no buffer, and looks at one picture at a time. A constant picture has its place, and a
    constant for the length of its slopes; the rest is zero.
    """

    def __init__(self, *, boxed: bool = False) -> None:
        super().__init__()
        self.boxed = boxed
        self.standardise = StandardiseContent() if boxed else Standardise(each_channel=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, *space), uint8, to (picture, feature, *space), float32."""
        values = self.standardise(pictures)
        features = [*_bands(values)]
        for width in SLOPED:
            slopes = [_DERIVATIVE_GAIN * part for part in _along_one_axis_each(values, width, order=1)]
            length = torch.stack([slope * slope for slope in slopes]).sum(dim=0).sqrt()
            features += [*slopes, length - _STEEPNESS_OFFSET]
        for width in CURVED:
            features += [_DERIVATIVE_GAIN * part for part in _along_one_axis_each(values, width, order=2)]
        for width, distance in AFAR:
            for sign in (-1, 1):
                features += _along_one_axis_each(values, width, shift=sign * distance)
        places = _places(_in_box(pictures) if self.boxed else _in_grid(values))
        features.append(places.expand(values.shape[0], *[-1] * (values.ndim - 1)))  # a shape can be exported
        return torch.cat(features, dim=1)

    def constants(self) -> Constants:
        """Returns the normalisation before the filters, and the blur after the scores (`Smoothing`); by name.

        Widths and gains of the filters are the network's own. A model saved without the blur is refused by its card.
        """
        blur: Constants = (
            {"kind": "boxed-voxel-features", "smoothed": SMOOTHED} if self.boxed else {"kind": "voxel-features"}
        )
        return self.standardise.constants() | blur


class StandardiseContent(Standardise):
    """Each channel minus the mean of its content, divided by the deviation of its content; 0 outside.

    The content is all above 0: what a volume is padded with says nothing about it.
    """

    def __init__(self) -> None:
        super().__init__(each_channel=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures (picture, channel, *space), uint8, to the same shape in float32."""
        values = pictures.to(torch.float32) / FULL_SCALE
        inside = (pictures > 0).to(torch.float32)
        axes = tuple(range(2, values.ndim))
        count = inside.sum(dim=axes, keepdim=True).clamp(min=1.0)
        centred = (values - values.sum(dim=axes, keepdim=True) / count) * inside  # values are 0 outside
        variance = (centred * centred).sum(dim=axes, keepdim=True) / count
        return centred / torch.sqrt(variance + self.FLOOR**2)


class Smoothing(nn.Module):
    """The class scores of each pixel or voxel, in evaluation mode with the probabilities of its neighbours in them.

    Scores (picture, class, *space) become the logarithms of probabilities blurred by `SMOOTHED`, 1e-12 at least: organs
    have smooth borders, and errors from voxel to voxel do not. It costs no privacy. In training scores are returned as
    they are: a voxel is trained on by itself.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Maps scores to scores, (picture, class, *space)."""
        if self.training:
            return scores
        blur = [gaussian(side, SMOOTHED) for side in scores.shape[2:]]
        return _filtered(scores.softmax(dim=1), blur).clamp_min(_LEAST).log()


def num_features(dimensions: int, channels: int) -> int:
    """Returns the number of features of one pixel or voxel.

    >>> num_features(3, 1), num_features(2, 1)
    (41, 29)
    """
    filters = len(WIDTHS) + 1 + len(SLOPED) * (dimensions + 1) + (len(CURVED) + 2 * len(AFAR)) * dimensions
    return filters * channels + 2 * dimensions + dimensions * (dimensions - 1) // 2


def voxel_features(form: Form) -> nn.Sequential:
    """Returns a `hidden` layer and a `classifier` of each pixel or voxel; inputs are (picture, feature, *space)."""
    return nn.Sequential(_layers(form))


def boxed_voxel_features(form: Form) -> nn.Sequential:
    """Returns the layers of `voxel_features`, and the `smoothing` of their answers."""
    return nn.Sequential(OrderedDict(_layers(form), smoothing=Smoothing()))


def _layers(form: Form) -> OrderedDict[str, nn.Module]:
    space = form.dimensions
    hidden = pointwise(space, num_features(space, form.channels), form.width)
    classifier = pointwise(space, form.width, form.num_classes)
    return OrderedDict(hidden=hidden, activation=nn.ReLU(), classifier=classifier)


def gaussian(side: int, width: float, *, order: int = 0, shift: float = 0.0) -> Tensor:
    """Returns a Gaussian filter along one axis as a matrix, (out, in); width (standard deviation) and shift in pixels.

    Order 0 blurs, and every row sums to one. Orders 1 and 2 are the first and second derivative, times width and
    width**2 so that all widths give numbers of one size; every row sums to zero, at the borders too. A row's centre is
    shifted from its own place; outside, the nearest place answers.
    """
    place = torch.arange(side, dtype=torch.float32)
    distance = (place[None, :] - place[:, None] - shift) / width
    # A softmax, because far outside every weight would vanish in single precision.
    weights = torch.softmax(-0.5 * distance.square(), dim=1)
    if order == 0:
        return weights
    moment = distance**order
    return weights * (moment - (weights * moment).sum(dim=1, keepdim=True))


def _filtered(values: Tensor, filters: list[Tensor]) -> Tensor:
    """Returns values (picture, channel, *space) after one matrix along each axis of space."""
    for axis, matrix in enumerate(filters, start=2):
        values = (values.transpose(axis, -1) @ matrix.to(values.device).T).transpose(axis, -1)
    return values


def _bands(values: Tensor) -> list[Tensor]:
    """Returns the band that each width removes and the one before it left, and what the last width leaves."""
    blurred = [_filtered(values, [gaussian(side, width) for side in values.shape[2:]]) for width in WIDTHS]
    bands = [finer - coarser for finer, coarser in zip([values, *blurred], blurred, strict=False)]
    return [gain * band for gain, band in zip(_BAND_GAINS, [*bands, blurred[-1]], strict=True)]


def _along_one_axis_each(values: Tensor, width: float, *, order: int = 0, shift: float = 0.0) -> list[Tensor]:
    """Returns for each axis the values blurred along all, and derived or shifted along this one."""
    plain = [gaussian(side, width) for side in values.shape[2:]]
    special = [gaussian(side, width, order=order, shift=shift) for side in values.shape[2:]]
    return [_filtered(values, [*plain[:axis], special[axis], *plain[axis + 1 :]]) for axis in range(len(plain))]


def _in_grid(values: Tensor) -> list[Tensor]:
    """Returns the centres' coordinates along each axis, between the borders -1 and 1, (1, *space)."""
    sides = values.shape[2:]
    axes = [(2 * torch.arange(side, device=values.device) + 1) / side - 1 for side in sides]
    return [place[None] for place in torch.meshgrid(*axes, indexing="ij")]


def _in_box(pictures: Tensor) -> list[Tensor]:
    """Returns the centres' coordinates along each axis, between the borders -1 and 1 of the content, (picture, *space).

    A place is at most 1.5 from the middle: padding is all alike.
    """
    content = (pictures > 0).to(torch.float32).amax(dim=1)
    space = content.shape[1:]
    found = []
    for axis, side in enumerate(space, start=1):
        others = [other for other in range(1, content.ndim) if other != axis]
        has = content.amax(dim=others) > 0
        index = torch.arange(side, device=pictures.device)
        first = torch.where(has, index, side).amin(dim=1, keepdim=True)
        end = torch.where(has, index + 1, 0).amax(dim=1, keepdim=True)
        first, end = torch.where(end > first, first, 0), torch.where(end > first, end, side)
        place = ((2 * index + 1 - first - end) / (end - first)).clamp(-1.5, 1.5)
        shape = [1] * content.ndim
        shape[0], shape[axis] = -1, side
        found.append(place.view(shape).expand(-1, *space))
    return found


def _places(grid: list[Tensor]) -> Tensor:
    """Returns coordinates, (picture, *space) for each axis, their squares and products, (picture, place, *space)."""
    squares = [2 * (place * place - 1 / 3) for place in grid]
    products = [2 * grid[a] * grid[b] for a in range(len(grid)) for b in range(a + 1, len(grid))]
    return torch.stack([*grid, *squares, *products], dim=1)
