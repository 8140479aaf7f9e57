"""Histograms of scores: one test patient more or less moves the sum by at most the sensitivity, and it is reached."""

import numpy as np
import pytest

from wardround.accounting.events import GaussianEvent
from wardround.noisers import ByEachHospital
from wardround.privacy.histograms import histogram_row
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
