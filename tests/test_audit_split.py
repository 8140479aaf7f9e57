"""The audit of the division of patients: it refutes the one of before, and not the one by each patient's own id."""

import json

import pytest
from benchmarks.audit_split import (
    CLAIM,
    CLOSES,
    DIVISIONS,
    OPENS,
    PAGE,
    RESULT,
    audit,
    markdown,
    study_of,
)

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
@pytest.mark.parametrize("division", DIVISIONS)
def test_a_small_audit_with_fixed_seeds_sees_one_of_them_only(division, tmp_path):
    found = audit(study_of(800, 3, str(tmp_path), seed=1000), DIVISIONS[division], 200)
    if division == "by-own-id":
        assert found.moved == 0
        assert found.sensitivity <= 1
        assert max(found.epsilon, found.epsilon_gaussian) < CLAIM
    else:
        assert found.moved > 50
        assert found.sensitivity > 3
        assert found.epsilon_gaussian > CLAIM
