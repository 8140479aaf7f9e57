import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.accounting.mechanisms import (
    analytic_gaussian_noise_multiplier,
    gaussian_delta,
    gaussian_epsilon,
    gdp_epsilon,
    gdp_mu,
    group_epsilon,
    laplace_epsilon,
    local_laplace_epsilon,
)
from wardround.errors import PrivacyError

ANALYTIC = [
    (0.1, 1e-5, 30.749566),
    (0.5, 1e-5, 7.031827),
    (1.0, 1e-5, 3.730632),
    (2.0, 1e-5, 1.993812),
    (4.0, 1e-5, 1.081162),
    (8.0, 1e-5, 0.600229),
    (1.0, 1e-6, 4.224679),
    (10.0, 1e-4, 0.455265),
]


def exact_delta(epsilon: float, noise_multiplier: float) -> mpmath.mpf:
    with mpmath.workdps(80):
        z, e = mpmath.mpf(noise_multiplier), mpmath.mpf(epsilon)
        upper = mpmath.erfc(-(1 / (2 * z) - e * z) / mpmath.sqrt(2)) / 2
        lower = mpmath.erfc((1 / (2 * z) + e * z) / mpmath.sqrt(2)) / 2
        return upper - mpmath.exp(e) * lower


@pytest.mark.parametrize(("epsilon", "delta", "expected"), ANALYTIC)
def test_analytic_gaussian_matches_the_golden_values(epsilon, delta, expected):
    assert analytic_gaussian_noise_multiplier(epsilon, delta) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("noise_multiplier", [0.02, 0.3, 1.0, 3.0, 40.0, 1000.0])
def test_gaussian_delta_agrees_with_80_digits(noise_multiplier):
    for epsilon in (0.0, 1e-3, 0.1, 1.0, 7.0, 50.0, 2000.0):
        exact = exact_delta(epsilon, noise_multiplier)
        ours = gaussian_delta(epsilon, noise_multiplier)
        # Doubles hold exp(-a²/2) to a² machine epsilons, and end near 1e-308.
        assert abs(ours - exact) <= 1e-9 * exact + mpmath.mpf("1e-300")


@settings(deadline=None)
@given(st.floats(0.05, 1e4), st.floats(1e-12, 0.5))
def test_gaussian_epsilon_is_the_smallest_one_on_the_private_side(noise_multiplier, delta):
    epsilon = gaussian_epsilon(noise_multiplier, delta)
    assert gaussian_delta(epsilon, noise_multiplier) <= delta
    assert epsilon == 0 or gaussian_delta(epsilon * (1 - 1e-6), noise_multiplier) > delta


@settings(deadline=None)
@given(st.floats(1e-3, 100), st.floats(1e-10, 0.1))
def test_calibrated_noise_gives_back_its_epsilon(epsilon, delta):
    noise_multiplier = analytic_gaussian_noise_multiplier(epsilon, delta)
    assert gaussian_delta(epsilon, noise_multiplier) <= delta
    assert gaussian_epsilon(noise_multiplier, delta) == pytest.approx(epsilon, rel=1e-6)


def test_the_classical_formula_would_add_too_little_noise_at_large_epsilon():
    assert math.sqrt(2 * math.log(1.25 / 1e-4)) / 10 < analytic_gaussian_noise_multiplier(10, 1e-4)


@pytest.mark.parametrize(("releases", "expected"), [(1, 2.00), (5, 5.00), (10, 7.54), (20, 11.53), (40, 17.94)])
def test_gaussian_releases_compose_exactly(releases, expected):
    assert gdp_epsilon(gdp_mu(1.993, releases), 1e-5) == pytest.approx(expected, abs=0.006)


def test_laplace_has_its_closed_form_both_ways():
    assert laplace_epsilon(1 / 0.7) == pytest.approx(0.7)
    with_delta = laplace_epsilon(0.5, 0.01)
    assert -math.expm1((with_delta - 2) / 2) == pytest.approx(0.01)


def test_noising_a_whole_picture_costs_its_dimension():
    assert local_laplace_epsilon(65_536, 2.0) == 32_768


@pytest.mark.parametrize(("slices", "expected"), [(50, 9.5), (157, 43.1)])
def test_a_patient_with_many_slices_is_a_group(slices, expected):
    assert group_epsilon(0.0384, 1e-5, slices) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: gaussian_delta(-1, 1),
        lambda: gaussian_delta(1, 0),
        lambda: gaussian_epsilon(1, 0),
        lambda: gaussian_epsilon(1, 1),
        lambda: analytic_gaussian_noise_multiplier(0, 1e-5),
        lambda: analytic_gaussian_noise_multiplier(math.inf, 1e-5),
        lambda: local_laplace_epsilon(0, 1),
        lambda: group_epsilon(1, 1e-5, 0),
    ],
)
def test_questions_without_an_answer_are_refused(ask):
    with pytest.raises(PrivacyError, match=r"must be .* got"):
        ask()
