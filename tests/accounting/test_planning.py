import json
import math
from dataclasses import replace

import pytest

from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.accounting.planning import PlanQuestion, plan
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares

QUESTION = PlanQuestion(
    patients=2_000, noiser=NoiseShares(5), delta=1e-5, rounds=200, sampling_prob=0.05, epsilon=4.0, parameters=544
)


def test_a_plan_keeps_the_epsilon_it_was_asked_for():
    answer = plan(QUESTION)
    assert 4.0 * (1 - 1e-3) <= answer.epsilon <= 4.0 < answer.rdp_epsilon
    assert answer.patients_per_round == 100
    # Five shares for four honest hospitals.
    assert answer.mean_noise_std == pytest.approx(answer.noise_multiplier * math.sqrt(5 / 4) / 100)
    assert [row.epsilon for row in answer.insiders if row.colluders == 1] == [answer.epsilon]
    assert answer.feasibility == "expected to learn"


def test_noise_and_epsilon_are_two_sides_of_one_plan():
    answer = plan(QUESTION)
    back = plan(replace(QUESTION, epsilon=None, noise_multiplier=answer.noise_multiplier))
    assert back.epsilon == answer.epsilon


@pytest.mark.parametrize(
    ("noiser", "inflation"),
    [(ByCoordinator(5), 1.0), (NoiseShares(5), math.sqrt(5 / 4)), (ByEachHospital(5), math.sqrt(5))],
)
def test_who_is_trusted_decides_how_much_noise_the_mean_carries(noiser, inflation):
    answer = plan(replace(QUESTION, epsilon=None, noise_multiplier=1.0, noiser=noiser))
    assert answer.mean_noise_std == pytest.approx(inflation / 100)


@pytest.mark.parametrize(("rounds", "noise_multiplier"), [(1, 3.730632), (100, 37.30632)])
def test_full_batch_rounds_are_one_gaussian_release(rounds, noise_multiplier):
    answer = plan(PlanQuestion(2_846, ByEachHospital(1), 1e-5, rounds, epsilon=1.0))
    assert answer.noise_multiplier == pytest.approx(noise_multiplier, rel=2e-3)


@pytest.mark.parametrize(
    ("patients", "verdict"), [(3_000, "expected to learn"), (700, "doubtful"), (200, "not expected to learn")]
)
def test_feasibility_follows_the_measured_rule(patients, verdict):
    question = PlanQuestion(patients, ByEachHospital(1), 1e-5, 100, epsilon=1.0, parameters=544)
    answer = plan(question)
    assert answer.rho == pytest.approx(
        math.sqrt(544) * analytic_gaussian_noise_multiplier(1.0, 1e-5) / patients, rel=2e-3
    )
    assert (answer.feasibility or "").startswith(verdict)


def test_an_answer_is_plain_json():
    answer = plan(replace(QUESTION, noiser=ByCoordinator(5)))
    data = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert data["insiders"][-1]["epsilon"] == "infinity"
    assert data["trust"] == "coordinator"


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": None},
        {"noise_multiplier": 1.0},
        {"epsilon": None, "noise_multiplier": 0.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"sampling_prob": 0.0},
        {"sampling_prob": 1.5},
        {"rounds": 0},
        {"patients": 0},
        {"parameters": 0},
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(wrong):
    with pytest.raises(PrivacyError, match=r"must be .* got"):
        replace(QUESTION, **wrong)
