"""Lower bounds: the published numbers, the sign that matters, and a rate of error no larger than alpha."""

import numpy as np
import pytest
from scipy.stats import norm

from wardround.audit.bounds import (
    clopper_pearson,
    epsilon_of_mu,
    gdp,
    mu_of_epsilon,
    mu_of_errors,
    one_run,
    one_run_fdp,
    upper_limit,
)
from wardround.audit.trials import canaries, canaries_fdp, two_worlds, two_worlds_gdp

DELTA, ALPHA = 1e-5, 0.05


@pytest.mark.parametrize(
    ("errors", "epsilon"),
    [((0, 1000, 0, 1000), 5.6005774942916355), ((5, 1000, 900, 1000), 1.9543387442118523)],
)
def test_clopper_pearson_has_the_published_numbers(errors, epsilon):
    false_positives, negatives, false_negatives, positives = errors
    found = clopper_pearson(false_positives, negatives, false_negatives, positives, DELTA, ALPHA)
    assert found == pytest.approx(epsilon, abs=1e-9)


@pytest.mark.parametrize(("trials", "ceiling"), [(100, 3.28), (1000, 5.60), (10_000, 7.90)])
def test_clopper_pearson_has_the_published_ceilings(trials, ceiling):
    assert clopper_pearson(0, trials, 0, trials, DELTA, ALPHA) == pytest.approx(ceiling, abs=0.005)


@pytest.mark.parametrize(
    ("guessed", "epsilon"),
    [
        ((1000, 100, 100, 1e-5), 3.465376),
        ((1000, 100, 90, 1e-5), 1.626143),
        ((1000, 1000, 600, 1e-5), 0.297227),
        ((1000, 200, 180, 0.0), 1.798865),
        ((5000, 500, 480, 1e-5), 2.783021),
        ((100, 100, 60, 0.0), 0.051915),
    ],
)
def test_one_run_has_the_published_numbers(guessed, epsilon):
    number, guesses, correct, delta = guessed
    assert one_run(number, guesses, correct, delta, ALPHA) == pytest.approx(epsilon, abs=1e-6)


@pytest.mark.parametrize(("canaries_", "ceiling"), [(100, 3.49), (1000, 5.78), (10_000, 7.83)])
def test_one_run_has_the_published_ceilings(canaries_, ceiling):
    assert one_run(canaries_, canaries_, canaries_, DELTA, ALPHA) == pytest.approx(ceiling, abs=0.005)


def test_a_threshold_that_shows_nothing_adds_nothing():
    # jax_privacy 2.0.0 takes |mu|: at both ends of the scores its "bound" then is far above the truth.
    assert mu_of_errors(1000, 1000, 0, 1000, ALPHA) == 0.0
    assert mu_of_errors(990, 1000, 500, 1000, ALPHA) == 0.0
    scores = np.linspace(-1, 1, 1000)
    assert gdp(scores, scores, np.array([-0.99, 0.0, 0.99]), ALPHA) == 0.0
    # With the signs of the two rates exchanged the same counts would show much.
    assert mu_of_errors(10, 1000, 500, 1000, ALPHA) > 1.5


@pytest.mark.parametrize(
    ("guessed", "one_run_epsilon", "fdp_epsilon"),
    [
        ((1000, 100, 95, 1e-5, 0.05), 2.165176, 3.323300),
        ((2000, 400, 330, 1e-6, 0.01), 1.244064, 1.938384),
        ((512, 512, 300, 1e-5, 0.1), 0.228245, None),
        ((1000, 200, 180, 1e-5, 0.05), None, 2.901243),
        ((5000, 500, 480, 1e-5, 0.05), None, 4.062678),
    ],
)
def test_one_run_bounds_agree_with_jax_privacy(guessed, one_run_epsilon, fdp_epsilon):
    """Numbers of `_epsilon_one_run` and `_epsilon_one_run_fdp` of jax_privacy 2.0.0, which are right."""
    number, guesses, correct, delta, alpha = guessed
    if one_run_epsilon is not None:
        assert one_run(number, guesses, correct, delta, alpha) == pytest.approx(one_run_epsilon, abs=2e-6)
    if fdp_epsilon is not None:
        mu = one_run_fdp(number, guesses, correct, alpha)
        assert epsilon_of_mu(mu, delta) == pytest.approx(fdp_epsilon, abs=2e-5)


def test_the_bound_by_gdp_of_jax_privacy_is_wrong_and_ours_is_not():
    """Scores at the quantiles of a mechanism of epsilon 1, for which jax_privacy 2.0.0 has `epsilon_from_gdp` 3.70."""
    truth = mu_of_epsilon(1.0, DELTA)
    without = norm.ppf((np.arange(1000) + 0.5) / 1000)
    within, thresholds = without + truth, np.quantile(without, np.linspace(0.001, 0.999, 64))
    each = ALPHA / (2 * len(thresholds))
    limits = [
        (
            upper_limit(int((without > at).sum()), 1000, each),
            upper_limit(int((within <= at).sum()), 1000, each),
        )
        for at in thresholds
    ]
    theirs = max(abs(norm.isf(u) - norm.ppf(v)) for u, v in limits if max(u, v) < 1 - DELTA)
    assert epsilon_of_mu(theirs, DELTA) > 3.5
    assert epsilon_of_mu(gdp(without, within, thresholds, ALPHA), DELTA) < 1.0


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_mu_and_epsilon_are_inverse(mu):
    assert mu_of_epsilon(epsilon_of_mu(mu, DELTA), DELTA) == pytest.approx(mu, abs=1e-6)


def test_the_f_dp_bound_sees_more_than_the_one_for_any_mechanism():
    mu = one_run_fdp(1000, 200, 180, ALPHA)
    assert one_run(1000, 200, 180, DELTA, ALPHA) < epsilon_of_mu(mu, DELTA)
    assert one_run_fdp(1000, 200, 100, ALPHA) == 0.0


def test_bounds_grow_with_the_right_guesses_and_end_at_the_ceiling():
    right = [one_run_fdp(1000, 100, v, ALPHA) for v in (50, 70, 90, 100)]
    assert right == sorted(right)
    assert right[-1] > right[0] == 0.0


@pytest.mark.thorough
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_no_bound_is_above_the_truth_more_often_than_alpha(mu):
    generator, wrong = np.random.default_rng(5), np.zeros(4)
    repeats, truth = 40, epsilon_of_mu(mu, DELTA)
    for _ in range(repeats):
        without, within = generator.normal(0, 1, 600), generator.normal(mu, 1, 600)
        coins = generator.random(400) < 0.5
        scores = mu * coins + generator.normal(0, 1, 400)
        bounds = [
            two_worlds(without, within, DELTA, ALPHA),
            two_worlds_gdp(without, within, DELTA, ALPHA),
            canaries(scores, coins, DELTA, ALPHA),
            canaries_fdp(scores, coins, DELTA, ALPHA),
        ]
        assert all(bound.epsilon <= bound.ceiling for bound in bounds)
        wrong += [bound.epsilon > truth for bound in bounds]
    assert wrong.max() <= 6  # Bin(40, 0.05) exceeds 6 with probability 0.003
