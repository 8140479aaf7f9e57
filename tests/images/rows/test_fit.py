"""From a picture of any shape to the one shape of a network; the disc of a fundus photograph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wardround.errors import DataError
from wardround.images.rows.fit import Circle, Fit, find_circle, within
from wardround.images.rows.fit import fitted as fitted_alone

sides = st.integers(1, 40)
counts = st.sampled_from([1, 3])


def circle_crop(picture):
    found = find_circle(picture)
    return picture if found is None else within(picture, found)


def fitted(picture, size, channels, fit, circle):
    return fitted_alone(circle_crop(picture) if circle else picture, size, channels, fit)


def noise(height, width, channels=1, seed=0):
    return np.random.default_rng(seed).integers(30, 220, (channels, height, width), dtype=np.uint8)


def fundus(height, width, row, column, radius, *, light=180, dark=4, channels=3):
    """A bright disc with a darker rim on an almost black ground with dust."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    far = np.sqrt((rows - row) ** 2 + (columns - column) ** 2) / radius
    picture = np.where(far <= 1, light * (1 - 0.4 * far), dark)
    dust = np.random.default_rng(0).random((height, width)) < 0.001
    return np.repeat(np.where(dust, 255, picture).astype(np.uint8)[None], channels, axis=0)


def centred_square(picture, size, channels):
    """The rule that pictures have been scaled by since the first version: rows, then columns, as rows of the mirror."""
    image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    scaling = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    turned = Image.Transpose.TRANSPOSE
    across = image.resize((size, image.height), scaling, box=(left, 0, left + side, image.height)).transpose(
        turned
    )
    array = np.asarray(across.resize((size, size), scaling, box=(top, 0, top + side, size)).transpose(turned))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


@settings(deadline=None)
@given(sides, sides, counts, st.integers(1, 33), counts)
def test_cropping_is_the_centred_square_bit_for_bit(height, width, came, size, channels):
    picture = noise(height, width, came)
    made = fitted(picture, (size, size), channels, Fit.CROP, False)
    np.testing.assert_array_equal(made, centred_square(picture, size, channels))


@settings(deadline=None)
@given(sides, sides, st.integers(1, 33), st.integers(1, 33), counts, st.sampled_from(Fit), st.booleans())
def test_every_shape_gives_the_shape_asked_for_within_the_values_that_came(
    h, w, high, wide, channels, fit, circle
):
    picture = noise(h, w)
    made = fitted(picture, (high, wide), channels, fit, circle)
    assert made.shape == (channels, high, wide)
    assert made.dtype == np.uint8
    assert made.max() <= picture.max()
    assert made.min() >= (0 if circle or fit is Fit.PAD else picture.min())


def test_a_crop_keeps_the_middle_of_a_rectangle_in_the_ratio_asked_for():
    picture = np.zeros((1, 12, 6), dtype=np.uint8)
    picture[:, 5:7] = 200
    np.testing.assert_array_equal(fitted(picture, (1, 3), 1, Fit.CROP, False), np.full((1, 1, 3), 200))
    np.testing.assert_array_equal(fitted(picture, (12, 2), 1, Fit.CROP, False), picture[:, :, 2:4])


@pytest.mark.parametrize("upright", [True, False])
def test_padding_keeps_all_of_a_picture_between_black_borders(upright):
    wide = np.full((1, 4, 8), 200, dtype=np.uint8)
    expected = np.zeros((1, 4, 4), dtype=np.uint8)
    expected[:, 1:3] = 200
    if upright:
        wide, expected = wide.transpose(0, 2, 1), expected.transpose(0, 2, 1)
    np.testing.assert_array_equal(fitted(np.ascontiguousarray(wide), (4, 4), 1, Fit.PAD, False), expected)


def test_stretching_keeps_the_corners_and_no_border():
    picture = np.array([[[10, 200], [60, 90]]], dtype=np.uint8).repeat(3, axis=1).repeat(9, axis=2)
    assert fitted(picture, (2, 2), 1, Fit.STRETCH, False).tolist() == [[[10, 200], [60, 90]]]


@settings(deadline=None)
@given(sides, counts, st.sampled_from(Fit))
def test_a_square_of_the_size_asked_for_is_left_as_it_is(side, channels, fit):
    picture = noise(side, side, channels)
    np.testing.assert_array_equal(fitted(picture, (side, side), channels, fit, False), picture)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (1, 0, 4)])
def test_axes_in_another_order_are_refused(shape):
    with pytest.raises(DataError, match="channel, height, width"):
        fitted(np.zeros(shape, dtype=np.uint8), (2, 2), 1, Fit.PAD, False)


@pytest.mark.parametrize(
    ("height", "width", "row", "column", "radius"),
    [
        pytest.param(300, 400, 150, 200, 140, id="whole"),
        pytest.param(300, 400, 120, 250, 100, id="off the middle"),
        pytest.param(260, 400, 130, 200, 180, id="cut above and below"),
        pytest.param(300, 400, 110, 200, 150, id="cut above"),
        pytest.param(300, 400, 190, 200, 150, id="cut below"),
        pytest.param(400, 300, 200, 110, 150, id="cut left"),
        pytest.param(2000, 3000, 1000, 1450, 900, id="large"),
        pytest.param(100, 100, 50, 50, 15, id="small"),
    ],
)
def test_the_disc_is_found_to_a_hundredth_of_a_side(height, width, row, column, radius):
    found = find_circle(fundus(height, width, row, column, radius))
    assert found is not None
    near = max(2.0, 0.01 * max(height, width))
    assert (found.row, found.column, found.radius) == pytest.approx((row, column, radius), abs=near)


@pytest.mark.parametrize("light", [40, 90, 250])
def test_the_threshold_follows_the_pictures_own_light(light):
    found = find_circle(fundus(200, 260, 100, 130, 90, light=light, dark=light // 20))
    assert found is not None
    assert found.radius == pytest.approx(90, abs=2)


def test_lettering_beside_the_disc_does_not_belong_to_it():
    picture = fundus(200, 300, 100, 180, 90)
    picture[:, 5:15, 5:60] = 255
    found = find_circle(picture)
    assert found is not None
    assert (found.row, found.column, found.radius) == pytest.approx((100, 180, 90), abs=2)


def test_the_crop_is_the_square_around_the_disc_and_black_outside_of_it():
    picture = fundus(300, 400, 150, 220, 120, dark=9)
    made = circle_crop(picture)
    assert made.shape[1] == made.shape[2] == pytest.approx(240, abs=2)
    assert not made[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    middle = made.shape[1] // 2
    assert made[0, middle, middle] == picture[0, 150, 220] == 179
    assert (made > 0).mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_a_disc_cut_above_and_below_is_completed_in_black():
    made = circle_crop(fundus(260, 400, 130, 200, 180))
    assert made.shape[1] == made.shape[2] == pytest.approx(360, abs=4)
    lines = made[0].max(axis=1) > 0
    assert lines.sum() == 260
    assert lines.argmax() == pytest.approx(50, abs=2)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((3, 50, 60), dtype=np.uint8), id="black"),
        pytest.param(np.full((1, 50, 60), 200, dtype=np.uint8), id="one shade"),
        pytest.param(noise(50, 60) // 64, id="dark noise"),
        pytest.param(np.full((1, 1, 1), 200, dtype=np.uint8), id="one pixel"),
        pytest.param(fundus(200, 200, 100, 100, 15), id="a reflex"),
    ],
)
def test_a_picture_without_a_disc_is_left_as_it_is(picture):
    assert find_circle(picture) is None
    np.testing.assert_array_equal(circle_crop(picture), picture)


def test_the_disc_of_a_crop_is_found_again_where_it_was():
    made = circle_crop(fundus(300, 400, 150, 220, 120))
    again = circle_crop(made)
    assert abs(made.shape[1] - again.shape[1]) <= 2


def test_a_mask_is_cut_by_the_disc_of_its_picture():
    picture = fundus(100, 140, 50, 70, 40)
    found = find_circle(picture)
    assert found is not None
    mask = (picture[:1] > 100).astype(np.uint8)
    cropped = within(picture, found)
    np.testing.assert_array_equal(within(mask, found), (cropped[:1] > 100).astype(np.uint8))


@settings(deadline=None)
@given(st.floats(-20, 60), st.floats(-20, 60), st.floats(0.1, 50))
def test_a_circle_may_lie_anywhere(row, column, radius):
    made = within(noise(30, 40), Circle(row, column, radius))
    assert made.shape[1] == made.shape[2] == max(1, round(2 * radius))


def test_a_disc_fills_the_square_that_a_network_sees():
    made = fitted(fundus(300, 500, 150, 180, 130), (64, 64), 3, Fit.CROP, True)
    bright = made[0] > 40
    assert bright[32, [1, 62]].all()
    assert bright[[1, 62], 32].all()
    assert not bright[[0, 0, 63, 63], [0, 63, 0, 63]].any()
