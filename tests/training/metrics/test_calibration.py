import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from wardround.training.metrics.calibration import brier, calibration_error, reliability
from wardround.training.metrics.classification import evaluate


def drawn(pictures, classes, seed=0):
    """Probabilities that are right as often as they say."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(classes), size=pictures)
    labels = (rng.random((pictures, 1)) > np.cumsum(scores, axis=1)).sum(axis=1)
    return scores, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_table_is_that_of_gathering_pictures_by_hand(classes):
    scores, labels = drawn(300, classes)
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    table = reliability(scores, labels)
    assert len(table) == 15
    assert sum(row.count for row in table) == 300
    for row in table:
        mine = (confidence > row.low) & (confidence <= row.high)
        assert row.count == mine.sum()
        if row.count:
            assert row.mean_confidence == pytest.approx(confidence[mine].mean())
            assert row.accuracy == pytest.approx(right[mine].mean())
        else:
            assert row.mean_confidence is row.accuracy is None
    by_hand = sum(row.count * abs((row.accuracy or 0) - (row.mean_confidence or 0)) for row in table) / 300
    assert calibration_error(table) == pytest.approx(by_hand)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=50))
def test_every_picture_is_in_one_bin_and_the_error_is_a_share(pairs):
    positive = np.array([p for p, _ in pairs])
    table = reliability(np.stack([1 - positive, positive], axis=1), np.array([y for _, y in pairs]))
    assert sum(row.count for row in table) == len(pairs)
    assert 0 <= calibration_error(table) <= 1


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_its_boast():
    scores, labels = drawn(40_000, 3)
    # 15 bins of some 2,700 pictures: mean absolute error of a share about 0.4 / sqrt(2,700).
    assert calibration_error(reliability(scores, labels)) < 0.01
    boast = np.tile([0.95, 0.05], (1000, 1))
    half_right = np.arange(1000) % 2
    assert calibration_error(reliability(boast, half_right)) == pytest.approx(0.45)


def test_brier_is_sklearns_for_two_classes_and_for_more():
    scores, labels = drawn(200, 2)
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores[:, 1]))
    scores, labels = drawn(200, 4)
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores, scale_by_half=True))


def test_metrics_carry_them():
    scores, labels = drawn(100, 3)
    metrics = evaluate(scores, labels, np.arange(100), generator=np.random.default_rng(0), num_resamples=10)
    assert metrics.reliability == reliability(scores, labels)
    assert metrics.calibration_error == calibration_error(metrics.reliability)
    assert metrics.brier == brier(scores, labels)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    edges = [row.high for row in reliability(*drawn(1, 2))]
    for place, edge in enumerate(edges):
        if edge > 0.5:
            table = reliability(np.array([[1 - edge, edge]]), np.array([1]))
            assert [row.count for row in table].index(1) == place
