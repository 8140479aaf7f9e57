"""How many patients a round can have, from public numbers alone."""

from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
from tests.cases import family
from tests.names import names

from wardround.errors import PrivacyError
from wardround.randomness import LARGER_SAMPLE, Randomness, largest_sample, poisson_sample


def chance_of_more(size, num_patients, sampling_prob):
    """P(Binomial > size), term by term in whole numbers."""
    q = Fraction(sampling_prob)
    return sum(
        comb(num_patients, k) * q**k * (1 - q) ** (num_patients - k) for k in range(size + 1, num_patients + 1)
    )


@pytest.mark.parametrize("num_patients", family([1, 4, 20, 60, 240], keep=[4, 60]))
@pytest.mark.parametrize("sampling_prob", [1e-9, 0.001, 0.05, 0.5, 0.9, 1.0])
def test_no_round_is_larger_where_the_number_of_patients_is_public_or_an_expectation(num_patients, sampling_prob):
    size = largest_sample(num_patients, sampling_prob)
    # All of them, or each of more patients by a hash that puts so many of them into training in expectation.
    for everyone, share in ((num_patients, 1.0), (2 * num_patients, 0.5), (5 * num_patients // 4, 0.8)):
        if everyone * share == num_patients:
            assert chance_of_more(size, everyone, Fraction(share) * Fraction(sampling_prob)) <= LARGER_SAMPLE
    mean = mpmath.mpf(num_patients) * sampling_prob

    def exceeded(size):
        return mpmath.nsum(lambda k: mpmath.exp(-mean) * mean**k / mpmath.factorial(k), [size + 1, mpmath.inf])

    assert exceeded(size) <= LARGER_SAMPLE
    assert size <= mean + 1 or exceeded(size - 1) > LARGER_SAMPLE


def test_by_name_no_patient_changes_who_else_is_drawn_and_by_number_the_same_many_are():
    everyone = names(200)

    def drawn(patients):
        return poisson_sample(patients, 0.3, Randomness(3, "study").stream("sampling"))

    known = set(drawn(everyone).tolist())
    for gone in (0, 50, 199):
        fewer = np.delete(np.arange(200), gone)
        assert set(fewer[drawn(everyone[fewer])].tolist()) == known - {gone}
    assert drawn(200).size == pytest.approx(60, abs=30)
    assert poisson_sample(3, 1.0, Randomness(3, "study").stream("all")).tolist() == [0, 1, 2]


def test_it_grows_with_both_numbers_and_no_sample_is_larger():
    sizes = np.array([[largest_sample(n, q) for q in (0.01, 0.1, 0.5, 1.0)] for n in (10, 100, 1_000, 10_000)])
    assert (np.diff(sizes, axis=0) >= 0).all()
    assert (np.diff(sizes, axis=1) >= 0).all()
    stream, everyone = Randomness(3, "sizes").stream("sampling"), names(1_000)
    drawn = [poisson_sample(everyone, 0.1, stream).size for _ in range(2_000)]
    assert 100 < max(drawn) < largest_sample(1_000, 0.1) < 200


@pytest.mark.parametrize(("num_patients", "sampling_prob"), [(-1, 0.5), (5, 0.0), (5, 1.5)])
def test_what_is_no_sample_is_refused(num_patients, sampling_prob):
    with pytest.raises(PrivacyError, match="must be of 0 patients or more"):
        largest_sample(num_patients, sampling_prob)
