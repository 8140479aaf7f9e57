"""The way back from a model's grid to the grid of a file, for masks that are predicted.

Every step of a recipe is affine: square pixels, the disc, the fit, the spacing, the middle of a fixed size, the
patch. Their product takes an index of the file's grid to one of the model's; a pixel or voxel of the file gets the
class at the nearest place, and class 0 where the model saw nothing of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.images.decode.raw import Affine, Mask, Raw
from wardround.images.rows.fit import Fit, box_of, find_circle, side_and_corner, squared, squared_size
from wardround.images.rows.recipe import PictureRecipe, Recipe, View, VolumeRecipe, of_eight_bits
from wardround.images.rows.volume import resampled_grid

_STRAIGHT = 1e-6


@dataclass(frozen=True)
class Placement:
    """The place of a file's pixels or voxels on a model's grid.

    Args:
        shape: of the file: (height, width), or (x, y, z) in RAS+.
        matrix: from an index of the file's grid to one of the model's, (axes + 1, axes + 1).
        affine: from an index of the file's grid to mm in RAS+, (4, 4); None for pictures.
        view: the form in which a volume's mask comes.
    """

    shape: tuple[int, ...]
    matrix: Affine
    affine: Affine | None
    view: View = View.VOLUME

    def back(self, masks: Mask) -> Mask:
        """Returns the class of every pixel or voxel of the file, uint8 (*shape).

        Args:
            masks: predicted, (row, *space) of one picture or volume.
        """
        mask = masks[0]
        if self.view is View.SLICES:
            mask = masks.transpose(2, 1, 0)[::-1, ::-1]
        straight = np.abs(self.matrix[:-1, :-1] - np.diag(np.diag(self.matrix)[:-1])).max() < _STRAIGHT
        if not straight:
            return self._slab_by_slab(mask)
        places, inside = [], []
        for axis, length in enumerate(self.shape):
            index = np.floor(np.arange(length) * self.matrix[axis, axis] + self.matrix[axis, -1] + 0.5)
            inside.append((index >= 0) & (index < mask.shape[axis]))
            places.append(np.clip(index, 0, mask.shape[axis] - 1).astype(np.int64))
        found: Mask = mask[np.ix_(*places)].copy()
        for axis, kept in enumerate(inside):
            np.moveaxis(found, axis, 0)[~kept] = 0
        return found

    def _slab_by_slab(self, mask: Mask) -> Mask:
        found = np.zeros(self.shape, dtype=np.uint8)
        rest = np.indices(self.shape[1:]).reshape(len(self.shape) - 1, -1)
        for first in range(self.shape[0]):
            places = np.concatenate([np.full((1, rest.shape[1]), first), rest, np.ones((1, rest.shape[1]))])
            index = np.floor((self.matrix @ places)[:-1] + 0.5).astype(np.int64)
            size = np.array(mask.shape)[:, None]
            inside = ((index >= 0) & (index < size)).all(axis=0)
            classes = mask[tuple(np.clip(index, 0, size - 1))]
            found[first] = np.where(inside, classes, 0).reshape(self.shape[1:])
        return found


def placement_of(raw: Raw, recipe: Recipe, patch: int | None) -> Placement:
    """Returns the place of a decoded picture or volume on the grid that a model reads.

    Args:
        raw: decoded whole, as the recipe takes it.
        recipe: of the model.
        patch: side of the centre that the model reads; None for all of it.
    """
    shape = tuple(raw.values.shape[1:])
    if isinstance(recipe, VolumeRecipe):
        assert raw.affine is not None, "the recipe has refused a picture"
        grid = np.eye(4)
        if recipe.spacing is not None:
            shape_then, affine = resampled_grid(shape, raw.affine, recipe.spacing)
            grid = np.linalg.inv(affine) @ raw.affine
        else:
            shape_then = shape
        middle = [(wants - min(has, wants)) // 2 - (has - min(has, wants)) // 2
                  for has, wants in zip(shape_then, recipe.size, strict=True)]  # fmt: skip
        spared = 3 if recipe.view is View.VOLUME else 2  # slices are all kept
        cut = [
            0 if patch is None or axis >= spared else (side - patch) // 2 for axis, side in enumerate(recipe.size)
        ]
        if recipe.view is View.SLICES and patch is not None:  # the axes run backwards in a slice
            cut[:2] = [side - patch - (side - patch) // 2 for side in recipe.size[:2]]
        return Placement(shape, _shifted(np.array(middle) - cut) @ grid, raw.affine, recipe.view)
    return Placement(shape, _of_picture(raw, recipe, patch), None)


def _of_picture(raw: Raw, recipe: PictureRecipe, patch: int | None) -> Affine:
    """Returns the matrix of a picture; places are counted from its upper left corner until the end."""
    height, width = raw.values.shape[1:]
    matrix = np.eye(3)
    if recipe.fit is not Fit.STRETCH:
        across, down = squared_size(height, width, raw.aspect)
        matrix = np.diag([down / height, across / width, 1.0])
        height, width = down, across
    if recipe.circle:
        picture = of_eight_bits(raw.values, recipe.bits)
        if recipe.fit is not Fit.STRETCH:
            picture = squared(picture, raw.aspect, Image.Resampling.BILINEAR)
        circle = find_circle(picture)
        if circle is not None:
            side, (top, left) = side_and_corner(circle)
            matrix = _shifted([-top, -left]) @ matrix
            height = width = side
    size = recipe.image_size
    (x0, y0, x1, y1), (left, top, wide, high) = box_of((width, height), (size, size), recipe.fit)
    scale = np.diag([high / (y1 - y0), wide / (x1 - x0), 1.0])
    matrix = _shifted([top, left]) @ scale @ _shifted([-y0, -x0]) @ matrix
    if patch is not None:
        matrix = _shifted([-((size - patch) // 2)] * 2) @ matrix
    return _shifted([-0.5, -0.5]) @ matrix @ _shifted([0.5, 0.5])


def _shifted(by: npt.ArrayLike) -> Affine:
    by = np.asarray(by, dtype=np.float64)
    matrix = np.eye(len(by) + 1)
    matrix[:-1, -1] = by
    return matrix
