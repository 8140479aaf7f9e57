import itertools
import math

import numpy as np
import pytest
from scipy.linalg import sqrtm, toeplitz

from wardround.errors import PrivacyError
from wardround.privacy.toeplitz import (
    best_bands,
    errors,
    momentum_sums,
    sensitivity,
    square_root_coefficients,
)


def matrix(column, rounds):
    """The lower-triangular matrix itself, which the module never forms."""
    padded = np.zeros(rounds)
    padded[: min(len(column), rounds)] = column[:rounds]
    return np.tril(toeplitz(padded))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_all_bands_are_the_square_root_of_the_matrix_from_gradients_to_weights(momentum):
    root = matrix(square_root_coefficients(7, momentum), 7)
    assert np.allclose(root @ root, matrix(momentum_sums(7, momentum), 7), rtol=1e-12)
    assert np.allclose(root, sqrtm(matrix(momentum_sums(7, momentum), 7)), atol=1e-5)  # an independent oracle


def test_coefficients_are_the_central_binomials():
    expected = [math.comb(2 * k, k) / 4**k for k in range(30)]
    assert np.allclose(square_root_coefficients(30), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("rounds", "landau"),
    # Landau's constants, the sums of (binom(2k, k) / 4^k)^2 over k < n: https://oeis.org/A277233 over A056982.
    [(1, 1.0), (2, 1.25), (3, 1.390625), (4, 1.48828125)],
)
def test_the_largest_error_of_the_square_root_is_landaus_constant(rounds, landau):
    # One participation: largest row norm times largest column norm of the factorization, both sqrt(Landau).
    assert errors(square_root_coefficients(rounds), rounds, rounds).max() == pytest.approx(landau, rel=1e-12)


@pytest.mark.parametrize("rounds", [10, 100, 1000, 5000])
def test_the_largest_error_of_the_square_root_lies_within_the_known_bounds(rounds):
    # Brutman 1982: 1 + ln(n + 1) / pi <= G_n < 1.0663 + ln(n + 1) / pi, with n + 1 rounds here.
    largest = errors(square_root_coefficients(rounds), rounds, rounds).max()
    assert 1 < largest - math.log(rounds) / math.pi < 1.0663


def test_errors_are_row_norms_of_the_matrix_product():
    column = square_root_coefficients(3, 0.9)
    product = matrix(momentum_sums(11, 0.9), 11) @ np.linalg.inv(matrix(column, 11))
    expected = sensitivity(column, 11, 4) * np.linalg.norm(product, axis=1)
    assert np.allclose(errors(column, 11, 4, 0.9), expected, rtol=1e-12)


def moved(column, rounds, participations, gradients):
    """How far the encoded sequence moves when a patient with these gradients is added."""
    added = np.zeros((rounds, gradients.shape[1]))
    added[list(participations)] = gradients
    return np.linalg.norm(matrix(column, rounds) @ added)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("rounds", "cohorts", "bands"), [(1, 1, 1), (5, 1, 1), (6, 2, 2), (7, 3, 2), (7, 3, 3), (5, 5, 5), (9, 4, 3)]
)
def test_no_participation_and_no_gradient_moves_the_encoded_sequence_further(rounds, cohorts, bands, momentum):
    column = square_root_coefficients(bands, momentum)
    bound = sensitivity(column, rounds, cohorts)
    generator = np.random.default_rng(0)
    reached = []
    for cohort in range(cohorts):
        participations = range(cohort, rounds, cohorts)
        for signs in itertools.product((1.0, -1.0), repeat=len(participations)):
            reached.append(moved(column, rounds, participations, np.array(signs)[:, None]))
        for _ in range(50):  # any direction, any length up to the clip, also none
            gradients = generator.normal(size=(len(participations), 3))
            lengths = generator.uniform(0, 1, (len(participations), 1))
            gradients *= lengths / np.linalg.norm(gradients, axis=1, keepdims=True)
            reached.append(moved(column, rounds, participations, gradients))
    assert max(reached) == pytest.approx(bound, rel=1e-12)
    assert bound <= math.sqrt(-(-rounds // cohorts)) * np.linalg.norm(column) * (1 + 1e-12)


def test_more_bands_than_cohorts_would_move_further_and_are_refused():
    column = square_root_coefficients(3)
    disjoint = math.sqrt(3) * np.linalg.norm(column)  # what would hold if columns shared no row
    assert moved(column, 6, (0, 2, 4), np.ones((3, 1))) > disjoint
    with pytest.raises(PrivacyError, match="bands must be <= cohorts"):
        sensitivity(column, 6, 2)


@pytest.mark.parametrize("cohorts", [0, 7])
def test_cohorts_that_no_round_is_for_are_refused(cohorts):
    with pytest.raises(PrivacyError, match="between 1 and the number of rounds"):
        sensitivity(square_root_coefficients(1), 6, cohorts)


def test_no_bands_are_refused():
    with pytest.raises(PrivacyError, match="bands must be >= 1"):
        square_root_coefficients(0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("rounds", "cohorts"), [(12, 1), (12, 4), (40, 10)])
def test_the_best_bands_leave_less_error_than_any_other_and_than_independent_noise(rounds, cohorts, momentum):
    def mean_squared(bands):
        column = matrix(square_root_coefficients(bands, momentum), rounds)
        product = matrix(momentum_sums(rounds, momentum), rounds) @ np.linalg.inv(column)
        patient = [np.linalg.norm(column[:, j::cohorts]) for j in range(cohorts)]
        return max(patient) ** 2 * (product**2).sum() / rounds

    best = best_bands(rounds, cohorts, momentum)
    assert mean_squared(best) == pytest.approx(min(map(mean_squared, range(1, cohorts + 1))), rel=1e-9)
    assert best == 1 if cohorts == 1 else mean_squared(best) < mean_squared(1) / 1.5
