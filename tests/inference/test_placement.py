"""A mask that goes through a recipe and back lies where it was, and outside of what the model saw is class 0."""

from typing import Any

import numpy as np
import pytest

from wardround.images.decode.raw import Raw
from wardround.images.rows.fit import Fit
from wardround.images.rows.placement import placement_of
from wardround.images.rows.recipe import PictureRecipe, View, VolumeRecipe


def overlap(found, true):
    return 2 * (found & true).sum() / (found.sum() + true.sum())


def middle(mask):
    return np.array([axis.mean() for axis in np.nonzero(mask)])


def blob(shape, centre, radii):
    places = np.indices(shape)
    return sum(((p - c) / r) ** 2 for p, c, r in zip(places, centre, radii, strict=True)) <= 1


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize(("aspect", "patch", "circle"), [(1.0, None, False), (1.6, None, False), (1.0, 48, False),
                                                         (1.0, None, True), (0.7, 40, True)])  # fmt: skip
@pytest.mark.parametrize("shape", [(120, 200), (230, 90), (40, 30)])
def test_a_pictures_mask_comes_back(fit, aspect, patch, circle, shape):
    height, width = shape
    mask = blob(shape, (0.45 * height, 0.55 * width), (0.1 * height, 0.14 * width))
    picture: Any = np.full((1, height, width), 20, dtype=np.uint8)
    # The disc that a fundus photograph shows, off the middle, and round once pixels are square.
    radius = 0.42 * min(height * aspect, width)
    disc = blob(shape, (0.47 * height, 0.5 * width), (radius / aspect, radius))
    picture[0, disc] = 200
    if not circle:
        picture = np.random.default_rng(0).integers(0, 255, picture.shape, dtype=np.uint8)
    recipe = PictureRecipe(64, 1, fit, circle)
    raw = Raw(picture, mask.astype(np.uint8), aspect=aspect)
    row = recipe.prepare(raw).rows[:, 1]
    if patch is not None:
        start = (64 - patch) // 2
        row = row[:, start : start + patch, start : start + patch]
    back = placement_of(raw, recipe, patch).back(row)
    everything = placement_of(raw, recipe, patch).back(np.ones_like(row))
    seen = mask & (everything == 1)
    assert back.shape == shape
    assert overlap(back == 1, seen) > 0.85
    assert np.abs(middle(back) - middle(seen)).max() < 0.01 * max(shape)
    assert seen.sum() > 0.5 * mask.sum()
    if fit is Fit.CROP and max(height * aspect, width) > 1.5 * min(height * aspect, width):
        assert everything.mean() < 0.9  # what was cut off is class 0


ROTATION = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("patch", [None, 16])
@pytest.mark.parametrize(
    ("spacing", "kind"),
    [
        (None, "straight"),
        pytest.param((2.0, 1.5, 3.0), "straight", marks=pytest.mark.thorough),
        pytest.param((1.0, 1.0, 1.0), "oblique", marks=pytest.mark.thorough),
        pytest.param((2.0, 2.0, 2.0), "sheared", marks=pytest.mark.thorough),
    ],
)
def test_a_volumes_mask_comes_back(view, patch, spacing, kind):
    affine = np.diag([1.2, 1.4, 2.5, 1.0])
    affine[:3, 3] = (-20, 11, 7)
    if kind != "straight":
        affine[:3, :3] = ROTATION @ affine[:3, :3]
    if kind == "sheared":
        affine[:3, 2] += (0.0, 0.5, 0.0)
    mask = blob((30, 26, 22), (14, 13, 12), (5, 4, 5))
    values = np.random.default_rng(0).normal(0, 1, (1, *mask.shape)).astype(np.float32)
    recipe = VolumeRecipe((24, 24, 28), 1, spacing, None, view)
    raw = Raw(values, mask.astype(np.uint8), affine)
    rows = recipe.prepare(raw).rows[:, 1]
    if patch is not None:
        axes = rows.shape[1:]
        cut = tuple(slice((side - patch) // 2, (side - patch) // 2 + patch) for side in axes)
        rows = rows[(slice(None), *cut)]
    back = placement_of(raw, recipe, patch).back(rows)
    assert back.shape == mask.shape
    seen = placement_of(raw, recipe, patch).back(np.ones_like(rows)) == 1
    assert overlap(back == 1, mask & seen) > (0.99 if spacing is None else 0.85)
    assert (mask & seen).sum() > 0.6 * mask.sum()
