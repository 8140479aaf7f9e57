"""A sum that is rounded once: neighbours stay within the bound in whole numbers, which a crafted sum attains."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import chi2
from tests.cases import family

from wardround.errors import PrivacyError
from wardround.privacy.randomness import Randomness
from wardround.secure_aggregation.grid import LARGEST_BOUND, Grid
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.whole_sum import MOST_PATIENTS, WholeSumGrid
from wardround.types import Rounding


def squared_norm(row):
    return sum(int(value) ** 2 for value in row)


def source_of(*name):
    stream = Randomness(11, "whole sum").stream(*name)
    return lambda count: stream.words(count // 8).tobytes()


@pytest.mark.parametrize("dimension", family([4, 100, 10_000], keep=[100]))
def test_a_crafted_sum_attains_the_bound_and_none_exceeds_it(dimension):
    # A patient of a step and a little in each coordinate, who carries every coordinate over the middle of two steps.
    root = math.isqrt(dimension)
    grid = WholeSumGrid(0.7, 2 * root + 1, dimension)
    patient = np.full(dimension, 0.7 * (1 - 2.0**-40) / root)
    assert np.linalg.norm(patient) <= 0.7
    moved = []
    for place in np.linspace(-0.5, 0.5, 20_001 if dimension == 4 else 1_001):
        others = np.full(dimension, place / grid.steps_per_unit)
        moved.append(squared_norm(grid.rounded(others + patient) - grid.rounded(others)))
    assert max(moved) <= grid.bound**2
    assert max(moved) == 4 * dimension == (grid.bound - 1) ** 2


@pytest.mark.parametrize("dimension", [1, 2, 50, 3_000])
@pytest.mark.parametrize("times_root", [1.02, 1.5, 4, 1000])
def test_neighbouring_sums_stay_within_the_bound(dimension, times_root):
    bound = math.ceil(times_root * math.sqrt(dimension)) + 1
    grid, random = WholeSumGrid(0.7, bound, dimension), np.random.default_rng(dimension)
    largest = 0
    for _ in range(100):
        kind = random.integers(3)
        others = random.normal(size=dimension) * random.lognormal(sigma=3)
        if kind == 1:  # next to the middle of two steps
            others = (np.rint(others) + 0.5 - random.choice([-1, 1], dimension) * 1e-9) / grid.steps_per_unit
        patient = np.ones(dimension) if kind == 2 else random.normal(size=dimension)
        patient *= 0.7 * (1 - 2.0**-40) / np.linalg.norm(patient)
        moved = squared_norm(grid.rounded(others + patient) - grid.rounded(others))
        assert moved <= bound**2
        largest = max(largest, moved)
    assert largest > 0


@pytest.mark.parametrize("clipping_norm", [1e-10, 0.1, 1.0, math.pi, 1e6])
@pytest.mark.parametrize(
    ("bound", "dimension"), [(5, 4), (1000, 10_001), (1 << 20, 11_000_000), (LARGEST_BOUND, 99)]
)
def test_clip_floating_point_and_rounding_fit_into_the_bound_in_exact_arithmetic(clipping_norm, bound, dimension):
    grid = WholeSumGrid(clipping_norm, bound, dimension)
    clip = Fraction(grid.steps_per_unit) * Fraction(clipping_norm)
    moved = clip * (1 + Fraction(1, 2**15) + Fraction(1, 2**34))  # what two computed sums differ by, times s
    assert (bound - moved) >= 0
    assert (bound - moved) ** 2 >= dimension  # and sqrt(d) for rounding them
    assert bound - clip * (1 + Fraction(1, 2**14)) <= math.isqrt(dimension) + 1.001, "and no more is taken off"


def test_the_error_that_is_allowed_for_is_what_the_docstrings_derive():
    u, patients = Fraction(1, 2**53), MOST_PATIENTS
    longest = 1 + Fraction(1, 2**24)
    gamma = (patients + 2) * u / (1 - (patients + 2) * u)
    error = gamma * patients * longest
    assert error < Fraction(1, 2**17) * (1 + Fraction(1, 2**15))
    assert longest + 2 * error <= 1 + Fraction(1, 2**15)
    assert 2 * u * (patients * longest + error) <= Fraction(1, 2**34) * (1 + Fraction(1, 2**20))


def test_of_one_patient_both_roundings_agree_within_a_step():
    dimension, bound = 2_000, 1 << 20
    once, each = WholeSumGrid(1.0, bound, dimension), Grid(1.0, bound, dimension)
    gradient = np.random.default_rng(1).normal(size=dimension)
    gradient *= 0.9 / np.linalg.norm(gradient)
    summed, row = once.rounded(gradient) / once.steps_per_unit, each.row_of(gradient) / each.steps_per_unit
    assert np.abs(summed - row).max() <= 1 / once.steps_per_unit


def test_rounding_is_to_the_nearest_step_and_witnesses_are_zeros():
    grid = WholeSumGrid(2.0, 1000, 9)
    total = np.array([0.5, -0.25, 7.0, 0.0])
    whole = grid.rounded(total)
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(whole, np.r_[np.rint(total * grid.steps_per_unit), np.zeros(5)])
    assert total.tolist() == [0.5, -0.25, 7.0, 0.0], "the sum is not written to"


@pytest.mark.parametrize(
    ("total", "match"),
    [
        (np.zeros(5), "one row"),
        (np.zeros((2, 2)), "one row"),
        (np.zeros(4, np.float32), "double precision"),
        (np.array([0.0, np.nan]), "finite"),
        (np.array([0.0, np.inf]), "finite"),
    ],
)
def test_what_is_no_sum_of_clipped_gradients_is_refused(total, match):
    with pytest.raises(PrivacyError, match=match):
        WholeSumGrid(1.0, 100, 4).rounded(total)


@pytest.mark.parametrize(
    ("clipping_norm", "bound", "dimension", "match"),
    [
        (0.0, 10, 4, "clipping_norm"),
        (np.inf, 10, 4, "clipping_norm"),
        (np.nan, 10, 4, "clipping_norm"),
        (1.0, 0, 4, "between 1 and"),
        (1.0, LARGEST_BOUND + 1, 4, "between 1 and"),
        (1.0, 20, 400, "above the root"),
        (1.0, 21, 401, "above the root"),
        (1.0, 10, 0, "dimension"),
        (1.0, LARGEST_BOUND, (1 << 28) + 1, "dimension"),
    ],
)
def test_a_grid_that_cannot_keep_its_bound_is_refused(clipping_norm, bound, dimension, match):
    with pytest.raises(PrivacyError, match=match):
        WholeSumGrid(clipping_norm, bound, dimension)


def mechanism(rounding=Rounding.SUM, **changes):
    return IntegerMechanism(
        **{"clipping_norm": 0.7, "noise_multiplier": 1.0, "dimension": 2_000, "hospitals": 5, **changes},
        rounding=rounding,
    )


def has_std(values, std):
    statistic = float(((values / std) ** 2).sum())
    return chi2.ppf(2.5e-7, values.size) < statistic < chi2.isf(2.5e-7, values.size)


def test_the_noise_is_a_whole_share_and_the_sensitivity_that_of_the_other_rounding():
    terms = mechanism()
    assert terms.sensitivity == mechanism(Rounding.PATIENT).sensitivity
    for total in (np.zeros(2_000), np.random.default_rng(2).normal(size=2_000)):
        noise = terms.encode_sum(total, source_of("noise")) - terms.grid.rounded(total)
        assert has_std(noise, 2**20)
        assert not has_std(noise, 0.8 * 2**20)


def test_in_units_of_gradients_the_honest_noise_is_the_noise_multiplier_times_the_clip():
    terms = mechanism(noise_multiplier=1.3, dimension=20_000)
    honest = sum(terms.encode_sum(np.zeros(3), source_of("wire", h)) for h in range(4))
    assert has_std(terms.decode(honest), 1.3 * 0.7)
    assert not has_std(terms.decode(honest), 1.3 * 0.7 * 0.96)


def test_a_decoded_total_is_the_sum():
    terms = mechanism(dimension=50)
    total = np.random.default_rng(3).normal(size=50)
    np.testing.assert_allclose(terms.decode(terms.grid.rounded(total)), total, atol=0.7 / terms.sensitivity)


def test_rows_and_sums_are_not_taken_for_each_other():
    with pytest.raises(PrivacyError, match="encode their clipped sum"):
        mechanism().encode([], source_of("x"))
    with pytest.raises(PrivacyError, match="encode patients' rows"):
        mechanism(Rounding.PATIENT).encode_sum(np.zeros(3), source_of("x"))
    assert mechanism("sum").rounding is Rounding.SUM
