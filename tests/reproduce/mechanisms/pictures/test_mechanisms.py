"""Noise on pictures: the true epsilons, exact likelihood ratios of neighbours, and distributions with power."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, PureEvent
from wardround.accounting.mechanisms import local_laplace_epsilon
from wardround.errors import PrivacyError
from wardround.randomness import Stream
from wardround.reproduce.mechanisms.pictures.noise import (
    Noise,
    NoisedFeatures,
    NoisedPixels,
    add_laplace,
    shortened,
    to_bytes,
)

SHAPE = (1, 6, 4)
SIZE = math.prod(SHAPE)
PIXELS: dict[str, Any] = {
    "laplace": NoisedPixels(Noise.LAPLACE, 3.0, SHAPE),
    "gaussian": NoisedPixels(Noise.GAUSSIAN, 0.5, SHAPE),
    "dp-pix": NoisedPixels(Noise.LAPLACE, 0.5, SHAPE, 2, neighbourhood=3),
}
FEATURES: dict[str, Any] = {noise.value.lower(): NoisedFeatures(noise, 2.0, 0.7) for noise in Noise}
ALL: dict[str, Any] = {f"{name} pixels": (m, SHAPE) for name, m in PIXELS.items()} | {
    f"{name} features": (m, (5,)) for name, m in FEATURES.items()
}


def stream(number=1):
    return Stream(bytes([number] * 32))


def centre_of(mechanism, picture):
    """What the noise is added to: the mechanism without noise, by its own arithmetic."""

    class Still(Stream):
        def uniform(self, count):
            return np.full(count, 0.5)  # the median of Laplace noise

        def add_normal(self, values, std):
            del values, std

    return mechanism.release(picture[None], Still.from_os())[0]


@pytest.mark.parametrize(("channels", "epsilons"), [(1, (65_536, 32_768, 16_384)), (3, (196_608, 98_304, 49_152))])
def test_the_published_scales_have_the_epsilons_of_a_whole_picture(channels, epsilons):
    for beta, epsilon in zip((1.0, 2.0, 4.0), epsilons, strict=True):
        mechanism = NoisedPixels(Noise.LAPLACE, beta, (channels, 256, 256))
        assert mechanism.epsilon == epsilon == local_laplace_epsilon(channels * 256 * 256, beta)
        assert epsilon_of(mechanism.event, 1e-5) == epsilon


def test_the_gaussian_sensitivity_of_a_picture_is_the_root_of_its_size():
    assert NoisedPixels(Noise.GAUSSIAN, 1.0, (1, 256, 256)).bound == 256
    assert NoisedPixels(Noise.GAUSSIAN, 256 * 1.993812, (1, 256, 256)).event == GaussianEvent(1.993812)


def worst_pairs(shape, generator):
    """Black against white, and pairs drawn at random, of pixels 0..255."""
    yield np.zeros(shape), np.full(shape, 255.0)
    for _ in range(20):
        yield tuple(generator.integers(0, 256, (2, *shape)).astype(np.float64))


@pytest.mark.parametrize("name", ["laplace", "dp-pix"])
def test_no_released_picture_is_likelier_than_epsilon_allows(name):
    """The log likelihood ratio at any point is sum(|y - x'| - |y - x|) / scale; at y = x it is the largest."""
    mechanism = PIXELS[name]
    generator, largest = np.random.default_rng(0), 0.0
    for first, second in worst_pairs(SHAPE, generator):
        a, b = (centre_of(mechanism, picture) for picture in (first, second))
        if name == "dp-pix":  # one number a block is released, shown four times
            a, b = a[:, ::2, ::2], b[:, ::2, ::2]
        for y in (a, b, generator.uniform(-300, 600, a.shape)):
            ratio = (np.abs(y - b) - np.abs(y - a)).sum() / (255 * mechanism.scale)
            assert abs(ratio) <= mechanism.epsilon * (1 + 1e-12)
            largest = max(largest, abs(ratio))
    assert largest == pytest.approx(
        mechanism.epsilon
    )  # black against white reaches it: no smaller epsilon is true


def test_the_l2_distance_of_any_two_pictures_is_within_the_gaussian_sensitivity():
    mechanism = PIXELS["gaussian"]
    distances = [
        np.linalg.norm(centre_of(mechanism, a) - centre_of(mechanism, b)) / 255
        for a, b in worst_pairs(SHAPE, np.random.default_rng(1))
    ]
    assert max(distances) == pytest.approx(mechanism.bound)


def test_dp_pix_keeps_the_published_promise_for_m_pixels_and_for_no_more():
    mechanism = PIXELS["dp-pix"]
    generator, largest = np.random.default_rng(2), 0.0
    for _ in range(200):
        first = generator.integers(0, 256, SHAPE).astype(np.float64)
        second = first.copy()
        where = generator.choice(SIZE, 3, replace=False)
        second.reshape(-1)[where] = np.where(first.reshape(-1)[where] < 128, 255, 0)
        a, b = (centre_of(mechanism, picture)[:, ::2, ::2] for picture in (first, second))
        largest = max(largest, np.abs(a - b).sum() / (255 * mechanism.scale))
    assert 0.8 * mechanism.neighbourhood_epsilon < largest <= mechanism.neighbourhood_epsilon
    assert mechanism.epsilon == SIZE / 3 * mechanism.neighbourhood_epsilon  # m = d is the whole picture


@pytest.mark.parametrize(("m", "block", "epsilon"), [(16, 16, 0.5), (256, 16, 1.0), (4, 12, 0.1)])
def test_dp_pix_has_the_scale_of_its_paper(m, block, epsilon):
    published = 255 * m / (block**2 * epsilon)
    mechanism = NoisedPixels(Noise.LAPLACE, published / 255, (1, 240, 240), block, m)
    assert mechanism.neighbourhood_epsilon == pytest.approx(epsilon)
    assert mechanism.epsilon == pytest.approx(240 * 240 / m * epsilon)


def test_three_channels_of_a_pixel_move_together():
    grey, colour = (NoisedPixels(Noise.LAPLACE, 1.0, (channels, 4, 4), 2, 2) for channels in (1, 3))
    assert colour.neighbourhood_epsilon == 3 * grey.neighbourhood_epsilon
    assert colour.epsilon == 3 * grey.epsilon


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 4, 5)])
def test_a_block_that_is_cut_short_is_refused(shape):
    with pytest.raises(PrivacyError, match="block must divide"):
        NoisedPixels(Noise.LAPLACE, 1.0, shape, 2)


@pytest.mark.parametrize(("name", "order"), [("laplace", 1), ("gaussian", 2)])
def test_features_are_at_most_twice_the_norm_apart_whatever_they_were(name, order):
    mechanism = FEATURES[name]
    ends = [0.0, 1e-300, -1e300, 1e308, 1.0, -1.0, 1e-8, np.nan, np.inf, -np.inf]
    generator = np.random.default_rng(3)
    rows = [generator.choice(ends, 5) for _ in range(100)] + [
        1.9 * np.eye(5)[0],
        -50 * np.eye(5)[0],
        50 * np.eye(5)[0],
    ]
    with np.errstate(all="raise", under="ignore"):
        held = [centre_of(mechanism, np.array(row)) for row in rows]
    lengths = np.array([np.linalg.norm(row, ord=order) for row in held])
    assert np.isfinite(lengths).all()
    assert lengths.max() <= mechanism.norm
    distances = [np.linalg.norm(a - b, ord=order) for a in held for b in held]
    assert max(distances) <= mechanism.bound
    assert max(distances) == pytest.approx(mechanism.bound)
    assert np.array_equal(held[100], rows[100])  # what is short enough is left as it is


def test_a_row_that_is_not_finite_becomes_zeros_and_touches_no_other():
    rows = np.array([[1.0, np.nan], [3.0, 4.0]])
    assert np.array_equal(shortened(rows, 10.0, order=2), [[0.0, 0.0], [3.0, 4.0]])


SQUARE = (1, 20, 20)
NOISE: dict[str, Any] = {
    "laplace pixels": (NoisedPixels(Noise.LAPLACE, 0.02, SQUARE), SQUARE, stats.laplace(scale=255 * 0.02)),
    "gaussian pixels": (NoisedPixels(Noise.GAUSSIAN, 0.02, SQUARE), SQUARE, stats.norm(scale=255 * 0.02)),
    "laplace features": (NoisedFeatures(Noise.LAPLACE, 2.0, 0.7), (400,), stats.laplace(scale=2.8)),
    "gaussian features": (NoisedFeatures(Noise.GAUSSIAN, 2.0, 0.7), (400,), stats.norm(scale=2.8)),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_has_its_distribution_and_no_other_scale(name):
    mechanism, shape, law = NOISE[name]
    noise = mechanism.release(np.zeros((50, *shape)), stream()).reshape(-1)
    assert stats.kstest(noise, law.cdf).pvalue > 0.01
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(noise * factor, law.cdf).pvalue < 1e-6
    other = stats.norm if law.dist.name == "laplace" else stats.laplace
    assert stats.kstest(noise, other(scale=law.std() / other.std()).cdf).pvalue < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_every_picture_has_noise_of_its_own(name):
    mechanism, shape = ALL[name]
    values = np.zeros((2, *shape))
    first, second = mechanism.release(values, stream())
    assert not np.any(first == second)
    assert np.array_equal(values, np.zeros((2, *shape)))  # the originals are left alone
    assert not np.array_equal(mechanism.release(values, stream(2))[0], first)


def test_a_scalar_for_the_whole_picture_is_not_what_is_added():
    """The published code shifts a picture's brightness by one draw; all differences of pixels survive that."""
    picture = np.random.default_rng(0).uniform(0, 255, (1, *SHAPE))
    moved = PIXELS["laplace"].release(picture, stream()) - picture
    assert len(np.unique(moved)) == SIZE


def test_laplace_noise_stays_finite_at_the_ends_of_the_uniform():
    class Ends(Stream):
        def uniform(self, count):
            return np.resize([0.0, 1.0, 0.5, 2.0**-54], count)

    values = np.zeros(4)
    add_laplace(values, 1.0, Ends.from_os())
    assert np.isfinite(values).all()
    assert values[0] == -values[1]
    assert values[2] == 0


def test_pixels_are_rounded_and_cut():
    assert to_bytes(np.array([-1e300, -0.4, 0.6, 254.6, 300.0, np.inf])).tolist() == [0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("name", ALL)
def test_the_event_is_the_noise_over_the_sensitivity(name):
    mechanism, _ = ALL[name]
    if isinstance(mechanism.event, PureEvent):
        assert mechanism.event.epsilon == pytest.approx(1 / mechanism.noise_multiplier)
    else:
        assert mechanism.event == GaussianEvent(mechanism.noise_multiplier)
    assert mechanism.what
    assert mechanism.bound > 0


@pytest.mark.parametrize(
    "make",
    [
        *(lambda scale=scale: NoisedPixels(Noise.LAPLACE, scale, SHAPE) for scale in (0.0, -1.0, math.inf)),
        *(lambda pixels=pixels: NoisedPixels(Noise.LAPLACE, 1.0, SHAPE, 2, pixels) for pixels in (0, SIZE + 1)),
        lambda: NoisedPixels(Noise.GAUSSIAN, 1.0, (1, 0, 4)),
        lambda: NoisedFeatures(Noise.GAUSSIAN, 0.0, 1.0), lambda: NoisedFeatures(Noise.LAPLACE, 1.0, 0.0),
    ],
)  # fmt: skip
def test_numbers_that_promise_nothing_are_refused(make):
    with pytest.raises(PrivacyError, match=", got"):
        make()
