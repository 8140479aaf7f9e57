"""Noise that is correlated over the rounds, for a participation that is fixed before the first of them.

What is released: in every round the sum of one cohort's clipped gradients, plus noise of which later rounds take part
back. To whom: as the plan's trust has it. The whole run is one release: with X the rounds' sums, Z independent normal
noise and C lower triangular, X + C^-1 Z is computed from C X + Z, and that is one Gaussian mechanism whose sensitivity
is `Correlation.sensitivity` times the clipping norm. It stays one although each round's gradients depend on what
earlier rounds released (Denisov et al. 2022, Theorem 2.1, https://arxiv.org/abs/2202.08312), as long as nobody's
rounds do.

A patient's cohort is a hash of that patient's own id under a key that the hospital draws once a run and keeps secret.
Adding a patient therefore changes no other patient's cohort: for every assignment of the others and every cohort of the
one who is added, the two runs differ in that patient's gradients alone, and a mixture of pairs that are (epsilon,
delta) close is as close. Equal cohorts, or cohorts by position in a list, would move other patients, and the
sensitivity would not be one patient's.

Source: Choquette-Choo et al. 2023, https://arxiv.org/abs/2306.08153; for the rest see `toeplitz` and
docs/correlated-noise.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.privacy import toeplitz
from wardround.randomness import Indices, Names, Stream

Noise = npt.NDArray[np.float32]
"""Noise of one round, (parameter,)."""
Cohorts = npt.NDArray[np.int64]
"""Cohort of each of a hospital's patients, from 0, (patient,)."""


@dataclass(frozen=True)
class Correlation:
    """The correlation of the noise of a run's rounds, and each patient's turns. All of it is public.

    Attributes:
        rounds: of the whole run; no round after them is answered.
        cohorts: b; a patient takes part in every b-th round.
        bands: p <= b; how many rounds share noise. 1: none, each round's noise is its own.
        momentum: of the server's heavy ball, for which the coefficients are made.

    Raises:
        PrivacyError: more bands than cohorts, or more cohorts than rounds.
    """

    rounds: int
    cohorts: int
    bands: int
    momentum: float = 0.0

    def __post_init__(self) -> None:
        toeplitz.sensitivity(self.coefficients, self.rounds, self.cohorts)

    @property
    def coefficients(self) -> toeplitz.Coefficients:
        """First column of C, (band,)."""
        return toeplitz.square_root_coefficients(self.bands, self.momentum)

    @property
    def sensitivity(self) -> float:
        """Sensitivity of C X to one patient added or removed, in units of the clipping norm."""
        return toeplitz.sensitivity(self.coefficients, self.rounds, self.cohorts)

    @property
    def participations(self) -> int:
        """Rounds in which one patient takes part, at most."""
        return -(-self.rounds // self.cohorts)

    def cohorts_of(self, names: Names, key: Stream) -> Cohorts:
        """Each patient's cohort, independent and uniform, (patient,): of the patient's own name and the key alone.

        `key` is a new stream under the hospital's secret key of the run, the same in every round.
        """
        return np.minimum((key.uniform_of(names) * self.cohorts).astype(np.int64), self.cohorts - 1)

    def chosen(self, cohorts: Cohorts, round: int) -> Indices:
        """The patients of a round, from 1: everybody of its cohort, ascending, (chosen patient,)."""
        return np.flatnonzero(cohorts == (round - 1) % self.cohorts)

    def noise(self, earlier: Sequence[Noise], size: int, std: float, stream: Stream) -> Noise:
        """The noise of the next round: y_t = z_t - c_1 y_(t-1) - ... - c_(p-1) y_(t-p+1), (parameter,).

        Args:
            earlier: noise of the rounds before, the last one first; more than p - 1 of them are not looked at.
            size: parameters.
            std: of z_t, for one hospital's part of it. Parts add up: the recurrence is linear.
            stream: of this round alone, secret.
        """
        fresh = np.zeros(size, dtype=np.float32)
        if std > 0:
            stream.add_normal(fresh, std)
        for coefficient, noise in zip(self.coefficients[1:], earlier, strict=False):
            fresh -= np.float32(coefficient) * noise
        return fresh
