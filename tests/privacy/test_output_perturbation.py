"""Noise on fitted weights: how much, on what alone, and at which price."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.fixtures_federation import private_plan
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.variants import not_private, with_output_perturbation

from wardround.accounting.events import GaussianEvent
from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit, Trust
from wardround.errors import PrivacyError
from wardround.privacy.output_perturbation import OutputPerturbation, tolerance_of
from wardround.privacy.plans.wording import insiders_of, statement_of
from wardround.randomness import Randomness
from wardround.types import HeadFit

FIT = HeadFit(0.02, 1.0, 50.0)


def plan(**fields) -> PrivacyPlan:
    base = private_plan(sampling_prob=1.0, releases=1, **fields)
    return with_output_perturbation(base, FIT, None, 2.0)


def stream(*name):
    return Randomness(4, "study").stream(*name)


def test_the_sensitivity_is_that_of_the_minimiser_and_of_two_solvers():
    tau = tolerance_of(FIT, 50.0)
    assert OutputPerturbation(FIT, 1.0).sensitivity == pytest.approx((math.sqrt(2) / 50 + 2 * tau) / 0.02)
    assert tau == pytest.approx(0.005 * math.sqrt(2) / 50)


@pytest.mark.parametrize("trust", [Trust.NOBODY, Trust.SECURE_AGGREGATION])
def test_the_noise_on_what_is_revealed_has_the_stated_std(trust):
    """Alone, or summed over the honest hospitals: 3 hospitals, of which one may collude."""
    shared = trust is Trust.SECURE_AGGREGATION
    made = plan(trust=trust, colluders=1 if shared else 0)
    honest = 2 if shared else 1
    fitted = np.linspace(-1, 1, 50_000)
    total = sum(made.hospital_head(fitted, stream(trust, k)).astype(np.float64) - fitted for k in range(honest))
    std = 2.0 * OutputPerturbation(FIT, 2.0).sensitivity
    assert stats.kstest(total / std, "norm").pvalue > 1e-3
    for wrong in (0.95, 1.05):
        assert stats.kstest(total / std * wrong, "norm").pvalue < 1e-3


def test_a_promised_epsilon_is_kept_by_one_release():
    made = with_output_perturbation(private_plan(sampling_prob=1.0, releases=7), FIT, 2.0, None)
    assert made.releases == 1
    mechanism = made.on_update
    assert isinstance(mechanism, OutputPerturbation)
    assert made.release_event == GaussianEvent(mechanism.noise_multiplier)
    assert 1.99 < gaussian_epsilon(mechanism.noise_multiplier, made.delta) <= 2.0
    assert made.epsilon == pytest.approx(gaussian_epsilon(mechanism.noise_multiplier, made.delta))
    assert (made.unit, made.relation) == (PrivacyUnit.PATIENT, NeighboringRelation.ADD_OR_REMOVE_ONE)
    assert not made.is_counted


def test_nothing_but_a_fitted_head_leaves_through_it_and_a_head_through_nothing_else():
    with pytest.raises(PrivacyError, match="must be given a fitted head"):
        plan().hospital_update(np.zeros(3, dtype=np.float32), stream("update"))
    for other in (private_plan(), replace(private_plan(), num_patients=None, count_noise_multiplier=1.0)):
        with pytest.raises(PrivacyError, match="output perturbation"):
            other.hospital_head(np.zeros(3), stream("head"))
    open_plan = not_private(plan())
    assert np.array_equal(open_plan.hospital_head(np.ones(3), stream("open")), np.ones(3))


def test_the_statement_says_who_what_and_how_far_one_patient_moves_it():
    sentence = statement_of(plan(), simulated=True, seeded=False).sentence()
    for part in ("one patient", "fitted to the end", "moves by at most 1.428", "full participation",
                 "12 patients, is a public constant", "at most 8 images"):  # fmt: skip
        assert part in sentence


def test_colluders_know_part_of_the_noise():
    rows = insiders_of(plan(trust=Trust.SECURE_AGGREGATION, colluders=1))
    assert rows[0].epsilon < rows[1].epsilon == pytest.approx(gaussian_epsilon(2.0, 1e-5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: OutputPerturbation(FIT, 0.0),
        lambda: OutputPerturbation(replace(FIT, num_patients=None), 1.0),
        lambda: with_output_perturbation(private_plan(), FIT, None, None),
        lambda: with_output_perturbation(private_plan(trust=Trust.COORDINATOR), FIT, 1.0, None),
    ],
)
def test_what_promises_nothing_is_refused(make):
    with pytest.raises(PrivacyError):
        make()


@pytest.mark.parametrize("field", ["regularisation", "row_norm", "num_patients"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_objective_without_a_bound_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(FIT, **{field: value})
