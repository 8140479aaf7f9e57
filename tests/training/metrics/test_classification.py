import json
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)

from wardround.errors import DataError, ModelError
from wardround.training.metrics.classification import Metrics, evaluate
from wardround.training.metrics.ranking import auroc, sensitivity_at


def generator(seed=0):
    return np.random.default_rng(seed)


def exactly(expected):
    """Equal but for the order in which doubles were added up."""
    return pytest.approx(expected, rel=1e-12, abs=1e-12)


def correlation(labels, called):
    """Matthews' correlation from the indicators of all classes (Gorodkin 2004)."""
    x, y = (np.eye(labels.max() + 1)[values] for values in (labels, called))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return (x * y).sum() / sqrt((x * x).sum() * (y * y).sum())


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
        assert auroc(scores, labels) == exactly(roc_auc_score(labels, scores[:, 1]))
    else:
        assert auroc(scores, labels) is None


@pytest.mark.parametrize("seed", range(3))
def test_two_class_metrics_are_sklearns(seed):
    scores, labels, patients = mediocre(200, 2, seed, decimals=1)
    metrics = evaluate(scores, labels, patients, generator=generator(), num_resamples=10)
    called = (scores[:, 1] > 0.5).astype(int)
    assert metrics.accuracy == exactly(accuracy_score(labels, called))
    assert metrics.balanced_accuracy == exactly(balanced_accuracy_score(labels, called))
    assert metrics.sensitivity == exactly(recall_score(labels, called))
    assert metrics.specificity == exactly(recall_score(labels, called, pos_label=0))
    assert metrics.auroc == exactly(roc_auc_score(labels, scores[:, 1]))
    assert metrics.auprc == exactly(average_precision_score(labels, scores[:, 1]))
    assert metrics.matthews == exactly(np.corrcoef(labels, called)[0, 1])
    assert metrics.matthews == matthews_corrcoef(labels, called)
    assert metrics.class_shares == pytest.approx([1 - labels.mean(), labels.mean()])
    assert metrics.majority_accuracy == pytest.approx(max(labels.mean(), 1 - labels.mean()))


def test_several_class_metrics_are_sklearns():
    scores, labels, patients = mediocre(200, 4)
    metrics = evaluate(scores, labels, patients, generator=generator(), num_resamples=10)
    assert metrics.auroc == exactly(roc_auc_score(labels, scores, multi_class="ovr"))
    one_hot = np.eye(4)[labels]
    assert metrics.auprc == exactly(average_precision_score(one_hot, scores, average="macro"))
    assert metrics.matthews == exactly(correlation(labels, scores.argmax(axis=1)))
    assert metrics.matthews == matthews_corrcoef(labels, scores.argmax(axis=1))
    assert metrics.balanced_accuracy == exactly(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    assert metrics.sensitivity is metrics.specificity is None
    assert metrics.sensitivity_at_fixed_specificity is metrics.quadratic_kappa is None


INTERVALS = [name for name in Metrics.__dataclass_fields__ if name.endswith("_interval")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grades", [2, 3, 5])
def test_quadratic_weighted_kappa_is_sklearns(seed, grades):
    scores, labels, patients = mediocre(150, grades, seed)
    metrics = evaluate(scores, labels, patients, generator=generator(), num_resamples=10, grades=True)
    expected = cohen_kappa_score(labels, scores.argmax(axis=1), weights="quadratic", labels=range(grades))
    assert metrics.quadratic_kappa == exactly(expected)


def test_kappa_falls_with_the_distance_of_the_mistakes_where_accuracy_does_not():
    labels = np.arange(50) % 5
    near, far = (np.eye(5)[np.where(labels == 0, off, labels)] for off in (1, 4))
    one, other = (
        evaluate(s, labels, np.arange(50), generator=generator(), num_resamples=2, grades=True)
        for s in (near, far)
    )
    assert one.accuracy == other.accuracy
    assert one.quadratic_kappa is not None
    assert other.quadratic_kappa is not None
    assert one.quadratic_kappa > other.quadratic_kappa + 0.3


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40), st.floats(0, 1))
def test_sensitivity_at_a_specificity_is_the_highest_of_all_thresholds(pairs, specificity):
    score = np.array([score / 5 for score, _ in pairs])
    labels = np.array([int(label) for _, label in pairs])
    ours = sensitivity_at(score, labels == 1, specificity)
    if len(set(labels)) < 2:
        assert ours is None
        return
    called = [score >= threshold for threshold in (*score, np.inf)]
    specific = [c for c in called if np.mean(~c[labels == 0]) >= specificity - 1e-12]
    assert ours == exactly(max(np.mean(c[labels == 1]) for c in specific))


@pytest.mark.thorough
def test_the_intervals_are_those_of_drawing_patients_by_hand():
    scores, labels, patients = mediocre(120, 2, patients=30)
    metrics = evaluate(scores, labels, patients, generator=generator(1), num_resamples=4000, grades=True)
    oracles = {
        "auroc": lambda y, s: roc_auc_score(y, s[:, 1]),
        "auprc": lambda y, s: average_precision_score(y, s[:, 1]),
        "accuracy": lambda y, s: np.mean((s[:, 1] > 0.5) == y),
        "balanced_accuracy": lambda y, s: balanced_accuracy_score(y, s[:, 1] > 0.5),
        "quadratic_kappa": lambda y, s: cohen_kappa_score(y, s[:, 1] > 0.5, weights="quadratic"),
    }
    assert {f"{name}_interval" for name in oracles} == set(INTERVALS)
    rng, by_hand = generator(2), []
    for _ in range(300):
        drawn = np.concatenate([np.flatnonzero(patients == p) for p in rng.integers(30, size=30)])
        by_hand.append([oracle(labels[drawn], scores[drawn]) for oracle in oracles.values()])
    for name, values in zip(oracles, np.transpose(by_hand), strict=True):
        interval = getattr(metrics, f"{name}_interval")
        expected = np.quantile(values, [0.025, 0.975])
        # The standard error of these quantiles is about 0.1 of the interval's width.
        assert [interval.low, interval.high] == pytest.approx(expected, abs=0.3 * np.ptp(expected)), name


def test_a_model_that_calls_everything_one_class_has_no_correlation():
    metrics = evaluate(
        binary([0.1, 0.2, 0.3]), np.array([0, 1, 0]), np.arange(3), generator=generator(), grades=True
    )
    assert metrics.matthews is None
    assert metrics.quadratic_kappa == 0.0


def test_grades_that_chance_could_not_miss_have_no_agreement():
    metrics = evaluate(binary([0.1, 0.2]), np.zeros(2, int), np.arange(2), generator=generator(), grades=True)
    assert (metrics.quadratic_kappa, metrics.quadratic_kappa_interval) == (None, None)


def test_pictures_of_one_patient_do_not_narrow_the_interval():
    scores, labels, patients = mediocre(100, 2)
    single = evaluate(scores, labels, patients, generator=generator(), grades=True)
    ninefold = (np.repeat(a, 9, axis=0) for a in (scores, labels, patients))
    nine = evaluate(*ninefold, generator=generator(), grades=True)
    assert nine.n_pictures == 9 * single.n_pictures
    assert nine.n_patients == single.n_patients
    for name in INTERVALS:
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
    monkeypatch.setattr("wardround.training.metrics.bootstrap._CHUNK", 7 * 60)
    assert evaluate(*given_set, generator=generator(4), num_resamples=50) == whole


def test_a_test_set_of_one_class_has_no_auroc():
    metrics = evaluate(binary([0.2, 0.9, 0.7]), np.ones(3, dtype=int), np.arange(3), generator=generator())
    assert (metrics.auroc, metrics.auroc_interval, metrics.specificity) == (None, None, None)
    assert (metrics.auprc, metrics.auprc_interval, metrics.matthews) == (None, None, None)
    assert metrics.sensitivity_at_fixed_specificity is None
    assert metrics.sensitivity == metrics.accuracy == metrics.balanced_accuracy == pytest.approx(2 / 3)
    assert metrics.majority_accuracy == 1.0


def test_one_patient_has_no_interval():
    metrics = evaluate(binary([0.2, 0.9]), np.array([0, 1]), np.array([7, 7]), generator=generator())
    assert metrics.auroc == 1.0
    assert all(getattr(metrics, name) is None for name in INTERVALS)


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
