import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wardround.images.quality import shortcut
from wardround.images.quality.shortcut import (
    Rule,
    border_numbers,
    cross_validated_auroc,
    shortcut_scores,
    six_numbers,
)


def test_the_six_numbers_of_a_picture_with_a_bright_frame():
    picture = np.zeros((1, 1, 16, 16), dtype=np.uint8)
    picture[:, :, :2] = picture[:, :, -2:] = 255
    picture[:, :, :, :2] = picture[:, :, :, -2:] = 255
    brightness, contrast, dark, bright, border, border_contrast = six_numbers(picture)[0]
    share = 1 - (12 / 16) ** 2
    assert brightness == pytest.approx(share)
    assert contrast == pytest.approx(np.sqrt(share * (1 - share)))
    assert (dark, bright, border, border_contrast) == (0.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(5, 1, 17, 30), (3, 3, 16, 9), (2, 1, 8, 9, 10), (2, 2, 3, 3)])
def test_the_six_numbers_are_numpys(shape):
    """Pictures are counted by level; NumPy sorts them."""
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pictures[-1] //= 100
    values = pictures.mean(axis=1) / 255
    inside = np.zeros(shape[2:], dtype=bool)
    inside[tuple(slice(max(1, n // 8), n - max(1, n // 8)) for n in shape[2:])] = True
    whole, border = values.reshape(len(values), -1), values[:, ~inside]
    dark, bright = np.quantile(whole, [0.05, 0.95], axis=1)
    known = np.stack([whole.mean(1), whole.std(1), dark, bright, border.mean(1), border.std(1)], axis=1)
    np.testing.assert_allclose(six_numbers(pictures), known, rtol=1e-12, atol=1e-14)


def test_a_pictures_numbers_depend_on_no_other_picture(monkeypatch):
    pictures, rows = (
        np.random.default_rng(0).integers(0, 256, (50, 1, 32, 32), dtype=np.uint8),
        np.array([7, 3, 41]),
    )
    together = six_numbers(pictures)
    assert np.array_equal(six_numbers(pictures, rows), together[rows])
    monkeypatch.setattr("wardround.images.quality.shortcut._AT_ONCE", 7)
    assert np.array_equal(six_numbers(pictures), together)


def test_brightness_that_tells_the_class_is_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    noise = generator.integers(0, 200, (400, 1, 8, 8))
    for shift, low, high in ((40, 0.99, 1.0), (0, 0.35, 0.65)):
        pictures = (noise + shift * labels[:, None, None, None]).astype(np.uint8)
        scores = shortcut_scores(pictures, np.arange(300), labels[:300], np.arange(300, 400), 2)
        sick, well = scores[labels[300:] == 1, 1], scores[labels[300:] == 0, 1]
        assert low <= (sick[:, None] > well[None]).mean() <= high
        assert np.allclose(scores.sum(axis=1), 1)


def test_three_classes_and_colour_are_scored():
    generator = np.random.default_rng(1)
    labels = np.arange(90) % 3
    pictures = (generator.integers(0, 100, (90, 3, 8, 8)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    scores = shortcut_scores(pictures, np.arange(90), labels, np.arange(90), 3)
    assert (scores.argmax(axis=1) == labels).mean() > 0.95


def test_volumes_have_the_six_numbers_of_their_voxels():
    volume = np.zeros((1, 1, 8, 16, 24), dtype=np.uint8)
    volume[:, :, 1:-1, 2:-2, 3:-3] = 255
    brightness, _, dark, bright, border, border_contrast = six_numbers(volume)[0]
    assert brightness == pytest.approx((6 / 8) ** 3)
    assert (dark, bright, border, border_contrast) == (0.0, 1.0, 0.0, 0.0)


def test_each_border_has_a_number_of_its_own():
    pictures = np.zeros((2, 1, 16, 24), dtype=np.uint8)
    pictures[0, :, :2] = 255
    pictures[1, :, :, -3:] = 255
    top, right = border_numbers(pictures)
    assert top.tolist() == pytest.approx([2 / 16, np.sqrt(2 / 16 * 14 / 16), 1, 0, 2 / 16, 2 / 16])
    assert right.tolist() == pytest.approx([3 / 24, np.sqrt(3 / 24 * 21 / 24), 3 / 24, 3 / 24, 0, 1])
    assert border_numbers(np.zeros((3, 1, 8, 9, 10), dtype=np.uint8)).shape == (3, 8)


def test_no_picture_and_many_pictures_give_a_row_each(monkeypatch):
    pictures = np.random.default_rng(2).integers(0, 256, (7, 1, 16, 16), dtype=np.uint8)
    whole = six_numbers(pictures)
    monkeypatch.setattr(shortcut, "_BLOCK_VALUES", 600)
    np.testing.assert_allclose(six_numbers(pictures), whole, rtol=1e-12)
    assert six_numbers(pictures[:0]).shape == (0, 6)


def auroc_of(numbers, labels, patients, rule, num_classes=2):
    found = cross_validated_auroc(numbers, labels, patients, num_classes, rule)
    assert found is not None
    return found


def test_a_bend_is_seen_by_squares_alone():
    generator = np.random.default_rng(3)
    labels = np.arange(300) % 2
    numbers = generator.choice([-1.0, 1.0], (300, 1)) * (1 + labels[:, None]) + 0.1 * generator.normal(
        size=(300, 1)
    )
    patients = [f"p{place}" for place in range(300)]
    assert auroc_of(numbers, labels, patients, Rule.SQUARES) > 0.99
    assert auroc_of(numbers, labels, patients, Rule.LINEAR) < 0.7


def test_a_patient_who_is_recognised_is_not_a_disease_that_is():
    """Each patient has numbers of their own, and classes go by chance: pictures in both halves would tell."""
    generator = np.random.default_rng(4)
    people = np.repeat(np.arange(40), 10)
    numbers = np.eye(40)[people] + 0.01 * generator.normal(size=(400, 40))
    labels = (np.arange(40) % 2)[people]
    names = [f"p{person}" for person in people]
    grouped = auroc_of(numbers, labels, names, Rule.LINEAR)
    leaking = auroc_of(numbers, labels, [f"{place}" for place in range(400)], Rule.LINEAR)
    assert leaking > 0.99
    assert grouped < 0.7


def test_the_order_of_pictures_does_not_matter_and_neither_does_a_second_look():
    generator = np.random.default_rng(5)
    labels = np.arange(200) % 2
    numbers = generator.normal(size=(200, 3)) + labels[:, None]
    names = [f"p{place % 90}" for place in range(200)]
    turned = np.arange(200)[::-1]
    first = auroc_of(numbers, labels, names, Rule.LINEAR)
    again = cross_validated_auroc(
        numbers[turned], labels[turned], [names[place] for place in turned], 2, Rule.LINEAR
    )
    assert again == pytest.approx(first, abs=1e-6)
    assert 0.8 < first < 1


def test_three_classes_are_each_set_against_the_rest():
    labels = np.arange(90) % 3
    numbers = np.eye(3)[labels] + 0.1 * np.random.default_rng(6).normal(size=(90, 3))
    assert auroc_of(numbers, labels, [str(place) for place in range(90)], Rule.LINEAR, 3) > 0.99


def test_a_class_with_fewer_patients_than_folds_gives_no_figure():
    numbers = np.zeros((20, 1))
    labels = (np.arange(20) < 8).astype(int)
    names = [f"p{min(place, 3) if place < 8 else place}" for place in range(20)]
    assert cross_validated_auroc(numbers, labels, names, 2, Rule.LINEAR) is None
    assert (
        cross_validated_auroc(numbers, np.zeros(20, int), [str(place) for place in range(20)], 2, Rule.LINEAR)
        is None
    )


@pytest.mark.parametrize(("pictures", "columns", "classes"), [(60, 3, 2), (200, 13, 4), (12, 13, 3)])
def test_the_regression_is_where_its_loss_has_no_slope(pictures, columns, classes):
    """Strictly convex: the one point without a slope is the minimum. The last set is separable."""
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(pictures, columns)), np.arange(pictures) % classes
    rows[:, 0] += labels
    weights = torch.from_numpy(shortcut._logistic(rows, labels, classes)).requires_grad_()
    nats = F.cross_entropy(torch.from_numpy(rows) @ weights, torch.from_numpy(labels))
    [slope] = torch.autograd.grad(nats + 1e-3 * weights.square().sum(), weights)
    assert slope.abs().max() < 1e-12


def test_many_classes_have_the_minimum_that_newtons_method_finds(monkeypatch):
    """One minimum, two ways to it: SciPy's for many classes."""
    generator = np.random.default_rng(4)
    rows, labels = generator.normal(size=(200, 5)), generator.integers(0, 3, 200)
    rows[:, 0] += labels
    by_newton = shortcut._logistic(rows, labels, 3)
    monkeypatch.setattr(shortcut, "_MOST_BY_NEWTON", 2)
    by_scipy = shortcut._logistic(rows, labels, 3)
    assert (by_scipy != by_newton).any(), "the other way was taken"
    assert np.allclose(by_scipy, by_newton, atol=1e-3)
