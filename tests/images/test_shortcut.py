import numpy as np
import pytest

from wardround.images.shortcut import shortcut_scores, six_numbers


def test_the_six_numbers_of_a_picture_with_a_bright_frame():
    picture = np.zeros((1, 1, 16, 16), dtype=np.uint8)
    picture[:, :, :2] = picture[:, :, -2:] = 255
    picture[:, :, :, :2] = picture[:, :, :, -2:] = 255
    brightness, contrast, dark, bright, border, border_contrast = six_numbers(picture)[0]
    share = 1 - (12 / 16) ** 2
    assert brightness == pytest.approx(share)
    assert contrast == pytest.approx(np.sqrt(share * (1 - share)))
    assert (dark, bright, border, border_contrast) == (0.0, 1.0, 1.0, 0.0)


def test_brightness_that_tells_the_class_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    noise = generator.integers(0, 200, (400, 1, 8, 8))
    for shift, low, high in ((40, 0.99, 1.0), (0, 0.35, 0.65)):
        pictures = (noise + shift * labels[:, None, None, None]).astype(np.uint8)
        scores = shortcut_scores(pictures[:300], labels[:300], pictures[300:], 2)
        sick, well = scores[labels[300:] == 1, 1], scores[labels[300:] == 0, 1]
        assert low <= (sick[:, None] > well[None]).mean() <= high
        assert np.allclose(scores.sum(axis=1), 1)


def test_three_classes_and_colour_are_scored():
    generator = np.random.default_rng(1)
    labels = np.arange(90) % 3
    pictures = (generator.integers(0, 100, (90, 3, 8, 8)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    scores = shortcut_scores(pictures, labels, pictures, 3)
    assert (scores.argmax(axis=1) == labels).mean() > 0.95
