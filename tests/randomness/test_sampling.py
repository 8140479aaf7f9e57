"""How many patients a round can have, from public numbers alone."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from tests.cases import family

from wardround.errors import PrivacyError
from wardround.randomness import LARGER_SAMPLE, Randomness, largest_sample, poisson_sample


def chance_of_more(size, num_patients, sampling_prob):
    """P(Binomial > size), term by term in whole numbers."""
    q = Fraction(sampling_prob)
    return sum(
        comb(num_patients, k) * q**k * (1 - q) ** (num_patients - k) for k in range(size + 1, num_patients + 1)
    )


@pytest.mark.parametrize("num_patients", family([1, 2, 17, 60, 250], keep=[1, 17, 60]))
def test_it_is_the_smallest_size_that_is_exceeded_as_seldom(num_patients):
    for sampling_prob in (1e-9, 0.001, 0.05, 0.5, 0.9, 0.999):
        size = largest_sample(num_patients, sampling_prob)
        assert chance_of_more(size, num_patients, sampling_prob) <= LARGER_SAMPLE
        assert size == 0 or chance_of_more(size - 1, num_patients, sampling_prob) > LARGER_SAMPLE


@pytest.mark.parametrize("num_patients", [0, 1, 4684, 10**9])
def test_where_everyone_is_taken_it_is_everyone(num_patients):
    assert largest_sample(num_patients, 1.0) == num_patients


def test_it_grows_with_both_numbers_and_no_sample_is_larger():
    sizes = np.array([[largest_sample(n, q) for q in (0.01, 0.1, 0.5, 1.0)] for n in (10, 100, 1_000, 10_000)])
    assert (np.diff(sizes, axis=0) >= 0).all()
    assert (np.diff(sizes, axis=1) >= 0).all()
    stream = Randomness(3, "sizes").stream("sampling")
    drawn = [poisson_sample(1_000, 0.1, stream).size for _ in range(2_000)]
    assert 100 < max(drawn) < largest_sample(1_000, 0.1) < 200


@pytest.mark.parametrize(("num_patients", "sampling_prob"), [(-1, 0.5), (5, 0.0), (5, 1.5)])
def test_what_is_no_sample_is_refused(num_patients, sampling_prob):
    with pytest.raises(PrivacyError, match="must be of 0 patients or more"):
        largest_sample(num_patients, sampling_prob)
