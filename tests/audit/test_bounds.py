"""Lower bounds: the published numbers, the sign that matters, and a rate of error no larger than alpha."""

import numpy as np
import pytest

from wardround.audit.bounds import (
    clopper_pearson,
    epsilon_of_mu,
    gdp,
    mu_of_epsilon,
    mu_of_errors,
    one_run,
    one_run_fdp,
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
