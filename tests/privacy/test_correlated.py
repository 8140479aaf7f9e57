import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter
from tests import plans
from tests.names import names

from wardround.accounting.events import GaussianEvent, leaves
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.calibrate import calibrated, not_private
from wardround.privacy.plans.kinds import Clip, CorrelatedGradients, PublicSize
from wardround.privacy.plans.releases import correlated_sum, correlation_of, noised_sum, sample, share_of_patients
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness

ROUNDS, SIZE = 7, 40_000
CORRELATION = Correlation(ROUNDS, cohorts=3, bands=3, momentum=0.9)
RANDOMNESS = Randomness(3, "correlated")
NO_SUM = ClippedSum(torch.zeros(SIZE), 0.5)


def sums(**fields):
    defaults: dict[str, Any] = dict(
        clip=Clip(0.5), noise=GaussianEvent(0.8), correlation=CORRELATION, size=PublicSize(12),
        noiser=ByEachHospital(3),
    )  # fmt: skip
    return CorrelatedGradients(**(defaults | fields))


def std_of(part):
    """Of the noise of a whole run, whatever the rounds."""
    return part.noise.noise_multiplier * part.clip.norm * CORRELATION.sensitivity


def noise_of_a_run(part, hospital="a"):
    """Returns a hospital's releases when its sums are zero, (round, parameter)."""
    released: list[np.ndarray] = []
    earlier: list[np.ndarray] = []
    correlation = correlation_of(part)
    assert correlation is not None
    for round in range(1, correlation.rounds + 1):
        stream = RANDOMNESS.stream(hospital, "noise", round)
        release, noise = correlated_sum(part, NO_SUM, earlier, stream)
        earlier = [noise, *earlier][: correlation.bands - 1]
        released.append(release)
    return np.stack(released).astype(np.float64)


def covariance_of(correlation, std):
    column = lfilter([1.0], correlation.coefficients, np.eye(1, correlation.rounds)[0])
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
    part = sums()
    std = std_of(part)
    noise = noise_of_a_run(part)
    assert has_covariance(noise, covariance_of(CORRELATION, std))
    assert not has_covariance(noise, covariance_of(CORRELATION, std * 0.95))
    assert not has_covariance(noise, covariance_of(CORRELATION, std * 1.05))
    assert not has_covariance(noise, covariance_of(replace(CORRELATION, bands=2), std))
    assert not has_covariance(noise, std**2 * np.eye(ROUNDS))
    assert all(stats.kstest(row / row.std(), "norm").pvalue > 1e-4 for row in noise)


def test_encoded_the_noise_of_a_run_is_independent_and_of_one_std():
    part = sums()
    matrix = np.linalg.inv(np.linalg.cholesky(covariance_of(CORRELATION, 1.0)))  # C: lower triangular
    encoded = matrix @ noise_of_a_run(part)
    assert has_covariance(encoded, std_of(part) ** 2 * np.eye(ROUNDS))


def test_the_shares_of_the_honest_hospitals_add_up_to_the_promised_noise():
    part = sums(noiser=NoiseShares(5, 2))
    std = std_of(part)
    shares = [noise_of_a_run(part, name) for name in "abcde"]
    assert has_covariance(sum(shares[:3]), covariance_of(CORRELATION, std))
    assert has_covariance(sum(shares), covariance_of(CORRELATION, std * math.sqrt(5 / 3)))
    assert not has_covariance(sum(shares[:2]), covariance_of(CORRELATION, std))


def test_with_one_band_every_rounds_noise_is_that_of_plain_sums():
    alone = replace(CORRELATION, bands=1)
    part = sums(correlation=alone)
    assert alone.sensitivity == pytest.approx(math.sqrt(alone.participations))
    ordinary = plans.gradients(noise=GaussianEvent(part.noise.noise_multiplier * alone.sensitivity))
    for round, released in enumerate(noise_of_a_run(part), start=1):
        stream = RANDOMNESS.stream("a", "noise", round)
        assert np.array_equal(released, noised_sum(ordinary, NO_SUM, stream))


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_a_run_is_one_gaussian_release_calibrated_in_closed_form(epsilon):
    plan = calibrated(plans.plan(sums()), epsilon)
    noise = plans.training_of(plan).noise
    least = analytic_gaussian_noise_multiplier(epsilon, 1e-5)
    assert least <= noise.noise_multiplier <= least * 1.001
    assert leaves(plan.event_after(1)) == ((noise, 1),)
    assert plan.epsilon <= epsilon
    assert plan.epsilon_after(0) == 0


def test_one_cohort_is_full_participation_at_the_same_noise_and_epsilon():
    everyone = Correlation(ROUNDS, cohorts=1, bands=1)
    correlated = plans.training_of(calibrated(plans.plan(sums(correlation=everyone)), 2.0))
    ordinary = plans.training_of(calibrated(plans.plan(plans.gradients(sampling_prob=1.0, releases=ROUNDS)), 2.0))
    same = correlated.noise.noise_multiplier * everyone.sensitivity
    assert same == pytest.approx(ordinary.noise.noise_multiplier, rel=1e-3)
    assert share_of_patients(correlated) == share_of_patients(ordinary) == 1


def test_a_patient_is_in_every_round_of_one_cohort_and_in_no_other():
    cohorts = CORRELATION.cohorts_of(names(50), RANDOMNESS.stream("cohorts"))
    taken = np.zeros((ROUNDS, 50), dtype=int)
    for round in range(1, ROUNDS + 1):
        taken[round - 1, CORRELATION.chosen(cohorts, round)] = 1
    for patient, cohort in enumerate(cohorts):
        assert np.flatnonzero(taken[:, patient]).tolist() == list(range(cohort, ROUNDS, 3))
    assert taken.sum(axis=0).max() == CORRELATION.participations == 3


def test_adding_a_patient_changes_nobody_elses_cohort():
    many = CORRELATION.cohorts_of(names(21), RANDOMNESS.stream("cohorts"))
    for left_out in (0, 7, 20):
        others = np.delete(names(21), left_out, axis=0)
        fewer = CORRELATION.cohorts_of(others, RANDOMNESS.stream("cohorts"))
        assert np.array_equal(np.delete(many, left_out), fewer)


def test_cohorts_are_uniform_and_independent_between_patients():
    cohorts = CORRELATION.cohorts_of(names(60_000), RANDOMNESS.stream("many"))
    assert stats.chisquare(np.bincount(cohorts, minlength=3)).pvalue > 1e-4
    pairs = np.bincount(3 * cohorts[::2] + cohorts[1::2], minlength=9)
    assert stats.chisquare(pairs).pvalue > 1e-4
    dealt = np.arange(60_000) % 3  # cohorts of equal size would move others when one patient is added
    assert stats.chisquare(np.bincount(3 * dealt[::2] + dealt[1::2], minlength=9)).pvalue < 1e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clip": Clip(0.5, AdaptiveNorm())}, "one clipping norm"),
        ({"noiser": ByCoordinator(3)}, "trust cannot be coordinator"),
        ({"noiser": NoiseShares(3, 1, 1)}, "every hospital in every round"),
        ({"clip": Clip(math.inf)}, "must clip"),
    ],
)
def test_a_part_whose_noise_would_not_be_what_it_says_is_refused(changed, message):
    with pytest.raises(PrivacyError, match=message):
        sums(**changed)


def test_independent_noise_on_a_correlated_round_is_refused():
    with pytest.raises(PrivacyError, match="follows from earlier"):
        noised_sum(sums(), NO_SUM, RANDOMNESS.stream("x"))
    with pytest.raises(PrivacyError, match="do not sample"):
        sample(sums(), names(3), RANDOMNESS.stream("x"))
    with pytest.raises(PrivacyError, match="must correlate its noise"):
        correlated_sum(plans.gradients(), NO_SUM, [], RANDOMNESS.stream("x"))


def test_a_sum_that_was_clipped_otherwise_is_refused():
    with pytest.raises(PrivacyError, match="sensitivity"):
        correlated_sum(sums(), replace(NO_SUM, sensitivity=0.6), [], RANDOMNESS.stream("x"))


def test_without_privacy_cohorts_stay_and_noise_goes():
    plan = not_private(plans.plan(sums()), 1)
    assert not noise_of_a_run(plan.training).any()
    assert share_of_patients(plan.training) == 1 / 3
    assert plan.epsilon == math.inf


def test_the_statement_says_what_a_run_is_and_what_must_be_kept_secret():
    plan = calibrated(plans.plan(sums(noiser=NoiseShares(3, 1))), 2.0)
    statement = statement_of(plan, simulated=False, seeded=False)
    assert 1.99 < statement.epsilon <= 2
    assert statement.sampler == "fixed cohorts: each patient every 3 rounds, 3 times at most"
    assert "correlated over rounds" in statement.mechanism
    assert "keeps its noise of earlier rounds to itself" in statement.sentence()
    assert 1.99 < insiders_of(plan)[1].epsilon <= 2
