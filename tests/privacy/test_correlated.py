import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.fixtures_federation import private_plan
from wardround.privacy.variants import calibrated, not_private

from wardround.accounting.events import GaussianEvent, leaves
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.wording import insiders_of, statement_of
from wardround.privacy.toeplitz import inverse_coefficients
from wardround.randomness import Randomness

ROUNDS, SIZE = 7, 40_000
CORRELATION = Correlation(ROUNDS, cohorts=3, bands=3, momentum=0.9)
RANDOMNESS = Randomness(3, "correlated")
NO_SUM = ClippedSum(torch.zeros(SIZE), 0.5)


def plan_of(**fields):
    defaults = {"sampling_prob": 1.0, "releases": 1, "correlation": CORRELATION, "noise_multiplier": 0.8}
    return private_plan(**(defaults | fields))


def noise_of_a_run(plan, hospital="a"):
    """What a hospital lets go of when its sums are zero, (round, parameter)."""
    released: list[np.ndarray] = []
    earlier: list[np.ndarray] = []
    for round in range(1, plan.correlation.rounds + 1):
        stream = RANDOMNESS.stream(hospital, "noise", round)
        release, noise = plan.correlated_release(NO_SUM, earlier, stream)
        earlier = [noise, *earlier][: plan.correlation.bands - 1]
        released.append(release)
    return np.stack(released).astype(np.float64)


def covariance_of(correlation, std):
    column = inverse_coefficients(correlation.coefficients, correlation.rounds)
    inverse = np.array(
        [[column[i - j] if i >= j else 0.0 for j in range(len(column))] for i in range(len(column))]
    )
    return std**2 * inverse @ inverse.T


def has_covariance(noise, expected):
    """Whether every entry of the empirical covariance is within five of its standard deviations."""
    found = noise @ noise.T / noise.shape[1]
    variances = np.diag(expected)
    deviation = np.sqrt((np.outer(variances, variances) + expected**2) / noise.shape[1])
    return bool(np.all(np.abs(found - expected) < 5 * deviation))


def test_the_noise_of_a_whole_run_has_the_promised_covariance_and_no_other():
    plan = plan_of()
    std = plan.noise_multiplier * plan.clipping_norm * CORRELATION.sensitivity
    noise = noise_of_a_run(plan)
    assert has_covariance(noise, covariance_of(CORRELATION, std))
    assert not has_covariance(noise, covariance_of(CORRELATION, std * 0.95))
    assert not has_covariance(noise, covariance_of(CORRELATION, std * 1.05))
    assert not has_covariance(noise, covariance_of(replace(CORRELATION, bands=2), std))
    assert not has_covariance(noise, std**2 * np.eye(ROUNDS))
    assert all(stats.kstest(row / row.std(), "norm").pvalue > 1e-4 for row in noise)


def test_encoded_the_noise_of_a_run_is_independent_and_of_one_std():
    plan = plan_of()
    matrix = np.linalg.inv(np.linalg.cholesky(covariance_of(CORRELATION, 1.0)))  # C: lower triangular
    encoded = matrix @ noise_of_a_run(plan)
    std = plan.noise_multiplier * plan.clipping_norm * CORRELATION.sensitivity
    assert has_covariance(encoded, std**2 * np.eye(ROUNDS))


def test_the_shares_of_the_honest_hospitals_add_up_to_the_promised_noise():
    plan = plan_of(hospitals=5, trust=Trust.SECURE_AGGREGATION, colluders=2)
    std = plan.noise_multiplier * plan.clipping_norm * CORRELATION.sensitivity
    shares = [noise_of_a_run(plan, name) for name in "abcde"]
    assert has_covariance(sum(shares[:3]), covariance_of(CORRELATION, std))
    assert has_covariance(sum(shares), covariance_of(CORRELATION, std * math.sqrt(5 / 3)))
    assert not has_covariance(sum(shares[:2]), covariance_of(CORRELATION, std))


def test_with_one_band_the_noise_of_every_round_is_that_of_a_plan_without_correlation():
    alone = replace(CORRELATION, bands=1)
    plan = plan_of(correlation=alone)
    times = math.sqrt(alone.participations)
    assert alone.sensitivity == pytest.approx(times)
    ordinary = private_plan(noise_multiplier=plan.noise_multiplier * alone.sensitivity)
    for round, released in enumerate(noise_of_a_run(plan), start=1):
        stream = RANDOMNESS.stream("a", "noise", round)
        assert np.array_equal(released, ordinary.hospital_release(NO_SUM, stream))


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_a_run_is_one_gaussian_release_calibrated_in_closed_form(epsilon):
    plan = calibrated(plan_of(), epsilon)
    least = analytic_gaussian_noise_multiplier(epsilon, 1e-5)
    assert least <= plan.noise_multiplier <= least * 1.001
    assert leaves(plan.event_after(1)) == ((GaussianEvent(plan.noise_multiplier), 1),)
    assert plan.epsilon <= epsilon
    assert plan.epsilon_after(0) == 0


def test_one_cohort_is_full_participation_at_the_same_noise_and_epsilon():
    everyone = Correlation(ROUNDS, cohorts=1, bands=1)
    correlated = calibrated(plan_of(correlation=everyone), 2.0)
    ordinary = calibrated(private_plan(sampling_prob=1.0, releases=ROUNDS), 2.0)
    assert correlated.noise_multiplier * everyone.sensitivity == pytest.approx(ordinary.noise_multiplier, rel=1e-3)
    assert correlated.share_of_patients == ordinary.share_of_patients == 1


def test_a_patient_is_in_every_round_of_one_cohort_and_in_no_other():
    cohorts = CORRELATION.draw_cohorts(50, RANDOMNESS.stream("cohorts"))
    taken = np.zeros((ROUNDS, 50), dtype=int)
    for round in range(1, ROUNDS + 1):
        taken[round - 1, CORRELATION.chosen(cohorts, round)] = 1
    for patient, cohort in enumerate(cohorts):
        assert np.flatnonzero(taken[:, patient]).tolist() == list(range(cohort, ROUNDS, 3))
    assert taken.sum(axis=0).max() == CORRELATION.participations == 3


def test_adding_a_patient_changes_nobody_elses_cohort():
    many = CORRELATION.draw_cohorts(21, RANDOMNESS.stream("cohorts"))
    fewer = CORRELATION.draw_cohorts(20, RANDOMNESS.stream("cohorts"))
    assert np.array_equal(many[:20], fewer)


def test_cohorts_are_uniform_and_independent_between_patients():
    cohorts = CORRELATION.draw_cohorts(60_000, RANDOMNESS.stream("many"))
    assert stats.chisquare(np.bincount(cohorts, minlength=3)).pvalue > 1e-4
    pairs = np.bincount(3 * cohorts[::2] + cohorts[1::2], minlength=9)
    assert stats.chisquare(pairs).pvalue > 1e-4
    dealt = np.arange(60_000) % 3  # cohorts of equal size would move others when one patient is added
    assert stats.chisquare(np.bincount(3 * dealt[::2] + dealt[1::2], minlength=9)).pvalue < 1e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling_prob": 0.5}, "fixed cohorts"),
        ({"clipping": ClippingKind.ADAPTIVE}, "fixed cohorts"),
        ({"releases": 7}, "one release"),
        ({"trust": Trust.COORDINATOR}, "every hospital in every round"),
        ({"trust": Trust.SECURE_AGGREGATION, "dropouts": 1}, "every hospital in every round"),
    ],
)
def test_a_plan_whose_noise_would_not_be_what_it_says_is_refused(changed, message):
    with pytest.raises(PrivacyError, match=message):
        plan_of(**changed)


def test_independent_noise_on_a_correlated_round_is_refused():
    with pytest.raises(PrivacyError, match="follows from earlier"):
        plan_of().hospital_release(NO_SUM, RANDOMNESS.stream("x"))
    with pytest.raises(PrivacyError, match="do not sample"):
        plan_of().sample(3, RANDOMNESS.stream("x"))


def test_a_sum_that_was_clipped_otherwise_is_refused():
    with pytest.raises(PrivacyError, match="sensitivity"):
        plan_of().correlated_release(replace(NO_SUM, sensitivity=0.6), [], RANDOMNESS.stream("x"))


def test_without_privacy_cohorts_stay_and_noise_goes():
    plan = not_private(plan_of(), clipped=True)
    assert not noise_of_a_run(plan).any()
    assert plan.share_of_patients == 1 / 3
    assert plan.epsilon == math.inf


def test_the_statement_says_what_a_run_is_and_what_must_be_kept_secret():
    plan = calibrated(plan_of(trust=Trust.SECURE_AGGREGATION, colluders=1), 2.0)
    statement = statement_of(plan, simulated=False, seeded=False)
    assert 1.99 < statement.epsilon <= 2
    assert statement.sampler == "fixed cohorts: each patient every 3 rounds, 3 times at most"
    assert "correlated over rounds" in statement.mechanism
    assert "keeps its noise of earlier rounds to itself" in statement.sentence()
    assert 1.99 < insiders_of(plan)[1].epsilon <= 2
