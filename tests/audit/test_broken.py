"""Every broken scheme is caught, and every repair passes at the same power."""

import numpy as np
import pytest

from wardround.accounting.events import GaussianEvent
from wardround.audit.broken import SCHEMES, decide, try_all

RUNS = 3000


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_the_broken_scheme_is_caught_and_its_repair_is_not(scheme):
    generator = np.random.default_rng(2026)
    _, caught = decide(scheme.broken, scheme.claim, generator, RUNS)
    assert caught
    bounds, caught = decide(scheme.repaired, scheme.repaired_claim, generator, RUNS)
    assert not caught
    assert all(bound.epsilon <= bound.ceiling for bound in bounds)


def test_the_decision_follows_from_scores_alone():
    def shifted(shift):
        return lambda is_in, generator, runs: is_in * shift + generator.normal(size=(runs, 1))

    outcomes = [
        decide(shifted(shift), GaussianEvent(1.0), np.random.default_rng(3), RUNS)[1] for shift in (1.0, 1.5)
    ]
    assert outcomes == [False, True]


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_other_seeds_come_to_the_same(seed):
    assert [one.caught for one in try_all(seed)] == [one.broken for one in try_all(seed)]
