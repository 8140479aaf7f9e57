"""What masked sums cost, asked before there is a study: the numbers that the study's check, run and page then have."""

import json
import math
from dataclasses import replace

import pytest
from tests.simulation.runs import run_study

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.discrete import DiscreteShares, epsilon_of_parts
from wardround.accounting.events import PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.planning import PlanQuestion, plan
from wardround.agreed.planning import masked_plan
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.report.numbers import numbers_of
from wardround.report.page import render

ASKED = PlanQuestion(
    2_000, NoiseShares(5, 1, 1), 1e-5, rounds=40, sampling_prob=0.1, noise_multiplier=1.0, parameters=500
)
TINY = ("--patients", 32, "--hospitals", 3, "--delta", 1e-3, "--rounds", 4, "--accountant", "rdp")


def test_epsilon_is_that_of_shares_sized_for_whoever_is_left():
    answer = masked_plan(ASKED)
    sensitivity = math.isqrt(3 * 4**20 - 9)  # D z <= sqrt(h 4^K - 9), at z = 1
    for row in answer.insiders:
        left = 5 - row.colluders - row.missing
        if not left:
            assert row.epsilon == math.inf
            continue
        shares = DiscreteShares(2**20, left, sensitivity, 2**40)
        sums = shares, lambda one: SelfComposedEvent(PoissonSampledEvent(0.1, one), 40)
        assert row.epsilon == epsilon_of_parts([sums], 1e-5)
    promised = [row.epsilon for row in answer.insiders if (row.colluders, row.missing) == (1, 1)]
    assert promised == [answer.epsilon]
    assert {row.colluders for row in answer.insiders} >= {0, 1, 4}, "an outsider, one insider, all but one"


@pytest.mark.parametrize("accountant", AccountantKind)
@pytest.mark.parametrize("given", [{"noise_multiplier": 1.0}, {"noise_multiplier": None, "epsilon": 4.0}])
def test_masks_cost_what_gaussian_shares_cost_and_a_slack_that_is_said(accountant, given):
    question = replace(ASKED, sampling_prob=1.0, accountant=accountant, **given)
    masked, simulated = masked_plan(question), plan(question)
    assert simulated.slack is None
    assert masked.slack == pytest.approx(2 * 40 * 2**40 * 4 * math.exp(-2 * math.pi**2 * 9), rel=1e-3, abs=0)
    assert masked.epsilon == pytest.approx(simulated.epsilon, rel=1e-5)
    assert masked.noise_multiplier == pytest.approx(simulated.noise_multiplier, rel=1e-5)
    assert masked.rdp_epsilon == pytest.approx(simulated.rdp_epsilon, rel=1e-5)
    assert masked.epsilon <= (question.epsilon or math.inf)
    for ours, theirs in zip(masked.insiders, simulated.insiders, strict=True):
        assert ours.adversary == theirs.adversary
        assert ours.epsilon == pytest.approx(theirs.epsilon, rel=1e-5)
    assert masked.feasibility == simulated.feasibility
    assert masked.mean_noise_std == pytest.approx(simulated.mean_noise_std, rel=1e-5)


def test_plan_check_certificate_and_page_have_one_table(wardround, study_file, tiny_study, tmp_path):
    sections = {"privacy": {"sum": "masked", "num_patients": 32}}
    planned = json.loads(wardround("plan", *TINY, "--epsilon", 8, "--masked", "--json").out)
    checked = json.loads(wardround("check", study_file(**sections), "--json").out)
    record = run_study(tiny_study(**sections), tmp_path / "run")
    assert planned["sum"] == "masked"
    assert planned["insiders"] == checked["insiders"] == record.certificate["insiders"]
    assert planned["epsilon"] == checked["epsilon"] == record.certificate["statement"]["epsilon"] <= 8
    assert len(planned["insiders"]) == 3

    printed = wardround("plan", *TINY, "--epsilon", 8, "--masked").out
    shown = wardround("check", study_file(**sections)).out
    page = render(numbers_of(record))
    for row in planned["insiders"]:
        assert f"{row['epsilon']:.3f}  {row['adversary']}" in printed
        assert f"against {row['adversary']}: epsilon = {row['epsilon']:.3f} at delta = 0.001" in shown
        assert row["adversary"][1:] in page
    assert f"slack of whole numbers  {planned['slack']:.1e}, included" in printed


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"noiser": ByEachHospital(5)}, "trust must be secure-aggregation"),
        ({"noiser": ByCoordinator(5)}, "trust must be secure-aggregation"),
        ({"noiser": NoiseShares(3, 1, 1)}, "must be >= 3"),
        ({"noiser": NoiseShares(2, 1, 0)}, "must be >= 3"),
        ({"noise_multiplier": 0.01}, r"2\^26"),
    ],
)
def test_what_cannot_be_masked_is_refused_with_the_reason(wrong, why):
    with pytest.raises(PrivacyError, match=why):
        masked_plan(replace(ASKED, **wrong))
