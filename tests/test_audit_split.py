"""The audit of the division of patients: it refutes the one of before, and not the one by each patient's own id."""

import json

import numpy as np
import pytest
from benchmarks.audit_split import (
    CLAIM,
    CLOSES,
    DELTA,
    DIVISIONS,
    OPENS,
    PAGE,
    RESULT,
    audit,
    clopper_pearson,
    gaussian,
    markdown,
    study_of,
)
from tests.cases import family

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent

RUNS = 300


def test_the_committed_audit_stays_below_the_claim_and_sees_the_division_of_before():
    found = json.loads(RESULT.read_text())
    ours, before = found["divisions"]["by-own-id"], found["divisions"]["by-permutation"]
    assert (found["claim"]["epsilon"], found["runs"]) == (1.0, RUNS)
    assert max(ours["epsilon"], ours["epsilon_gaussian"]) < CLAIM
    assert min(before["epsilon"], before["epsilon_gaussian"]) >= 2.5
    assert (ours["moved"], before["moved"] > 50) == (0, True)
    assert f"{OPENS}\n{markdown(found)}\n{CLOSES}" in PAGE.read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("shift", family([0.0, 0.268, 6.0], keep=[6.0]))
def test_both_bounds_are_below_the_truth_and_see_a_large_one(shift):
    epsilon = epsilon_of(GaussianEvent(1 / shift), DELTA) if shift else 0.0
    generator = np.random.default_rng(0)
    bounds = []
    for _ in range(20):
        without, within = generator.normal(0, 1, RUNS), generator.normal(shift, 1, RUNS)
        bounds.append([clopper_pearson(without, within), gaussian(without, within)])
    wrong = (np.array(bounds) > epsilon + 0.05).mean(axis=0)
    assert max(wrong) <= 0.2  # 5 % are allowed for
    if shift == 6.0:
        assert np.median(bounds, axis=0)[0] > 3
        assert np.median(bounds, axis=0)[1] > 25


@pytest.mark.thorough
@pytest.mark.parametrize("division", DIVISIONS)
def test_a_small_audit_with_fixed_seeds_sees_one_of_them_only(division, tmp_path):
    found = audit(study_of(800, 3, str(tmp_path), seed=1000), DIVISIONS[division], 60)
    if division == "by-own-id":
        assert found.moved == 0
        assert found.sensitivity <= 1
        assert max(found.epsilon, found.epsilon_gaussian) < CLAIM
    else:
        assert found.moved > 50
        assert found.sensitivity > 3
        assert found.epsilon_gaussian > 2.5
