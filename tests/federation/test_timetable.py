"""Turns are public, known before round 1, and what is said of them beforehand is what happens."""

import numpy as np
import pytest
from scipy import stats

from wardround.federation.timetable import Order, Timetable

ALL = [
    Timetable(5),
    Timetable(5, Order.FRACTION, 0.4, seed=3),
    Timetable(5, Order.FIXED),
    Timetable(5, Order.RANDOM, seed=3),
    Timetable(5, Order.STOCHASTIC, seed=3),
]


def ids(table):
    return table.order.value


@pytest.mark.parametrize("table", ALL, ids=ids)
def test_visits_said_beforehand_are_the_visits_made(table):
    for rounds in (0, 1, 4, 5, 13):
        made = np.zeros(5, dtype=int)
        for round in range(1, rounds + 1):
            made[list(table.asked(round))] += 1
        assert table.visits(rounds).tolist() == made.tolist()
        assert table.most_visits(rounds) == made.max()


@pytest.mark.parametrize("table", ALL, ids=ids)
def test_a_round_asks_as_many_different_hospitals_as_it_says_in_their_order(table):
    for round in range(1, 40):
        asked = table.asked(round)
        assert len(asked) == table.at_once == len(set(asked))
        assert list(asked) == sorted(asked)
        assert set(asked) <= set(range(5))


@pytest.mark.parametrize("table", ALL, ids=ids)
def test_rounds_can_be_looked_up_in_any_order(table):
    forwards = [table.asked(round) for round in range(1, 20)]
    backwards = [table.asked(round) for round in range(19, 0, -1)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("order", [Order.FRACTION, Order.RANDOM, Order.STOCHASTIC])
def test_another_seed_is_another_timetable_and_the_same_seed_the_same(order):
    def turns(seed):
        table = Timetable(5, order, 0.4, seed)
        return [table.asked(round) for round in range(1, 31)]

    assert turns(1) == turns(1) != turns(2)


def test_a_fixed_order_goes_round():
    assert [Timetable(3, Order.FIXED).asked(round)[0] for round in range(1, 8)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_random_order_visits_everyone_once_a_cycle_and_differs_between_cycles():
    table = Timetable(5, Order.RANDOM)
    cycles = [[table.asked(5 * cycle + turn)[0] for turn in range(1, 6)] for cycle in range(20)]
    assert all(sorted(cycle) == [0, 1, 2, 3, 4] for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 10


@pytest.mark.parametrize("order", [Order.FRACTION, Order.RANDOM, Order.STOCHASTIC])
def test_draws_favour_nobody(order):
    """First turns of cycles, or draws, are uniform: a hospital half as likely again is seen with certainty."""
    table = Timetable(5, order, 0.2, seed=1)
    step = 5 if order is Order.RANDOM else 1
    first = [table.asked(round)[0] for round in range(1, 2000 * step, step)]
    assert stats.chisquare(np.bincount(first, minlength=5)).pvalue > 1e-3


@pytest.mark.parametrize(("fraction", "asked"), [(0.01, 1), (0.5, 2), (0.7, 4), (1.0, 5)])
def test_a_fraction_asks_at_least_one(fraction, asked):
    assert Timetable(5, Order.FRACTION, fraction).at_once == asked
