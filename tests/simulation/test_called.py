"""Calls at released thresholds, and the calibration that `predict` gives, held against other ways to compute them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wardround.inference.calibration import FromScores, Probabilities
from wardround.models.operating_point import ByArgmax, ByThreshold, Threshold
from wardround.simulation.called import called
from wardround.training.metrics.calibration import reliability
from wardround.training.patients import TrainingPatients

WEIGHTS = np.zeros(1, dtype=np.float32)


def materials_of(logits, labels, counts) -> Any:
    """Test patients whose logits are given, (picture, class)."""
    rows, starts = np.arange(len(labels)), np.concatenate([[0], np.cumsum(counts)])
    shares = torch.from_numpy(logits).softmax(dim=1).numpy()
    return SimpleNamespace(
        test=TrainingPatients(rows, labels, starts, np.zeros((len(counts), 2), dtype=np.uint64)),
        images=SimpleNamespace(class_names=("a", "b", "c")[: logits.shape[1]]),
        workbench=SimpleNamespace(probabilities=lambda weights, wanted: shares[wanted]),
    )


def by_threshold(name, slope, intercept, *scores):
    thresholds = tuple(Threshold(sensitivity=0.9, score=score, noise_std=0.0) for score in scores)
    return ByThreshold(class_name=name, thresholds=thresholds, slope=slope, intercept=intercept, patients_std=0.1)


@pytest.fixture
def drawn():
    def draw(classes):
        generator = np.random.default_rng(classes)
        counts = generator.integers(1, 4, size=60)
        labels = generator.integers(0, classes, size=counts.sum())
        return generator.normal(size=(len(labels), classes)) + 2 * np.eye(classes)[labels], labels, counts

    return draw


@pytest.mark.parametrize("classes", [2, 3])
def test_the_calibration_is_that_of_predict(drawn, classes):
    logits, labels, counts = drawn(classes)
    names, curves = ("b",) if classes == 2 else ("a", "b", "c"), [(1.5, -0.5), (0.7, 0.2), (1.1, 0.4)]
    points = [by_threshold(name, *curve, 0.1) for name, curve in zip(names, curves, strict=False)]
    slopes, intercepts = zip(*curves[: len(points)], strict=True)
    shown = Probabilities(FromScores(slopes, intercepts))(torch.from_numpy(logits)).numpy()
    rows, calibration = called(points, WEIGHTS, materials_of(logits, labels, counts))
    assert len(rows) == len(points)
    assert calibration["released"]
    expected = reliability(shown, labels)
    bins: Any = calibration["bins"]
    for found, wanted in zip(bins, expected, strict=True):
        assert found["count"] == wanted.count
        assert found["mean_confidence"] == pytest.approx(wanted.mean_confidence)
    distance = ((shown - np.eye(classes)[labels]) ** 2).sum(axis=1).mean() / 2
    assert calibration["brier"] == pytest.approx(distance)


def test_rates_are_counted_and_their_intervals_are_over_patients(drawn):
    """Each patient's pictures twice over: the same rates, and the same intervals, for the patients are as many."""
    logits, labels, counts = drawn(2)
    score = 0.3
    of, materials = by_threshold("b", 1.0, 0.0, score), materials_of(logits, labels, counts)
    [row], _ = called([of], WEIGHTS, materials)
    [largest], _ = called([ByArgmax(class_name="b", reason="noise")], WEIGHTS, materials)
    is_called = logits[:, 1] - logits[:, 0] >= score
    assert row["sensitivity"] == pytest.approx(is_called[labels == 1].mean())
    assert row["specificity"] == pytest.approx(1 - is_called[labels == 0].mean())
    assert row["accuracy"] == pytest.approx((is_called == labels).mean())
    assert (largest["asked_sensitivity"], largest["score"], largest["reason"]) == (None, 0.0, "noise")
    around: Any = row["sensitivity_interval"]
    low, high = around.values()
    assert low < row["sensitivity"] < high
    twice = np.repeat(np.arange(len(labels)), 2)
    [again], _ = called([of], WEIGHTS, materials_of(logits[twice], labels[twice], 2 * counts))
    assert again == row


def test_a_class_that_nobody_has_gives_no_rate(drawn):
    logits, labels, counts = drawn(2)
    [row], calibration = called(
        [ByArgmax(class_name="b", reason="")], WEIGHTS, materials_of(logits, labels * 0, counts)
    )
    assert (row["sensitivity"], row["sensitivity_interval"]) == (None, None)
    assert row["specificity"] is not None
    assert not calibration["released"]
