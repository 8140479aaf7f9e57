"""Raw pictures and volumes to rows: spacing, size, grey levels, masks that stay on their pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import DataError
from wardround.images.decode.raw import Raw
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe, Recipe, View, VolumeRecipe
from wardround.images.rows.volume import PERCENTILES, centred, levels, percentiles, resampled


def ball(shape, centre, radius, spacing=(1.0, 1.0, 1.0)):
    """A ball in mm, (x, y, z)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"))
    distance = np.sqrt(((grid - np.array(centre)[:, None, None, None]) ** 2).sum(axis=0))
    return (distance <= radius).astype(np.uint8)


def test_a_resampled_ball_keeps_its_place_and_size_in_mm():
    own = (1.0, 2.0, 0.5)
    mask = ball((40, 20, 80), (20, 20, 20), 10, own)
    values, moved, _ = resampled(mask[None] * np.float32(100), mask, np.diag([*own, 1.0]), (1.0, 1.0, 1.0))
    assert moved is not None
    assert values.shape[1:] == moved.shape == (40, 39, 40)
    assert abs(moved.sum() - mask.sum()) / mask.sum() < 0.03
    np.testing.assert_allclose(np.argwhere(moved).mean(axis=0), [20, 20, 20], atol=0.3)
    assert np.abs((values[0] > 50) ^ (moved > 0)).mean() < 0.02


def test_what_lies_outside_of_the_middle_is_measured():
    picture = Raw(np.zeros((1, 20, 50), np.uint8))
    for fit, cut_off in ((Fit.CROP, 0.6), (Fit.PAD, 0), (Fit.STRETCH, 0)):
        assert PictureRecipe(16, 1, fit).prepare(picture).cut_off == pytest.approx(cut_off)
    volume = Raw(np.zeros((1, 20, 10, 8), np.float32), None, np.diag([1.0, 1.0, 2.0, 1.0]))
    for view in View:
        assert VolumeRecipe((10, 20, 4), view=view).prepare(volume).cut_off == pytest.approx(0.75)
    assert VolumeRecipe((10, 20, 4), spacing=(2.0, 2.0, 4.0)).prepare(volume).cut_off == 0


def test_a_volume_at_the_spacing_asked_for_is_not_touched():
    values = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    same, _, _ = resampled(values, None, np.diag([1.0004, 1.0, 1.0, 1.0]), (1.0, 1.0, 1.0))
    assert same is values


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
@settings(deadline=None)
def test_the_middle_keeps_the_middle_and_says_where_it_is(has, wants):
    volume = np.random.default_rng(1).integers(1, 256, (2, *has)).astype(np.uint8)
    made, extent = centred(volume, wants)
    assert made.shape == (2, *wants)
    inside = made[(slice(None), *(slice(*ends) for ends in extent))]
    assert inside.all()
    assert np.count_nonzero(made) == inside.size
    assert all(end - start == min(h, w) for (start, end), h, w in zip(extent, has, wants, strict=True))


def test_a_window_is_the_same_for_every_volume_and_percentiles_are_each_volumes_own():
    values = np.linspace(-1000, 1000, 2001, dtype=np.float32).reshape(1, 3, 23, 29)
    windowed = levels(values, (-200.0, 250.0))
    assert windowed[values < -200].max() == 0
    assert windowed[values > 250].min() == 255
    own, brighter = levels(values, None), levels(values * 3 + 50, None)
    np.testing.assert_array_equal(own, brighter)
    assert not levels(np.full((1, 2, 2, 2), 7, dtype=np.float32), None).any()


def test_channels_are_levelled_apart():
    values = np.stack([np.arange(8.0), np.arange(8.0) * 1000]).reshape(2, 2, 2, 2).astype(np.float32)
    made = levels(values, None)
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize("fit", list(Fit))
def test_a_mask_goes_where_its_picture_goes(fit):
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 20:40] = 3
    row = PictureRecipe(20, 1, fit).prepare(Raw(((mask > 0) * np.uint8(255))[None], mask)).rows[0]
    assert set(np.unique(row[1])) <= {0, 3}
    np.testing.assert_array_equal(row[0] > 127, row[1] == 3)


def test_a_mask_is_cropped_by_its_pictures_disc():
    y, x = np.mgrid[:60, :100]
    disc = ((x - 50) ** 2 + (y - 30) ** 2 <= 24**2).astype(np.uint8)
    row = PictureRecipe(48, 1, circle=True).prepare(Raw(disc[None] * np.uint8(200), disc)).rows[0]
    assert (row[1] == 1).mean() == pytest.approx(np.pi / 4, abs=0.03)
    assert ((row[0] > 100) == (row[1] == 1)).mean() > 0.98


def test_a_picture_is_no_volume_and_a_volume_no_picture():
    picture = Raw(np.zeros((1, 4, 4), dtype=np.uint8))
    volume = Raw(np.zeros((1, 4, 4, 4), dtype=np.float32), None, np.eye(4))
    with pytest.raises(DataError, match="two-dimensional"):
        PictureRecipe(4, 1).prepare(volume)
    with pytest.raises(DataError, match="spacing and an orientation"):
        VolumeRecipe((4, 4, 4)).prepare(picture)
    with pytest.raises(DataError, match="2 channels, got 1"):
        VolumeRecipe((4, 4, 4), channels=2).prepare(volume)


@pytest.mark.parametrize(
    "options",
    [{"size": (0, 4, 4)}, {"size": (9000, 9000, 9000)}, {"spacing": (0.0, 1.0, 1.0)}, {"window": (3.0, 3.0)}],
)
def test_a_volume_that_cannot_be_made_is_refused(options):
    with pytest.raises(DataError, match="must"):
        VolumeRecipe(**({"size": (4, 4, 4)} | options))


def test_what_changes_a_row_changes_the_key():
    recipes: list[Recipe] = [
        VolumeRecipe((4, 4, 4)),
        VolumeRecipe((4, 4, 8)),
        VolumeRecipe((4, 4, 4), channels=2),
        VolumeRecipe((4, 4, 4), spacing=(1.0, 1.0, 1.0)),
        VolumeRecipe((4, 4, 4), window=(0.0, 1.0)),
        VolumeRecipe((4, 4, 4), view=View.SLICES),
        PictureRecipe(4, 1),
        PictureRecipe(4, 3),
        PictureRecipe(4, 1, Fit.PAD),
        PictureRecipe(4, 1, circle=True),
    ]
    assert len({recipe.key for recipe in recipes}) == len(recipes)


@given(st.integers(1, 700), st.sampled_from(["spread", "whole", "mostly zero", "one value"]), st.integers(0, 99))
def test_percentiles_are_exactly_those_of_numpy(count, kind, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 10.0 ** generator.integers(-3, 20), count)
    values = {
        "spread": values,
        "whole": np.rint(values % 100),
        "mostly zero": values * (generator.random(count) < 0.02),
        "one value": np.full(count, values[0]),
    }[kind].astype(np.float32)
    before, expected = values.copy(), np.percentile(values, PERCENTILES)
    found = percentiles(values.reshape(1, -1))
    assert [end.dtype for end in found] == [np.float64, np.float64]
    assert found == expected.tolist()
    np.testing.assert_array_equal(values, before)
