"""Pictures of a training step, each changed at random: turned, scaled, shifted, flipped, cut, lit anew, noised.

Every number is public, and nothing is measured on a data set. The affine part is one `grid_sample` for the batch:
MONAI's transforms take pictures one by one, at 3 ms for a small one against 0.1. The tests hold it against MONAI's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.errors import DataError
from wardround.training.augment import draws
from wardround.training.augment.axes import AXES, Axis, Padding
from wardround.training.augment.draws import Draws, draws_of
from wardround.training.augment.warp import cut, flipped, pull_matrix, warped

Ints = npt.NDArray[np.int64]

PUBLIC_GREY = 127.5
"""What contrast is turned about: the middle of 0..255, not the mean of anybody's picture."""

LIMITS = {"rotate": 180.0, "scale": 0.9, "shift": 1.0, "brightness": 1.0, "contrast": 1.0, "noise": 1.0}
"""How far each range may go. A picture scaled down by all of its size would be gone."""

_VALUES_AT_ONCE = 1 << 23
"""Single-precision values of pictures that are in memory at one time."""


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go; every draw is uniform within its range, and 0 changes nothing.

    Args:
        flip: axes along which half of the pictures are flipped; see `Axis` before naming a side.
        rotate: degrees, to either side; of a volume about each axis.
        scale: part by which things grow or shrink: 0.1 is 0.9 to 1.1 times as large.
        shift: part of each side.
        patch: side of the square or cube that is cut out at random; evaluation takes the `centre`. None keeps all.
        brightness: part of the range of values (0..255) that is added or taken.
        contrast: part by which the distance from `PUBLIC_GREY` grows or shrinks.
        noise: standard deviation of normal noise on every value, as a part of the range.
        padding: what is seen beyond the edge of a turned or shifted picture.
        spacing: mm between neighbours along each axis, so that turning a volume keeps its shapes; None says equal.
        multiplicity: views of each picture in one step; see `views`.

    Raises:
        DataError: a number out of its range.
    """

    flip: tuple[Axis, ...] = ()
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    patch: int | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    padding: Padding = Padding.BORDER
    spacing: tuple[float, ...] | None = None
    multiplicity: int = 1

    def __post_init__(self) -> None:
        """Raise `DataError` for a range that is none."""
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:  # refuses NaN as well
                raise DataError(f"{name} must lie between 0 and {limit:g}, got {value}. Choose 0 to leave it out.")
        if len(set(self.flip)) != len(self.flip):
            raise DataError(f"flip must name every axis once, got {', '.join(self.flip)}. Remove one.")
        for name, number in (("patch", self.patch), ("multiplicity", self.multiplicity)):
            if number is not None and number < 1:
                raise DataError(f"{name} must be a whole number >= 1, got {number}. Leave it out.")
        if self.spacing is not None and not all(0 < mm < math.inf for mm in self.spacing):
            raise DataError(f"spacing must be millimetres > 0, got {self.spacing}. Leave it out.")

    @property
    def is_affine(self) -> bool:
        """Whether pictures are read between their pixels."""
        return bool(self.rotate or self.scale or self.shift)

    @property
    def is_intensity(self) -> bool:
        """Whether values change where they stand."""
        return bool(self.brightness or self.contrast or self.noise)

    @property
    def is_identity(self) -> bool:
        """Whether every picture stays as it is, and is seen once."""
        return not (self.flip or self.patch or self.is_affine or self.is_intensity) and self.multiplicity == 1

    def __call__(
        self, pictures: Tensor, masks: Tensor | None, *, rows: Ints, seed: int, view: Ints | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The pictures of a training step, changed, and their masks moved alike.

        Args:
            pictures: uint8 (picture, channel, *space); not written to.
            masks: class of each pixel, uint8 (picture, *space), or None.
            rows: a number >= 0 for each picture that no other patient has a say in, such as its row in the cache.
            seed: of this step, 0 to 2^64 - 1.
            view: which view of its picture each one is (`Views.view`); None says the first of all.

        Returns:
            uint8 (picture, channel, *side) and (picture, *side), side being `patch` where there is one.

        Guarantee:
            A picture's result is a function of that picture, its mask, row and view, and of the seed: bit for bit
            the same whoever else is in the batch. So one patient more or less moves no other patient's gradient,
            and the sensitivity of a sum of clipped gradients stays what it is, for every seed.

        Edge cases:
            no pictures: none come back. The same row and view twice: the same change twice.
            A class of a mask is never mixed with another; where a picture shows padding, so does its mask.

        Raises:
            DataError: pictures that are too small for the patch, or an axis or spacing that they do not have.
        """
        space = tuple(pictures.shape[2:])
        self.check(space)
        views = np.zeros(len(rows), dtype=np.int64) if view is None else view
        drawn = [draws_of(seed, int(row), int(which)) for row, which in zip(rows, views, strict=True)]
        assert len(drawn) == len(pictures), "every picture has a row"
        values = None if masks is None else masks[:, None]
        size = self._size(space)
        at_once = max(1, _VALUES_AT_ONCE // max(1, pictures[:1].numel()))
        made, classes = [], []
        for start in range(0, len(drawn), at_once):
            part = slice(start, start + at_once)
            moved = self._moved(pictures[part], drawn[part], size, nearest=False)
            made.append(self._lit(moved, drawn[part]))
            if values is not None:
                classes.append(self._moved(values[part], drawn[part], size, nearest=True).to(torch.uint8)[:, 0])
        if not drawn:
            return self.centre(pictures, masks)
        return torch.cat(made), None if masks is None else torch.cat(classes)

    def centre(self, pictures: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What evaluation sees: the middle patch of every picture and mask, or all of it where there is no patch.

        Args:
            pictures: (picture, channel, *space).
            masks: (picture, *space), or None.
        """
        space = tuple(pictures.shape[2:])
        self.check(space)
        for axis, (has, wants) in enumerate(zip(space, self._size(space), strict=True)):
            pictures = pictures.narrow(2 + axis, (has - wants) // 2, wants)
            masks = None if masks is None else masks.narrow(1 + axis, (has - wants) // 2, wants)
        return pictures, masks

    def check(self, space: tuple[int, ...]) -> None:
        """Raise `DataError` unless pictures with these sides can be augmented so."""
        if len(space) not in AXES:
            raise DataError(f"pictures must have two or three axes of space, got the sides {space}.")
        unknown = [axis for axis in self.flip if axis not in AXES[len(space)]]
        if unknown:
            raise DataError(
                f"flip must name axes that the pictures have ({', '.join(AXES[len(space)])}), got "
                f"{', '.join(unknown)}. Correct it."
            )
        if self.patch is not None and self.patch > min(space):
            raise DataError(
                f"patch must be at most the shortest side of the pictures, {min(space)}, got {self.patch}. "
                "Make it smaller, or the pictures larger."
            )
        if self.spacing is not None and len(self.spacing) != len(space):
            raise DataError(f"spacing must have {len(space)} numbers, got {self.spacing}. Leave it out.")

    def _size(self, space: tuple[int, ...]) -> tuple[int, ...]:
        return space if self.patch is None else (self.patch,) * len(space)

    def _moved(self, values: Tensor, drawn: Sequence[Draws], size: tuple[int, ...], *, nearest: bool) -> Tensor:
        """Flipped, turned, scaled, shifted, cut: (picture, channel, *size), float32 where read between pixels."""
        space = tuple(values.shape[2:])
        num_axes = len(space)
        allowed = np.array([axis in self.flip for axis in AXES[num_axes]])
        values = flipped(values, np.stack([(one.uniform[draws.FLIP][:num_axes] < 0.5) & allowed for one in drawn]))
        free = np.array(space) - size + 1
        corners = np.stack([np.floor(one.uniform[draws.PATCH][:num_axes] * free) for one in drawn]).astype(
            np.int64
        )
        if not self.is_affine:
            return values if size == space else cut(values, corners, size)
        spacing = self.spacing or (1.0,) * num_axes
        matrices = np.stack(
            [
                pull_matrix(
                    [math.radians(angle) for angle in one.between(draws.ROTATE, self.rotate)],
                    1.0 + float(one.between(draws.SCALE, self.scale)),
                    spacing,
                )
                for one in drawn
            ]
        )
        shifts = np.stack([one.between(draws.SHIFT, self.shift)[:num_axes] * space for one in drawn])
        return warped(values, matrices, shifts, corners, size, self.padding, nearest=nearest)

    def _lit(self, values: Tensor, drawn: Sequence[Draws]) -> Tensor:
        """Contrast, brightness and noise; then whole numbers, 0..255."""
        if not self.is_intensity:
            return values if values.dtype == torch.uint8 else values.round_().clamp_(0, 255).to(torch.uint8)
        values = values.to(torch.float32)
        gain = [1.0 + float(one.between(draws.CONTRAST, self.contrast)) for one in drawn]
        added = [255.0 * float(one.between(draws.BRIGHTNESS, self.brightness)) for one in drawn]
        for number, one in enumerate(drawn):
            picture = values[number]
            picture.mul_(gain[number]).add_(PUBLIC_GREY * (1.0 - gain[number]) + added[number])
            if self.noise:
                normal = one.rest.standard_normal(tuple(picture.shape), dtype=np.float32)
                picture.add_(torch.from_numpy(normal).to(picture.device), alpha=255.0 * self.noise)
        return values.round_().clamp_(0, 255).to(torch.uint8)
