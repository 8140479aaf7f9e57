"""Banded lower-triangular Toeplitz matrices that correlate the noise of rounds, and what error they leave.

A matrix is given by its first column: `coefficients` c_0 = 1, c_1, ..., c_(p-1), and zeros below. Multiplying two
such matrices convolves their columns, so product and row norms take sums and no matrix.

Sources:
    Fichtenberger, Henzinger and Upadhyay 2022, https://arxiv.org/abs/2202.11205 (the square root of the matrix of
    prefix sums), with Kalinin and Lampert 2024, https://arxiv.org/abs/2405.13763 (its first bands; momentum).
    Choquette-Choo et al. 2023, https://arxiv.org/abs/2306.08153 (bands and participations far enough apart).
"""

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError

Coefficients = npt.NDArray[np.float64]
"""First column of a lower-triangular Toeplitz matrix, (band,)."""


def square_root_coefficients(bands: int, momentum: float = 0.0) -> Coefficients:
    """The first `bands` coefficients of 1 / sqrt((1 - x) (1 - m x)), (band,): the square root of `momentum_sums`.

    c_k = sum over j <= k of r_(k-j) r_j m^j with r_k = binom(2k, k) / 4^k (Kalinin and Lampert 2024, Theorem 1, without
    weight decay). Without momentum, c_k = r_k.

    >>> square_root_coefficients(4).tolist()
    [1.0, 0.5, 0.375, 0.3125]
    """
    if bands < 1:
        raise PrivacyError(f"bands must be >= 1, got {bands}; 1 leaves the rounds' noise independent.")
    k = np.arange(1, bands)
    root = np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])
    return np.convolve(root, root * np.power(float(momentum), np.arange(bands)))[:bands]


def momentum_sums(rounds: int, momentum: float) -> Coefficients:
    """First column of the matrix from gradients to weights under a heavy ball, (round,); 0 gives prefix sums.

    The weights of round t are the sum over s <= t of (1 + m + ... + m^(t - s)) times the gradient of round s.
    """
    return np.cumsum(np.power(float(momentum), np.arange(rounds)))


def sensitivity(coefficients: Coefficients, rounds: int, cohorts: int) -> float:
    """The largest distance that one patient moves the encoded sequence of all rounds, in units of the clipping norm.

    A patient of cohort j takes part in rounds j, j + b, j + 2b, ... with b = `cohorts`, each time with a gradient of
    norm at most 1. The columns of these rounds are b apart and at most b long, so no two of them share a row, and the
    squared norm of what the patient adds is the sum of their squared norms: no gradient makes it longer, and gradients
    of norm 1 reach it. The first cohort has the most rounds and the longest columns. The result is at most
    sqrt(ceil(rounds / cohorts)) times the norm of the coefficients.

    Raises:
        PrivacyError: there are more bands than cohorts, and columns of one patient would overlap.
    """
    if not 1 <= cohorts <= rounds:
        raise PrivacyError(f"cohorts must lie between 1 and the number of rounds, {rounds}, got {cohorts}.")
    if len(coefficients) > cohorts:
        raise PrivacyError(
            f"bands must be <= cohorts, got {len(coefficients)} bands and {cohorts} cohorts: the noise of rounds in "
            "which one patient takes part would be correlated, and the sensitivity another."
        )
    first = np.arange(0, rounds, cohorts)
    norms = np.cumsum(coefficients**2)[np.minimum(len(coefficients), rounds - first) - 1]
    return float(np.sqrt(norms.sum()))


def errors(coefficients: Coefficients, rounds: int, cohorts: int, momentum: float = 0.0) -> Coefficients:
    """Std of the noise in the weights after each round, (round,), in units of step size, clip and noise multiplier.

    The noise in the weights is A C^-1 Z, with A of `momentum_sums` and Z independent of std `sensitivity`: a row's
    norm is the norm of the first column of A C^-1 as far as that row.
    """
    from scipy.signal import lfilter

    column = lfilter([1.0], coefficients, momentum_sums(rounds, momentum))  # solves C x = momentum_sums
    return np.asarray(sensitivity(coefficients, rounds, cohorts) * np.sqrt(np.cumsum(column**2)))


def best_bands(rounds: int, cohorts: int, momentum: float = 0.0) -> int:
    """The number of bands, at most `cohorts`, that leaves the least mean squared error in the weights of all rounds.

    >>> best_bands(100, 1), best_bands(100, 10)
    (1, 10)
    """

    def mean_squared(bands: int) -> float:
        return float(np.mean(errors(square_root_coefficients(bands, momentum), rounds, cohorts, momentum) ** 2))

    return min(range(1, cohorts + 1), key=mean_squared)
