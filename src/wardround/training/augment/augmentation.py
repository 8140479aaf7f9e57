"""Pictures of a training step, each changed at random: turned, scaled, shifted, flipped, cut, lit anew, noised.

Every number is public, and nothing is measured on a data set. The affine part is one `grid_sample` for the batch:
MONAI's transforms take pictures one by one, at 3 ms for a small one against 0.1. The tests hold it against MONAI's.

The random numbers of one view of one picture are a function of the seed, the picture's key and the view alone. A
picture's key follows from its patient's id, and not from its row in a cache, which shifts when another patient is
removed. The generator is Philox (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), which has no state to
share: its key is (seed, picture's key), and each view counts from a start of its own. No global generator is read or
moved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.errors import DataError
from wardround.training.augment.warp import cut, flipped, pull_matrix, warped

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
"""64 bits for each picture, (picture,)."""

PUBLIC_GREY = 127.5
"""The grey value that contrast is turned about: the middle of 0..255, not the mean of anybody's picture."""

LIMITS = {"rotate": 180.0, "scale": 0.9, "shift": 1.0, "brightness": 1.0, "contrast": 1.0, "noise": 1.0}
"""Largest size of each range. A picture scaled down by all of its size would be gone."""

# Each kind of change has its own places among a picture's uniforms, so that no option moves the draws of another.
FLIP, ROTATE, SHIFT, PATCH = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)
SCALE, BRIGHTNESS, CONTRAST = 12, 13, 14
_COUNT = 16

_VALUES_AT_ONCE = 1 << 23
"""Single-precision values of pictures that are in memory at one time."""


class Axis(StrEnum):
    """An axis of space that pictures may be flipped along.

    A flip says that sides do not matter. In a chest X-ray they do: the heart would be on the right. Along x a volume
    has left and right, along y back and front, along z feet and head.
    """

    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    X = "x"
    Y = "y"
    Z = "z"


AXES: dict[int, tuple[Axis, ...]] = {2: (Axis.VERTICAL, Axis.HORIZONTAL), 3: (Axis.X, Axis.Y, Axis.Z)}
"""The axes of space in the order of the array: (height, width) of a picture, (x, y, z) of a volume."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one picture: uniforms in [0, 1), (16,), and the generator past them, for noise."""

    uniform: Float64
    rest: np.random.Generator

    def between(self, place: int | slice, reach: float) -> Float64:
        """Returns uniform draws from [-reach, reach), at a place or some."""
        return np.asarray((2.0 * self.uniform[place] - 1.0) * reach)


def draws_of(seed: int, key: int, view: int = 0) -> Draws:
    """Returns the draws of one view (from 0) of one picture, from the step's seed, 0 to 2^64 - 1.

    The picture's key, 0 to 2^64 - 1, does not depend on other patients.

    Raises:
        DataError: a number out of range.
    """
    if not 0 <= seed < 1 << 64 or not 0 <= key < 1 << 64 or view < 0:
        raise DataError(f"seed, key and view must be whole numbers >= 0 of 64 bits, got {seed}, {key} and {view}.")
    both = np.array([seed, key], dtype=np.uint64)
    bits = np.random.Philox(key=both, counter=np.array([0, 0, 0, view], dtype=np.uint64))
    uniform = (bits.random_raw(_COUNT) >> np.uint64(11)) * 2.0**-53
    return Draws(np.asarray(uniform, dtype=np.float64), np.random.Generator(bits))


def views(num_pictures: int, multiplicity: int) -> tuple[Ints, Ints]:
    """Returns the picture and the number of each view, (view,): views of one picture, and of a patient, side by side.

    >>> views(2, 3)
    (array([0, 0, 0, 1, 1, 1]), array([0, 1, 2, 0, 1, 2]))
    """
    return np.repeat(np.arange(num_pictures), multiplicity), np.tile(np.arange(multiplicity), num_pictures)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the changes; every draw is uniform within its range, and 0 changes nothing.

    Args:
        flip: axes along which half of the pictures are flipped; see `Axis` before naming a side.
        rotate: degrees, to either side; of a volume about each axis.
        scale: part by which things grow or shrink: 0.1 is 0.9 to 1.1 times as large.
        shift: part of each side.
        patch: side of the square or cube that is cut out at random; evaluation takes the `centre`. None keeps all.
        brightness: part of the range of values (0..255) that is added or taken.
        contrast: part by which the distance from `PUBLIC_GREY` grows or shrinks.
        noise: standard deviation of normal noise on every value, as a part of the range.
        spacing: mm between neighbours along each axis, so that turning a volume keeps its shapes; None says equal.
        multiplicity: views of each picture in one step. Since every picture is seen equally often, a patient's mean
            over views is the mean over pictures of the mean over views, and one gradient a patient is clipped as
            before. Source: De et al. 2022, section 3.1 ("augmentation multiplicity"),
            https://arxiv.org/abs/2204.13650, with the patient in place of the picture.

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
    spacing: tuple[float, ...] | None = None
    multiplicity: int = 1

    def __post_init__(self) -> None:
        """Raises `DataError` for a range that is none."""
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
        """True if pictures are read between their pixels."""
        return bool(self.rotate or self.scale or self.shift)

    @property
    def is_intensity(self) -> bool:
        """True if values change in their places."""
        return bool(self.brightness or self.contrast or self.noise)

    @property
    def is_identity(self) -> bool:
        """True if every picture stays as it is, and is seen once."""
        return not (self.flip or self.patch or self.is_affine or self.is_intensity) and self.multiplicity == 1

    def __call__(
        self, pictures: Tensor, masks: Tensor | None, *, keys: Keys, seed: int, view: Ints | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the pictures of a training step, changed, and their masks moved alike.

        Args:
            pictures: uint8 (picture, channel, *space); not written to.
            masks: class of each pixel, uint8 (picture, *space), or None.
            keys: of each picture, (picture,); no other patient has a say in them
                (`wardround.training.patients.Drawn.keys`).
            seed: of this step, 0 to 2^64 - 1.
            view: number of each one's view of its picture; None says the first of all.

        Returns:
            uint8 (picture, channel, *side) and (picture, *side), side being `patch` where there is one.

        Guarantee:
            A picture's result is a function of that picture, its mask, key and view, and of the seed: bit for bit
            the same beside all possible others in the batch. So one patient more or less moves no other patient's
            gradient, and the sensitivity of a sum of clipped gradients stays what it is, for every seed.

        Edge cases:
            no pictures: none come back. The same key and view twice: the same change twice.
            A class of a mask is never mixed with another; where a picture shows padding, so does its mask.

        Raises:
            DataError: pictures that are too small for the patch, or an axis or spacing that they do not have.
        """
        space = tuple(pictures.shape[2:])
        self.check(space)
        views = np.zeros(len(keys), dtype=np.int64) if view is None else view
        drawn = [draws_of(seed, int(key), int(which)) for key, which in zip(keys, views, strict=True)]
        assert len(drawn) == len(pictures), "every picture has a key"
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
        """Returns the middle patch of every picture and mask, for evaluation, or all of it where there is no patch."""
        space = tuple(pictures.shape[2:])
        self.check(space)
        for axis, (has, wants) in enumerate(zip(space, self._size(space), strict=True)):
            pictures = pictures.narrow(2 + axis, (has - wants) // 2, wants)
            masks = None if masks is None else masks.narrow(1 + axis, (has - wants) // 2, wants)
        return pictures, masks

    def check(self, space: tuple[int, ...]) -> None:
        """Raises `DataError` unless pictures with these sides can be augmented so."""
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
        """Returns values flipped, turned, scaled, shifted, cut: (picture, channel, *size); affine ones in float32."""
        space = tuple(values.shape[2:])
        num_axes = len(space)
        allowed = np.array([axis in self.flip for axis in AXES[num_axes]])
        values = flipped(values, np.stack([(one.uniform[FLIP][:num_axes] < 0.5) & allowed for one in drawn]))
        free = np.array(space) - size + 1
        corners = np.stack([np.floor(one.uniform[PATCH][:num_axes] * free) for one in drawn]).astype(np.int64)
        if not self.is_affine:
            return values if size == space else cut(values, corners, size)
        spacing = self.spacing or (1.0,) * num_axes
        angles = [[math.radians(angle) for angle in one.between(ROTATE, self.rotate)] for one in drawn]
        zooms = [1.0 + float(one.between(SCALE, self.scale)) for one in drawn]
        matrices = np.stack([pull_matrix(*each, spacing) for each in zip(angles, zooms, strict=True)])
        shifts = np.stack([one.between(SHIFT, self.shift)[:num_axes] * space for one in drawn])
        return warped(values, matrices, shifts, corners, size, nearest=nearest)

    def _lit(self, values: Tensor, drawn: Sequence[Draws]) -> Tensor:
        """Returns values with contrast, brightness and noise, as whole numbers, 0..255."""
        if not self.is_intensity:
            return values if values.dtype == torch.uint8 else values.round_().clamp_(0, 255).to(torch.uint8)
        values = values.to(torch.float32)
        gain = [1.0 + float(one.between(CONTRAST, self.contrast)) for one in drawn]
        added = [255.0 * float(one.between(BRIGHTNESS, self.brightness)) for one in drawn]
        for number, one in enumerate(drawn):
            picture = values[number]
            picture.mul_(gain[number]).add_(PUBLIC_GREY * (1.0 - gain[number]) + added[number])
            if self.noise:
                normal = one.rest.standard_normal(tuple(picture.shape), dtype=np.float32)
                picture.add_(torch.from_numpy(normal).to(picture.device), alpha=255.0 * self.noise)
        return values.round_().clamp_(0, 255).to(torch.uint8)
