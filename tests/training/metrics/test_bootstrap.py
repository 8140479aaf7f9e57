import numpy as np
import pytest

from wardround.training.metrics.bootstrap import Interval, interval, patient_weights, picture_weights


def test_an_interval_leaves_a_fortieth_out_on_either_side():
    assert interval(np.arange(1001.0)) == Interval(25.0, 975.0)


def test_an_interval_of_which_most_resamples_know_nothing_is_none():
    known = np.arange(10.0)
    assert interval(np.concatenate([known, np.full(10, np.nan)])) is not None
    assert interval(np.concatenate([known, np.full(11, np.nan)])) is None
    assert interval(np.zeros(0)) is None


def test_every_resample_draws_as_many_patients_as_there_are_each_about_once():
    weights = patient_weights(20, np.random.default_rng(0), 5000)
    assert (weights.sum(axis=1) == 20).all()
    # A count has variance 0.95: the mean of 5,000 has a standard error of 0.014.
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.07)
    assert weights.var() == pytest.approx(0.95, abs=0.05)


def test_pictures_of_a_patient_are_drawn_together():
    patient = np.array([0, 1, 1, 2, 1])
    for weights in picture_weights(patient, np.random.default_rng(0), 100):
        assert (weights[:, 1] == weights[:, 2]).all()
        assert (weights[:, 1] == weights[:, 4]).all()
        assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
