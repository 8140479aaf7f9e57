import numpy as np
import pytest
import torch
from skimage.feature import hog

from wardround.models.networks.features import BIAS, Hog, HogRows, num_features


def pictures(count, channels, size, seed=3):
    """Smooth random pictures with a few flat patches, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    smooth[:, :, : size // 4, : size // 4] = 0.5
    return (255 * smooth).to(torch.uint8)


def oracle(picture, cell):
    channel_axis = None if picture.shape[0] == 1 else 0
    values = picture[0].numpy() if channel_axis is None else picture.numpy()
    return hog(
        values.astype(np.float64),
        orientations=9,
        pixels_per_cell=(cell, cell),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
        feature_vector=False,
        channel_axis=channel_axis,
    )


@pytest.mark.parametrize(("channels", "size", "cell"), [(1, 64, 8), (1, 50, 8), (3, 48, 6), (3, 37, 12)])
def test_histograms_are_those_of_scikit_image(channels, size, cell):
    given = pictures(3, channels, size)
    ours = Hog(cell)(given.to(torch.float32)).numpy()
    theirs = np.stack([oracle(picture, cell) for picture in given])
    assert ours.shape == theirs.shape
    # float32 against float64; a gradient within rounding of a bin's edge may fall on its other side.
    assert np.mean(np.isclose(ours, theirs, atol=2e-5)) > 0.999
    assert np.abs(ours - theirs).max() < 0.02


def test_an_edge_falls_into_the_bin_of_its_gradient():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    across, down = Hog(4)(ramp)[0, 1, 1, 0, 0], Hog(4)(ramp.transpose(2, 3))[0, 1, 1, 0, 0]
    assert across.argmax() == 0  # 0 degrees
    assert down.argmax() == 4  # 90 degrees, in 80..100


@pytest.mark.parametrize("size", [16, 20, 37, 64, 96, 128, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_have_the_announced_length_and_norm_one(size, channels):
    rows = HogRows(size)(pictures(2, channels, size))
    assert rows.shape == (2, num_features(size))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))


def test_rows_end_in_the_constant_and_are_centred():
    rows = HogRows(64)(pictures(2, 1, 64))
    torch.testing.assert_close(rows[:, -1], torch.full((2,), BIAS / np.hypot(1, BIAS)))
    torch.testing.assert_close(rows[:, :-1].sum(dim=1), torch.zeros(2), rtol=0, atol=1e-4)


def test_a_picture_without_gradient_is_the_constant_alone():
    row = HogRows(32)(torch.full((1, 1, 32, 32), 200, dtype=torch.uint8))[0]
    assert row[-1] == pytest.approx(1.0)
    assert not row[:-1].any()


def test_brightness_and_contrast_hardly_move_a_row():
    given = pictures(1, 1, 64) // 4
    torch.testing.assert_close(HogRows(64)(given), HogRows(64)(2 * given + 60), rtol=0, atol=1e-3)
