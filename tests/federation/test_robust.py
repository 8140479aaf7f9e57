"""Robust means: reductions to the mean, the theorems on bad hospitals, and the cost in noise."""

import math

import numpy as np
import pytest
from tests.audit.studies import study_of
from tests.federation.test_aggregators import ANSWERS, SILENT, collect

from wardround.errors import FederationError, StudyError
from wardround.federation.aggregators import PlainSum
from wardround.federation.messages import Answer
from wardround.federation.robust import Krum, Mean, Median, Robust, Trimmed, bounded, robust_mean

RULES = [Mean(), Median(), Trimmed(1), Krum(1)]
ROBUST = RULES[1:]


def updates(hospitals, size=4000, seed=1):
    return np.random.default_rng(seed).normal(size=(hospitals, size)).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
def test_hospitals_that_agree_give_their_own_update(rule):
    same = np.repeat(updates(1), 5, axis=0)
    assert np.allclose(robust_mean(rule, same), same[0])


def test_the_mean_times_its_number_is_the_plain_sum():
    assert np.allclose(collect(Robust(Mean()), ANSWERS).update, collect(PlainSum(), ANSWERS).update)
    assert np.array_equal(robust_mean(Trimmed(0), updates(5)), robust_mean(Mean(), updates(5)))


@pytest.mark.parametrize("rule", ROBUST)
def test_one_bad_hospital_of_five_moves_no_coordinate_beyond_the_others(rule):
    good = updates(4)
    for bad in (1e6, -1e6):
        moved = robust_mean(rule, np.vstack([good, np.full((1, good.shape[1]), bad, np.float32)]))
        assert (moved <= good.max(axis=0)).all()
        assert (moved >= good.min(axis=0)).all()
    assert abs(robust_mean(Mean(), np.vstack([good, np.full_like(good[:1], 1e6)]))).min() > 1e5


def test_krum_prefers_an_answer_without_noise_to_noised_ones():
    assert not robust_mean(Krum(1), np.vstack([updates(4), np.zeros((1, 4000), np.float32)])).any()


def test_krum_keeps_the_update_nearest_to_most_others():
    points = np.array([[0.0], [0.1], [0.2], [50.0], [60.0]], dtype=np.float32)
    # with n - bad - 2 = 2 neighbours: 0.05, 0.02 and 0.05 for the first three
    assert robust_mean(Krum(1), points).tolist() == points[1].tolist()


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [(Median(), 1.15, 1.25), (Trimmed(1), 1.02, 1.15), (Krum(1), math.sqrt(5) * 0.9, math.sqrt(5) * 1.05)],
)
def test_the_noise_left_by_each_rule_is_as_the_page_says(rule, least, most):
    """In std of the noise on the mean of five equal hospitals."""
    left = robust_mean(rule, updates(5, size=40_000)).std() * math.sqrt(5)
    assert least < left < most


def test_a_bound_on_the_norm_changes_longer_updates_alone():
    short, long = np.array([0.3, 0.4], np.float32), np.array([30.0, 40.0], np.float32)
    assert np.allclose(bounded(np.stack([short, long]), 1.0), [[0.3, 0.4], [0.6, 0.8]])
    answers = {
        name: Answer(np.array([3.0, 4.0, 0.0], np.float32), answer.event) for name, answer in ANSWERS.items()
    }
    assert np.allclose(collect(Robust(Mean(), 1.0), answers).update, [1.8, 2.4, 0.0])


def test_too_few_answers_end_the_round_and_none_is_no_sum():
    with pytest.raises(FederationError) as refused:
        collect(Robust(Krum(1)), ANSWERS | {"b": SILENT})
    assert refused.value.code == "federation-too-few"
    assert collect(Robust(Median()), dict.fromkeys("abc", SILENT)).update is None
    assert collect(Robust(Median()), ANSWERS | {"b": SILENT}).failures == {"b": SILENT}


def robust(privacy, federation, hospitals=5):
    return study_of(privacy, {"aggregate": "median", **federation}, hospitals=hospitals)


@pytest.mark.parametrize(
    ("privacy", "federation"),
    [
        ({}, {}),
        ({"sum": "simulated"}, {}),
        ({"trust": "coordinator"}, {}),
        ({"trust": "secure-aggregation"}, {"aggregate": "mean", "norm_bound": 1.0}),
        ({"trust": "nobody"}, {"strategy": "alone"}),
        ({"trust": "nobody"}, {"strategy": "pooled"}),
        ({"trust": "nobody"}, {"strategy": "fedavg", "fraction": 0.5}),
        ({"trust": "nobody"}, {"aggregate": "krum", "byzantine": 2}),
        ({"trust": "nobody"}, {"aggregate": "trimmed", "byzantine": 3}),
        ({"trust": "nobody"}, {"byzantine": 2}),
    ],
)
def test_robust_means_are_refused_where_single_answers_are_hidden_or_too_few(privacy, federation):
    with pytest.raises(StudyError) as refused:
        robust(privacy, federation)
    assert refused.value.code == "study-aggregate"


def test_a_study_without_robust_means_is_the_same_study_as_before():
    plain = study_of({"trust": "nobody"})
    assert "aggregate" not in plain.to_toml()
    assert study_of({"trust": "nobody"}, {"aggregate": "mean", "byzantine": 1}).digest == plain.digest
    assert robust({"trust": "nobody"}, {}, hospitals=3).digest != plain.digest
    assert 'aggregate = "median"' in robust({"trust": "nobody"}, {}).to_toml()
