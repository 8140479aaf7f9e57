"""Robust means: reductions to the mean, the theorems on bad hospitals, and the cost in noise."""

import math
from typing import Any

import numpy as np
import pytest
from tests.audit.studies import study_of
from tests.charges import charges_in
from tests.federation.test_aggregators import ANSWERS, SILENT, collect

from wardround.accounting.events import NoEvent
from wardround.agreed.plans import plan_of
from wardround.coordinator.certificate import all_were_present
from wardround.coordinator.observer import Silent
from wardround.errors import FederationError, StudyError
from wardround.federation.aggregators import PlainSum
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer
from wardround.federation.robust import (
    Krum,
    Mean,
    Median,
    MultiKrum,
    Robust,
    Trimmed,
    bounded,
    contributions,
    robust_mean,
)
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.noisers import NoiseShares
from wardround.privacy.plans.adversaries import insiders_of
from wardround.records.reading import read_lines
from wardround.simulation.run import run_study

RULES = [Mean(), Median(), Trimmed(1), Krum(1), MultiKrum(1)]
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
    assert robust_mean(MultiKrum(1), points).tolist() == pytest.approx(
        [(0.1 + 0.0) / 2]
    )  # and the first of equals


def test_multi_krum_without_bad_hospitals_takes_all_but_two_and_of_three_is_krum():
    points = updates(7, size=3)
    far = np.vstack([points, np.full((2, 3), 1e3, np.float32)])
    assert np.allclose(robust_mean(MultiKrum(0), far), points.mean(axis=0))
    assert np.array_equal(robust_mean(MultiKrum(0), points[:3]), robust_mean(Krum(0), points[:3]))


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        (Median(), 1.15, 1.25),
        (Trimmed(1), 1.02, 1.15),
        (Krum(1), math.sqrt(5) * 0.9, math.sqrt(5) * 1.05),
        (MultiKrum(1), math.sqrt(5 / 2) * 0.9, math.sqrt(5 / 2) * 1.05),
    ],
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


def test_contributions_are_parts_of_the_sum_and_a_turned_answer_has_one_below_zero():
    own = updates(5, size=50, seed=2) + 3
    own[1] *= -1
    total = own.sum(axis=0)
    scores = contributions(total - own)
    assert scores == pytest.approx(own @ total / (total @ total), rel=1e-3)
    assert scores.sum() == pytest.approx(1, rel=1e-3)
    assert scores[1] < 0 < np.delete(scores, 1).min()


def test_equal_noise_moves_contributions_towards_equality():
    own = np.array([[3.0], [1.0], [1.0]]) * np.ones((1, 2000)) / 50
    noise = updates(3, size=2000, seed=3)
    clear, noised = (contributions((own.sum(axis=0) - own + z * noise).astype(np.float32)) for z in (0, 1))
    assert clear == pytest.approx([0.6, 0.2, 0.2], rel=1e-3)
    assert np.ptp(noised) < np.ptp(clear) / 2


def leaving_out(answers, rounds, **changes):
    """The state after rounds of which the last ones leave one hospital out each, and who was asked in each round."""
    asked = []

    def reply(requests):
        asked.append("".join(requests))
        return {name: answers[name] for name in requests}

    first = rounds - len(answers) + 1
    sgd = FedSGD(Call("a study", **changes), PlainSum(), 1.0, 0.0, 1.0, 12, left_out_from=first)
    channel = InProcessChannel(tuple(answers), reply)
    state = sgd.init(np.zeros(2, np.float32), channel)
    for round in range(1, rounds + 1):
        state = sgd.update(state, channel, round)
    return state, asked


def test_the_last_rounds_leave_each_hospital_out_once_and_no_step_is_shorter_for_it():
    answers = {name: Answer(np.array([1.0, k], np.float32), NoEvent()) for k, name in enumerate("abc")}
    state, asked = leaving_out(answers, 5)
    assert asked == ["abc", "abc", "bc", "ac", "ab"]
    # of the first number every hospital gives 1: 3 / 12 in a whole round, and 2 / 8 in one without a hospital
    assert state["weights"] == pytest.approx([-5 / 4, -2 * 3 / 12 - (3 + 2 + 1) / 8])
    assert state["left_out"].tolist() == [[2, 3], [2, 2], [2, 1]]
    assert state["contributions"] == pytest.approx([3 / 18, 6 / 18, 9 / 18])


def test_a_hospital_that_is_left_out_is_one_of_those_whose_noise_may_be_missing():
    """With noise for one missing hospital of four, no other one may be missing from a sum without one."""
    answers = {name: Answer(np.ones(2, np.float32), NoEvent()) for name in "abcd"}
    leaving_out(answers, 4, allowed_missing=1)
    with pytest.raises(FederationError, match="at most 0 may be missing"):
        leaving_out(answers | {"d": SILENT}, 4, allowed_missing=1)
    leaving_out(answers | {"d": SILENT}, 4, allowed_missing=2)


SHARES = {"trust": "secure-aggregation", "dropouts": 1}


@pytest.mark.parametrize(
    ("privacy", "federation", "hospitals"),
    [
        ({"sum": "masked", "dropouts": None}, {}, 5),
        ({"sum": "simulated"}, {}, 5),
        ({"trust": "nobody"}, {"strategy": "alone"}, 5),
        (SHARES, {"rounds": 5}, 5),
        ({"trust": "nobody"}, {}, 2),
        ({"trust": "nobody"}, {"aggregate": "median"}, 5),
        ({"trust": "nobody"}, {"norm_bound": 1.0}, 5),
    ],
)
def test_leaving_out_is_refused_where_sums_without_a_hospital_lack_noise_or_meaning(
    privacy, federation, hospitals
):
    with pytest.raises(StudyError) as refused:
        study_of(privacy, {"leave_one_out": True, **federation}, hospitals=hospitals, rounds=9)
    assert refused.value.code == "study-leave-one-out"


def test_a_sum_without_a_hospital_is_a_release_of_the_plan_as_every_other():
    """Epsilon is that of as many rounds, at the noise that is left where one share is missing."""
    plain = study_of(SHARES, hospitals=5, rounds=9)
    without = study_of(SHARES, {"leave_one_out": True}, hospitals=5, rounds=9)
    assert plan_of(without).epsilon_after(9) == plan_of(plain).epsilon_after(9)
    assert plan_of(without).noiser == NoiseShares(5, colluders=1, dropouts=1)
    assert without.digest != plain.digest


@pytest.mark.thorough
@pytest.mark.parametrize("sum", ["masked", "simulated"])
def test_a_run_gives_contributions_and_charges_each_hospital_for_its_rounds(tiny_study, tmp_path, sum):
    study = tiny_study(
        privacy={**SHARES, "epsilon": 8.0, "sum": sum},
        hospitals={"count": 4},
        federation={"rounds": 6, "leave_one_out": True},
    )
    path = run_study(study, tmp_path / "run", Silent()).path
    lines: list[Any] = read_lines(path / "rounds.jsonl")
    [*before, last] = lines
    assert math.fsum(last["contributions"]) == pytest.approx(1, rel=1e-3)
    assert not any("contributions" in line for line in before)
    charges = charges_in(path / "ledger.sqlite")
    assert [len(of) for of in charges.values()] == [1 + 5] * 4  # a count, and all rounds but one


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
        ({"trust": "nobody"}, {"aggregate": "multi-krum", "byzantine": 2}),
        ({}, {"aggregate": "multi-krum"}),
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


def test_a_certificate_of_rounds_without_a_hospital_lists_nobody_who_needs_every_share():
    study = study_of(SHARES | {"sum": "masked"}, {"leave_one_out": True}, hospitals=4, rounds=9)
    plan = plan_of(study)
    history: list[dict[str, object]] = [{"round": round} for round in range(1, 10)]
    assert not all_were_present(study, plan, history)
    assert all_were_present(study_of(SHARES | {"sum": "masked"}, hospitals=4, rounds=9), plan, history)
    named = {row.adversary for row in insiders_of(plan, all_present=False)}
    assert named < {row.adversary for row in insiders_of(plan)}
