"""Epsilons as published systems compute them: their figures come out, and what is no bound lies below a bound."""

import math

import pytest

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from wardround.accounting.mechanisms import gdp_epsilon, gdp_mu
from wardround.errors import PrivacyError
from wardround.reproduce.accounting import (
    central_limit_epsilon,
    fixed_batch_epsilon,
    uniform_sampling_gdp_epsilon,
)


def training(sampling_prob, noise_multiplier, steps):
    return SelfComposedEvent(PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)), steps)


@pytest.mark.parametrize(
    ("units", "batch", "noise_multiplier", "steps", "poisson", "uniform"),
    [(50_000, 200, 1.0, 2_500, 0.976, 1.3077), (4434, 32, 3.0, 20 * (4434 // 32), 0.4533, 0.5147)],
)
def test_the_approximations_give_the_published_figures(units, batch, noise_multiplier, steps, poisson, uniform):
    event = training(batch / units, noise_multiplier, steps)
    assert central_limit_epsilon(event, 1e-5) == pytest.approx(poisson, abs=0.0009)
    stated = uniform_sampling_gdp_epsilon(units, batch, noise_multiplier, steps, 1e-5)
    assert stated == pytest.approx(uniform, abs=0.0009)


def test_the_central_limit_is_no_upper_bound():
    event = training(0.004, 1.0, 2_500)
    assert central_limit_epsilon(event, 1e-5) < epsilon_of(event, 1e-5)


def test_squares_of_mu_add_and_gaussians_alone_are_exact():
    sampled, alone = training(0.05, 2.0, 10), GaussianEvent(3.0)
    mu = math.hypot(0.05 * math.sqrt(10 * math.expm1(1 / 4)), gdp_mu(3.0))
    assert central_limit_epsilon(ComposedEvent((sampled, alone)), 1e-5) == pytest.approx(gdp_epsilon(mu, 1e-5))
    assert central_limit_epsilon(alone, 1e-5) == pytest.approx(epsilon_of(alone, 1e-5))


@pytest.mark.parametrize("event", [LaplaceEvent(2.0), PureEvent(1.0)])
def test_the_central_limit_has_no_formula_for_other_noise(event):
    with pytest.raises(PrivacyError, match="must be given Gaussian noise"):
        central_limit_epsilon(event, 1e-5)


def test_replacing_a_unit_costs_more_than_the_claim_that_assumed_adding_one():
    """Half the multiplier, for the sum moves twice as far."""
    assert fixed_batch_epsilon(400, 8, 1.5, 50, 1e-5) > 2 * fixed_batch_epsilon(400, 8, 3.0, 50, 1e-5)


@pytest.mark.parametrize("batch", [0, 401])
def test_a_batch_that_cannot_be_drawn_is_refused(batch):
    with pytest.raises(PrivacyError, match="batch_size must be"):
        fixed_batch_epsilon(400, batch, 1.5, 50, 1e-5)
