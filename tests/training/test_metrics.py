import json
import time
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from wardround.errors import DataError, ModelError
from wardround.training.metrics import Metrics, auroc, evaluate


def generator(seed=0):
    return np.random.default_rng(seed)


def mediocre(pictures, classes, seed=0, patients=None, decimals=2):
    """Scores of a mediocre model, with ties, and labels in which every class occurs."""
    rng = generator(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=pictures - classes)])
    logits = np.round(rng.normal(size=(pictures, classes)) + np.eye(classes)[labels], decimals)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores, labels, np.arange(pictures) % (patients or pictures)


def binary(probabilities):
    positive = np.asarray(probabilities, dtype=np.float64)
    return np.stack([1 - positive, positive], axis=1)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_sklearns_ties_included(pairs):
    scores = binary([score / 5 for score, _ in pairs])
    labels = np.array([int(label) for _, label in pairs])
    if len(set(labels)) == 2:
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores[:, 1]))
    else:
        assert auroc(scores, labels) is None


@pytest.mark.parametrize("seed", range(3))
def test_two_class_metrics_are_sklearns(seed):
    scores, labels, patients = mediocre(200, 2, seed, decimals=1)
    metrics = evaluate(scores, labels, patients, generator=generator(), num_resamples=10)
    called = (scores[:, 1] > 0.5).astype(int)
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, called))
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, called))
    assert metrics.sensitivity == pytest.approx(recall_score(labels, called))
    assert metrics.specificity == pytest.approx(recall_score(labels, called, pos_label=0))
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, scores[:, 1]))
    assert metrics.majority_accuracy == pytest.approx(max(labels.mean(), 1 - labels.mean()))


def test_several_class_metrics_are_sklearns():
    scores, labels, patients = mediocre(200, 4)
    metrics = evaluate(scores, labels, patients, generator=generator(), num_resamples=10)
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    assert metrics.sensitivity is metrics.specificity is None


def test_the_interval_is_that_of_drawing_patients_by_hand():
    scores, labels, patients = mediocre(120, 2, patients=30)
    metrics = evaluate(scores, labels, patients, generator=generator(1), num_resamples=4000)
    rng, by_hand, right = generator(2), [], []
    for _ in range(2000):
        drawn = np.concatenate([np.flatnonzero(patients == p) for p in rng.integers(30, size=30)])
        by_hand.append(roc_auc_score(labels[drawn], scores[drawn, 1]))
        right.append(np.mean((scores[drawn, 1] > 0.5) == labels[drawn]))
    assert metrics.auroc_interval is not None
    assert metrics.accuracy_interval is not None
    for interval, values in ((metrics.auroc_interval, by_hand), (metrics.accuracy_interval, right)):
        expected = np.quantile(values, [0.025, 0.975])
        # The standard error of these quantiles is about 0.05 of the interval's width.
        assert [interval.low, interval.high] == pytest.approx(expected, abs=0.15 * np.ptp(expected))


def test_pictures_of_one_patient_do_not_narrow_the_interval():
    scores, labels, patients = mediocre(100, 2)
    single = evaluate(scores, labels, patients, generator=generator())
    nine = evaluate(*(np.repeat(a, 9, axis=0) for a in (scores, labels, patients)), generator=generator())
    assert nine.n_pictures == 9 * single.n_pictures
    assert nine.n_patients == single.n_patients
    for name in ("auroc_interval", "accuracy_interval"):
        assert getattr(nine, name).low == pytest.approx(getattr(single, name).low)
        assert getattr(nine, name).high == pytest.approx(getattr(single, name).high)


def test_intervals_of_accuracy_cover_the_truth_about_as_often_as_they_say():
    rng, covered, trials = generator(3), 0, 200
    for _ in range(trials):
        # 60 patients with 3 pictures each; a patient is right or wrong as a whole, with chance 0.7.
        right = np.repeat(rng.random(60) < 0.7, 3)
        interval = evaluate(
            binary(np.where(right, 0.9, 0.1)),
            np.ones(180, dtype=np.int64),
            np.repeat(np.arange(60), 3),
            generator=rng,
            num_resamples=300,
        ).accuracy_interval
        assert interval is not None
        covered += interval.low <= 0.7 <= interval.high
    # Four standard errors about 0.93; intervals over pictures would cover about 0.74.
    assert covered / trials > 0.93 - 4 * sqrt(0.93 * 0.07 / trials)


def test_chunks_do_not_change_what_is_drawn(monkeypatch):
    given_set = mediocre(60, 3, patients=20)
    whole = evaluate(*given_set, generator=generator(4), num_resamples=50)
    monkeypatch.setattr("wardround.training.metrics._CHUNK", 7 * 60)
    assert evaluate(*given_set, generator=generator(4), num_resamples=50) == whole


def test_a_test_set_of_one_class_has_no_auroc():
    metrics = evaluate(binary([0.2, 0.9, 0.7]), np.ones(3, dtype=int), np.arange(3), generator=generator())
    assert (metrics.auroc, metrics.auroc_interval, metrics.specificity) == (None, None, None)
    assert metrics.sensitivity == metrics.accuracy == metrics.balanced_accuracy == pytest.approx(2 / 3)
    assert metrics.majority_accuracy == 1.0


def test_one_patient_has_no_interval():
    metrics = evaluate(binary([0.2, 0.9]), np.array([0, 1]), np.array([7, 7]), generator=generator())
    assert metrics.auroc == 1.0
    assert metrics.auroc_interval is metrics.accuracy_interval is None


def test_a_score_of_exactly_one_half_is_called_negative():
    metrics = evaluate(binary([0.5, 0.5]), np.array([0, 1]), np.arange(2), generator=generator())
    assert (metrics.sensitivity, metrics.specificity, metrics.auroc) == (0.0, 1.0, 0.5)


def test_metrics_survive_json():
    metrics = evaluate(*mediocre(50, 2), generator=generator())
    back = json.loads(json.dumps(metrics.to_json(), allow_nan=False))
    assert isinstance(metrics, Metrics)
    assert metrics.auroc_interval is not None
    assert back["auroc"] == metrics.auroc
    assert back["auroc_interval"] == {"low": metrics.auroc_interval.low, "high": metrics.auroc_interval.high}


def test_a_thousand_resamples_of_six_hundred_patients_take_less_than_a_second():
    given_set = mediocre(1200, 2, patients=600, decimals=6)
    start = time.perf_counter()
    evaluate(*given_set, generator=generator())
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "patients"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), np.zeros(0, dtype=int)),
        (np.zeros((2, 2)), np.zeros(3, dtype=int), np.zeros(2, dtype=int)),
        (np.zeros((2, 2)), np.zeros(2, dtype=int), np.zeros(3, dtype=int)),
        (np.zeros((2, 1)), np.zeros(2, dtype=int), np.zeros(2, dtype=int)),
        (np.zeros((2, 2)), np.array([0, 2]), np.zeros(2, dtype=int)),
        (np.zeros((2, 2)), np.array([0, -1]), np.zeros(2, dtype=int)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(scores, labels, patients):
    with pytest.raises(DataError):
        evaluate(scores, labels, patients, generator=generator())


def test_scores_of_a_diverged_model_are_refused():
    with pytest.raises(ModelError, match="diverged"):
        evaluate(np.full((2, 2), np.nan), np.array([0, 1]), np.arange(2), generator=generator())
