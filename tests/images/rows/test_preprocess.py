"""The one way from a decoded picture to a model's input."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wardround.errors import DataError
from wardround.images.decode.pillow import decode_in_thread
from wardround.images.decode.quiet import QUIET
from wardround.images.decode.raw import Raw
from wardround.images.rows.recipe import PictureRecipe


def preprocess(picture, *, image_size, channels):
    return PictureRecipe(image_size, channels).prepare(Raw(picture)).rows[0]


def decode(data, **options):
    with QUIET:
        return decode_in_thread(data, **options)


def test_a_picture_of_the_size_asked_for_is_left_as_it_is():
    picture = np.arange(36, dtype=np.uint8).reshape(1, 6, 6)
    np.testing.assert_array_equal(preprocess(picture, image_size=6, channels=1), picture)


def test_halving_averages_four_pixels():
    picture = np.array([[[0, 100, 8, 8], [100, 200, 8, 8], [1, 1, 50, 60], [1, 1, 70, 80]]], dtype=np.uint8)
    np.testing.assert_array_equal(preprocess(picture, image_size=2, channels=1), [[[100, 8], [1, 65]]])


@pytest.mark.parametrize("upright", [True, False])
def test_the_aspect_ratio_is_kept_and_the_centre_is_taken(upright):
    wide = np.zeros((1, 4, 8), dtype=np.uint8)
    wide[:, :, 2:6] = 200
    picture = wide.transpose(0, 2, 1) if upright else wide
    assert preprocess(np.ascontiguousarray(picture), image_size=2, channels=1).min() == 200


def test_colour_becomes_luminance_and_grey_becomes_three_channels():
    red = np.zeros((3, 4, 4), dtype=np.uint8)
    red[0] = 255
    assert set(preprocess(red, image_size=2, channels=1).ravel()) == {76}
    grey = np.full((1, 4, 4), 7, dtype=np.uint8)
    np.testing.assert_array_equal(preprocess(grey, image_size=2, channels=3), np.full((3, 2, 2), 7))


def test_channels_keep_their_order():
    picture = np.stack([np.full((5, 4), value, dtype=np.uint8) for value in (10, 20, 30)])
    assert preprocess(picture, image_size=3, channels=3)[:, 0, 0].tolist() == [10, 20, 30]


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 33), st.sampled_from([1, 3])
)
def test_every_shape_gives_the_shape_asked_for_within_the_values_that_came(height, width, came, size, channels):
    picture = np.random.default_rng(height * 41 + width).integers(30, 220, (came, height, width), dtype=np.uint8)
    result = preprocess(picture, image_size=size, channels=channels)
    assert result.shape == (channels, size, size)
    assert result.dtype == np.uint8
    assert picture.min() <= result.min() <= result.max() <= picture.max()


@pytest.mark.parametrize(("image_size", "channels"), [(0, 1), (5000, 1), (8, 2)])
def test_a_shape_out_of_range_is_refused(image_size, channels):
    with pytest.raises(DataError, match="must"):
        preprocess(np.zeros((1, 4, 4), dtype=np.uint8), image_size=image_size, channels=channels)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (1, 0, 4)])
def test_axes_in_another_order_are_refused(shape):
    with pytest.raises(DataError, match="channel, height, width"):
        preprocess(np.zeros(shape, dtype=np.uint8), image_size=2, channels=1)


def test_a_jpeg_decoded_small_differs_from_one_decoded_whole_by_rounding_only():
    slope = np.add.outer(np.arange(400), np.arange(600)).astype(np.float64)
    stream = io.BytesIO()
    Image.fromarray((slope / slope.max() * 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
    recipe = PictureRecipe(20, 1)
    whole, small = (
        recipe.prepare(Raw(decode(stream.getvalue(), least_side=side))).rows
        for side in (None, recipe.hint.least_side)
    )
    assert abs(whole.astype(int) - small).max() <= 2  # two roundings to whole grey levels
