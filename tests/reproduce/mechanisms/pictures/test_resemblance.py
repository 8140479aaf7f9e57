"""Measures for the eye, against an independent implementation and on pictures whose answer is known."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity as reference

from wardround.reproduce.mechanisms.pictures.resemblance import coarse, reidentified, structural_similarity


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", [0, 5, 60, 400])
def test_ssim_is_that_of_scikit_image(generator, channels, noise):
    first = generator.integers(0, 256, (3, channels, 17, 24), dtype=np.uint8)
    first[1] //= 8
    second = np.clip(first + generator.normal(0, noise, first.shape), 0, 255).astype(np.uint8)
    found = structural_similarity(first, second)
    expected = [
        reference(a, b, win_size=7, data_range=255, channel_axis=0) for a, b in zip(first, second, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-12)
    if noise == 0:
        assert found == pytest.approx(np.ones(3))


def test_pictures_hardly_changed_are_found_again_and_noise_is_not(generator):
    originals = generator.integers(0, 256, (300, 1, 32, 32), dtype=np.uint8)
    near = np.clip(originals + generator.normal(0, 20, originals.shape), 0, 255).astype(np.uint8)
    noise = generator.integers(0, 256, originals.shape, dtype=np.uint8)
    assert reidentified(coarse(originals), coarse(near)) == 1
    assert reidentified(coarse(originals), coarse(noise)) < 0.03
    assert reidentified(coarse(originals), coarse(near[:20])) == 1


def test_reidentification_is_the_search_written_out(generator):
    originals, released = generator.normal(size=(2, 40, 3))
    hits = [
        np.argmin([np.linalg.norm(row - original) for original in originals]) == k
        for k, row in enumerate(released)
    ]
    assert reidentified(originals, released) == np.mean(hits)
    assert 0 < np.mean(hits) < 1


def test_coarse_pictures_are_block_means(generator):
    pictures = generator.integers(0, 256, (2, 1, 37, 70), dtype=np.uint8)
    found = coarse(pictures)
    assert found.shape == (2, 18 * 17)
    assert found[1, 0] == pictures[1, 0, :2, :4].mean()
    assert coarse(pictures[:, :, :8, :8]).shape == (2, 64)
