"""The filter against its formula, and against adversaries who choose each release by what the earlier ones said."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import (
    GaussianEvent,
    LaplaceEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
    event_of_leaves,
    leaves,
)
from wardround.accounting.filter import RenyiFilter
from wardround.accounting.rdp import divergences_of, epsilon_at

LIMITS = [(0.5, 1e-6), (2.0, 1e-5), (8.0, 1e-3), (30.0, 1e-3)]


@pytest.mark.parametrize("limit", LIMITS)
def test_budgets_prove_the_limit_at_a_quarter_of_delta_each(limit):
    """B_α is the divergence at which the conversion of Canonne, Kamath and Steinke proves exactly epsilon."""
    bound = RenyiFilter(*limit)
    assert len(bound.orders) == 4
    assert (bound.orders > 1).all()
    for order, budget in zip(bound.orders, bound.budgets, strict=True):
        proved = epsilon_at(np.array([budget]), np.array([order]), limit[1] / 4)
        assert proved == pytest.approx(limit[0])


@pytest.mark.parametrize("limit", LIMITS)
def test_gaussian_noise_is_allowed_up_to_its_formula(limit):
    """Order α of n releases at σ costs n α / (2 σ²): the filter allows as many as one of its orders has room for."""
    bound, sigma = RenyiFilter(*limit), 7.0
    room = max(
        budget / (order / (2 * sigma**2)) for order, budget in zip(bound.orders, bound.budgets, strict=True)
    )
    fits = bound.divergences(leaves(SelfComposedEvent(GaussianEvent(sigma), math.floor(room))))
    over = bound.divergences(leaves(SelfComposedEvent(GaussianEvent(sigma), math.floor(room) + 1)))
    assert bound.allows(fits)
    assert not bound.allows(over)


def test_the_filter_asks_little_more_than_the_best_composition():
    """Of the limit a fixed plan may spend in full, a chosen one still gets most."""
    for limit in LIMITS:
        bound, one = RenyiFilter(*limit), GaussianEvent(40.0)
        count = 1
        while bound.allows(bound.divergences(leaves(SelfComposedEvent(one, count + 1)))):
            count += 1
        assert 0.75 * limit[0] < epsilon_of(SelfComposedEvent(one, count), limit[1]) <= limit[0]


@pytest.mark.parametrize("seed", range(6))
def test_no_choice_of_releases_comes_to_more_than_the_limit(seed):
    draw = np.random.default_rng(seed)
    limit = LIMITS[seed % len(LIMITS)]
    bound = RenyiFilter(*limit)
    menu = [GaussianEvent(3.0), GaussianEvent(11.0), LaplaceEvent(9.0), PureEvent(0.05)]
    done: dict[Any, int] = {}
    refused = 0
    while refused < 6:
        event = menu[draw.integers(len(menu))]
        after = done | {event: done.get(event, 0) + 1}
        if bound.allows(bound.divergences(tuple(after.items()))):
            done = after
        else:
            refused += 1
    assert done
    assert epsilon_of(event_of_leaves(tuple(done.items())), limit[1]) <= limit[0]


def delta_of_gaussian(epsilon, sigma):
    """Exact delta at any real epsilon, also below 0: Balle and Wang 2018, Theorem 8."""
    first = stats.norm.cdf(1 / (2 * sigma) - epsilon * sigma)
    return first - np.exp(epsilon) * stats.norm.cdf(-1 / (2 * sigma) - epsilon * sigma)


def delta_of_responses(epsilon, each, count):
    """Exact delta of so many randomised responses with odds exp(each), at any real epsilon."""
    yes = np.arange(count + 1)
    loss = each * (2 * yes - count)
    chance = stats.binom.pmf(yes, count, 1 / (1 + math.exp(-each)))
    return (chance * np.maximum(0, 1 - np.exp(epsilon[:, None] - loss))).sum(axis=1)


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("limit", LIMITS[:3])
def test_a_second_study_chosen_by_the_first_ones_result_keeps_the_limit(limit, share):
    """Exact delta of a two-stage adversary, who spends all that the filter allows.

    Noise comes first, then the dearest study that is allowed, of a kind that follows from what the first one said. At
    half the limit the delta is larger than promised: the test can tell.
    """
    bound, each = RenyiFilter(*limit), 0.2
    sigma = (share * max(bound.budgets / bound.orders) * 2) ** -0.5
    first = bound.divergences(((GaussianEvent(sigma), 1),))
    count = 0
    while bound.allows(first + bound.divergences(((PureEvent(each), count + 1),))):
        count += 1
    low, high = 1e-2, 1e4  # the least noise that is allowed after the first
    for _ in range(60):
        middle = math.sqrt(low * high)
        if bound.allows(first + bound.divergences(((GaussianEvent(middle), 1),))):
            high = middle
        else:
            low = middle

    def delta(epsilon):
        said = 1 + sigma * np.linspace(-12, 12, 40_001)  # with the person; without, it is one less
        weight = stats.norm.pdf(said, 1, sigma)
        left = epsilon - (2 * said - 1) / (2 * sigma**2)
        second = np.where(said > 1, delta_of_responses(left, each, count), delta_of_gaussian(left, high))
        return float(np.trapezoid(weight * second, said))

    assert delta(limit[0]) <= limit[1]
    assert delta(limit[0] / 2) > limit[1]


def test_a_release_without_protection_is_never_allowed():
    bound = RenyiFilter(30.0, 1e-3)
    assert not bound.allows(bound.divergences(((NonPrivateEvent(), 1),)))


def test_a_sampled_release_has_a_divergence_at_every_order():
    """Where the series of small orders does not converge, that of the next whole order bounds it."""
    orders = RenyiFilter(60.0, 1e-3).orders
    assert orders[0] < 1.5
    event = PoissonSampledEvent(0.3, GaussianEvent(2.0))
    found = divergences_of(((event, 1),), orders)
    assert np.isfinite(found).all()
    assert (found <= divergences_of(((event, 1),), np.ceil(orders)) + 1e-15).all()
    assert (found <= divergences_of(((GaussianEvent(2.0), 1),), np.ceil(orders))).all()
