"""Histograms of scores: one test patient more or less moves the sum by at most the sensitivity, and it is reached."""

import numpy as np
import pytest

from wardround.accounting.events import GaussianEvent
from wardround.noisers import ByEachHospital
from wardround.privacy.histograms import dice_row, histogram_row
from wardround.privacy.plans.kinds import NoisedHistograms
from wardround.work import BINS, histogram_coordinates


def sensitivity(classes):
    return NoisedHistograms(GaussianEvent(1.0), classes, ByEachHospital(3)).sensitivity


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_patient_moves_the_sum_by_at_most_the_sensitivity(classes):
    """Any pictures, any labels: the row, which is all that a patient changes, is within the bound."""
    rng = np.random.default_rng(classes)
    for _ in range(200):
        pictures = int(rng.integers(1, 9))
        scores = rng.dirichlet(np.full(classes, 0.3), size=pictures)
        row = histogram_row(scores, rng.integers(0, classes, pictures))
        assert row.shape == (histogram_coordinates(classes),)
        blocks = row.reshape(-1, 2 * BINS)
        assert blocks.sum(axis=1) == pytest.approx(1.0), "one unit in every curve"
        assert np.linalg.norm(row) <= sensitivity(classes) * (1 + 1e-12)
    one_bin = histogram_row(np.tile(np.eye(classes)[0], (5, 1)), np.zeros(5, dtype=np.int64))
    assert np.linalg.norm(one_bin) == pytest.approx(sensitivity(classes)), "reached"


def test_each_picture_is_in_the_bin_of_its_score():
    scores = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.51, 0.49]])
    row = histogram_row(scores, np.array([0, 1, 1, 0])).reshape(2, BINS)
    assert row[0, 0] == row[0, 7] == row[1, 8] == row[1, 15] == 0.25
    assert row.sum() == 1.0


def test_scores_that_are_not_finite_add_nothing():
    scores = np.array([[0.5, 0.5], [np.nan, 0.5]])
    assert not histogram_row(scores, np.array([0, 1])).any()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_patient_of_a_segmentation_is_one_count_in_every_curve(classes):
    """Whatever is predicted, and however the pictures are cut into parts."""
    rng = np.random.default_rng(classes)
    for _ in range(100):
        shape = (int(rng.integers(1, 4)), 4, 4)
        predicted, true = (rng.integers(0, rng.integers(1, classes + 1), shape, dtype=np.uint8) for _ in range(2))
        row = dice_row([(predicted, true)], classes)
        assert (row.reshape(-1, 2 * BINS).sum(axis=1) == 1.0).all()
        assert np.linalg.norm(row) == pytest.approx(sensitivity(classes)), "reached"
        parts = [(predicted[at : at + 1], true[at : at + 1]) for at in range(len(true))]
        assert np.array_equal(dice_row(parts, classes), row)


def test_each_patient_is_in_the_bin_of_their_dice():
    """By hand: 2 * 2 / (4 + 2), all of it, missed, imagined, and rightly nothing."""
    true = np.array([[1, 1, 0, 0, 0, 0]], dtype=np.uint8)
    nothing, wide = np.zeros_like(true), np.array([[1, 1, 1, 1, 0, 0]], dtype=np.uint8)
    cases = [(wide, true, 1, 10), (true, true, 1, 15), (nothing, true, 1, 0), (true, nothing, 0, 0)]
    for predicted, known, has, at in [*cases, (nothing, nothing, 0, 15)]:
        row = dice_row([(predicted, known)], 2).reshape(2, BINS)
        assert row[has, at] == row.sum() == 1.0
