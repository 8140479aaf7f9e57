"""What releases cost of which nothing is known but a pure epsilon, held against randomised response in the open."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm
from tests.accounting.deltas import delta_of, pld_delta

from wardround.accounting.accountants import LARGE, AccountantKind, epsilon_of
from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from wardround.accounting.rdp import pure_rdp

PLD, RDP = AccountantKind


def pure(epsilon, count=1):
    return SelfComposedEvent(PureEvent(epsilon), count)


def optimal_delta(epsilon, each, count):
    """Of `count` randomised responses, exactly: Kairouz, Oh and Viswanath 2015, Theorem 3.3."""
    truthful = np.arange(count + 1)
    chance = binom.pmf(truthful, count, 1 / (1 + math.exp(-each)))
    loss = (2 * truthful - count) * each
    above = loss > epsilon
    return float(chance[above] @ -np.expm1(epsilon - loss[above]))


def optimal_epsilon(each, count, delta):
    if optimal_delta(0.0, each, count) <= delta:
        return 0.0
    return brentq(lambda epsilon: optimal_delta(epsilon, each, count) - delta, 0, each * count, xtol=1e-12)


COMPOSITIONS = [(1.0, 1), (0.3, 10), (0.1, 100), (0.0313, 1000), (0.005, 10_000), (2.0, 30), (19.0, 5)]


@pytest.mark.parametrize(("each", "count"), COMPOSITIONS)
def test_pure_releases_compose_as_well_as_can_be_and_never_better(each, count):
    for delta in (1e-9, 1e-5, 1e-2):
        best = optimal_epsilon(each, count, delta)
        epsilon = epsilon_of(pure(each, count), delta)
        # The convolutions round delta by up to 1e-16 a release, which is given up; the grid hardly costs anything.
        assert best * (1 - 1e-12) <= epsilon <= best * 1.002 + 1e-9
        assert best <= epsilon_of(pure(each, count), delta, RDP)


@pytest.mark.parametrize(("each", "count"), [*COMPOSITIONS, (25.0, 7), (7.5e3, 20), (65_536.0, 1_000)])
def test_pure_releases_never_cost_more_than_their_sum(each, count):
    for accountant in (PLD, RDP):
        assert epsilon_of(pure(each, count), 1e-5, accountant) <= each * count * (1 + 1e-12)
        assert delta_of(pure(each, count), each * count * (1 + 1e-12), accountant) == 0


def test_unlike_pure_releases_whose_losses_lie_off_each_others_grid_are_bounded():
    """Two kinds: the losses of one lie between the grid points of the other."""
    first, second = 0.0517, 0.0911
    n, m = 40, 30
    i, j = np.arange(n + 1)[:, None], np.arange(m + 1)[None, :]
    chance = binom.pmf(i, n, 1 / (1 + math.exp(-first))) * binom.pmf(j, m, 1 / (1 + math.exp(-second)))
    loss = (2 * i - n) * first + (2 * j - m) * second
    event = ComposedEvent((pure(first, n), pure(second, m)))
    for epsilon in (0.5, 1.0, 2.0, 3.5):
        exact = float((chance * np.maximum(0, -np.expm1(np.minimum(0, epsilon - loss)))).sum())
        assert exact <= delta_of(event, epsilon) <= exact * 1.01


def test_a_pure_release_beside_a_gaussian_one_costs_what_the_mixture_of_the_two_says():
    each, noise = 1.0, 2.0
    event = ComposedEvent((PureEvent(each), GaussianEvent(noise)))
    truth = 1 / (1 + math.exp(-each))

    def gaussian(epsilon):  # Balle and Wang 2018, Theorem 8
        a, b = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return norm.cdf(a) - math.exp(epsilon) * norm.cdf(b)

    for epsilon in (1.5, 2.5, 3.5):
        exact = truth * gaussian(epsilon - each) + (1 - truth) * gaussian(epsilon + each)
        assert exact <= delta_of(event, epsilon) <= exact * 1.02
    together = epsilon_of(event, 1e-5)
    assert epsilon_of(GaussianEvent(noise), 1e-5) < together < epsilon_of(GaussianEvent(noise), 1e-5) + each
    assert together < epsilon_of(event, 1e-5, RDP)


def test_a_large_pure_release_adds_its_epsilon_and_needs_no_grid():
    gaussian = epsilon_of(GaussianEvent(2.0), 1e-5)
    for large in (LARGE, 7.5e3, 65_536.0):
        event = ComposedEvent((SelfComposedEvent(PureEvent(large), 3), GaussianEvent(2.0)))
        for accountant in (PLD, RDP):
            alone = epsilon_of(GaussianEvent(2.0), 1e-5, accountant)
            assert epsilon_of(event, 1e-5, accountant) == pytest.approx(3 * large + alone, rel=1e-12)
            assert delta_of(event, 3 * large - 1, accountant) == 1
        assert delta_of(event, 3 * large + gaussian) == pytest.approx(1e-5, rel=1e-6)


def test_basic_composition_takes_over_where_it_loses_next_to_nothing():
    below, above = epsilon_of(pure(LARGE * (1 - 1e-9), 4), 1e-5), epsilon_of(pure(LARGE, 4), 1e-5)
    assert below <= above <= below + 1e-4


def test_delta_is_inverse_to_epsilon():
    event = ComposedEvent((pure(0.1, 50), pure(30.0)))
    for accountant in (PLD, RDP):
        epsilon = epsilon_of(event, 1e-5, accountant)
        assert delta_of(event, epsilon, accountant) == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 8.0, 300.0])
def test_the_divergence_is_that_of_the_two_coins(epsilon):
    orders = np.array([1.1, 2.0, 5.0, 64.0])
    p, q = 1 / (1 + math.exp(-epsilon)), 1 / (1 + math.exp(epsilon))
    logs = np.logaddexp(
        orders * math.log(p) + (1 - orders) * math.log(q), orders * math.log(q) + (1 - orders) * math.log(p)
    )
    assert pure_rdp(epsilon, orders) == pytest.approx(logs / (orders - 1), rel=1e-6)
    assert (pure_rdp(epsilon, orders) <= np.minimum(epsilon, orders * epsilon**2 / 2) * (1 + 1e-9)).all()


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
def test_laplace_noise_costs_no_more_than_a_pure_release_of_its_epsilon(scale):
    for count in (1, 20):
        laplace, bound = SelfComposedEvent(LaplaceEvent(scale), count), pure(1 / scale, count)
        assert epsilon_of(laplace, 1e-5) <= epsilon_of(bound, 1e-5) * 1.01


def test_pure_releases_compose_with_sampled_training():
    training = SelfComposedEvent(PoissonSampledEvent(0.05, GaussianEvent(1.5)), 100)
    both = epsilon_of(ComposedEvent((training, pure(0.1, 10))), 1e-5)
    assert epsilon_of(training, 1e-5) < both < epsilon_of(training, 1e-5) + 1.0


def test_the_split_between_grid_points_keeps_both_probabilities():
    """At a width that no loss lies on, one release costs at least what randomised response does, at every epsilon."""
    for epsilon in (0.0, 0.2, 0.5, 0.9, 0.999):
        exact = max(0.0, (math.exp(1.0) - math.exp(epsilon)) / (1 + math.exp(1.0)))
        items = ((PureEvent(1.0), 1), (PureEvent(1e-3), 1))
        assert exact <= pld_delta(items, epsilon) <= exact + 1e-3
