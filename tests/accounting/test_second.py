"""The second opinion brackets what is true, narrowly enough to refuse a number that is a little too small."""

import math

import pytest
from tests.cases import family

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from wardround.accounting.mechanisms import gdp_epsilon
from wardround.accounting.second import second_opinion

EVENTS: dict[str, Event] = {
    "composed Gaussians": SelfComposedEvent(GaussianEvent(10.0), 60),
    "sampled": SelfComposedEvent(PoissonSampledEvent(0.5, GaussianEvent(2.0)), 4),
    "count and sums": ComposedEvent(
        (GaussianEvent(5.0), SelfComposedEvent(PoissonSampledEvent(0.05, GaussianEvent(2.0)), 100))
    ),
    "Laplace": SelfComposedEvent(LaplaceEvent(3.0), 20),
    "sampled Laplace": SelfComposedEvent(PoissonSampledEvent(0.1, LaplaceEvent(1.0)), 30),
    "pure": SelfComposedEvent(PureEvent(0.1), 40),
    "pure and Gaussian": ComposedEvent((PureEvent(30.0), GaussianEvent(1.0))),
}


@pytest.mark.parametrize("name", family(EVENTS, keep=["count and sums", "pure and Gaussian"]))
def test_the_printed_epsilon_lies_between_the_bounds(name):
    """The main accountant rounds losses up, and the lower bound rounds them down: between them is the true one."""
    bounds, printed = second_opinion(EVENTS[name], 1e-5), epsilon_of(EVENTS[name], 1e-5)
    assert bounds.lower <= printed <= bounds.upper * (1 + 1e-9)
    assert bounds.lower > 0.98 * printed, "a number that is two percent too small is refused"


def test_an_exact_epsilon_is_met_within_a_thousandth():
    """60 Gaussian releases of multiplier 10 are one of sqrt(60)/10-GDP, whose epsilon is known in closed form."""
    exact = gdp_epsilon(math.sqrt(60) / 10, 1e-5)
    assert 0.999 * exact < second_opinion(EVENTS["composed Gaussians"], 1e-5).lower <= exact


def test_the_upper_bound_is_that_of_renyi_divergences():
    event = EVENTS["count and sums"]
    assert second_opinion(event, 1e-5).upper == pytest.approx(
        epsilon_of(event, 1e-5, AccountantKind.RDP), rel=5e-3
    )


def test_nothing_and_everything():
    assert second_opinion(NoEvent(), 1e-5).upper == 0.0
    assert second_opinion(ComposedEvent((GaussianEvent(1.0), NonPrivateEvent())), 1e-5).lower == math.inf
    enormous = second_opinion(PureEvent(65_536.0), 1e-5)
    assert (enormous.lower, enormous.upper) == (0.0, 65_536.0), "its distribution needs no grid of that length"
