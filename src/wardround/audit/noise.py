"""The noise of released sums, on the coordinates of virtual patients who are out: these hold noise and nothing else.

Four families of tests, each of which fails at a correct study with probability 1e-6 at most. None needs a guess or a
patient.

- The variance of the noise is no less than the plan's (chi-square, lower tail).
- No fewer numbers than of normal noise lie beyond each of 22 multiples of its standard deviation, and the largest is no
  smaller (binomial, lower tail, corrected for 23 tests): noise that is cut, drawn anew within bounds, or of a flatter
  shape has too few. Of N numbers, noise cut at k standard deviations is found where 2 Q(k) N is 17 or more, with Q the
  normal tail.
- The noise of a round, and of each hospital that answers alone, is independent of every other: the correlation of two
  of them (Student's t, corrected for the number of pairs), and the variance of all of them added up (chi-square).
- Each parameter of the network has the variance of the plan's noise over independent runs, and so has each of its
  numbers (chi-square, lower tail, corrected for their number).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from wardround.audit.bounds import Float64

LEVEL = 1e-6
"""Probability of a contradiction where there is none, of each of the four families of tests."""

_LEAST = 1e-12
_MULTIPLES = np.arange(0.5, 6.0, 0.25) * (1 + 1e-6)
"""Standard deviations beyond which numbers are counted; a number that was cut at one of them is not beyond it."""
_BLOCK = 512
"""Vectors whose cosines with others are in memory at once."""


@dataclass(frozen=True)
class NoiseCheck:
    """The three tests of one run's noise.

    Attributes:
        vectors: noise vectors that were compared, one of each released sum, or of each hospital's answer.
        coordinates: of each vector.
        present: variance that was seen, as a part of the plan's; None where the plan's follows from the rounds.
        p_present: probability of so little under the plan; 1 where the plan's is not known.
        beyond: the multiple of the plan's standard deviation beyond which the numbers are fewest for normal noise.
        p_beyond: probability of so few there, or at another multiple; 1 where the plan's is not known.
        correlation: the largest of two vectors, in absolute value; 0 of one vector.
        p_independent: probability of correlations so large if all are independent; 1 of one vector.
    """

    vectors: int
    coordinates: int
    present: float | None
    p_present: float
    beyond: float
    p_beyond: float
    correlation: float
    p_independent: float

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A sentence for each test that fails."""
        found = []
        if self.present is not None and self.p_present < LEVEL:
            found.append(f"{self.present:.1%} of the variance of the plan's noise is in the released sums")
        if self.p_beyond < LEVEL:
            found.append(
                f"too few numbers lie beyond {self.beyond:.2f} standard deviations of the plan's noise: it is cut, or "
                "has another shape"
            )
        if self.p_independent < LEVEL:
            found.append(
                f"the noise of released sums is not independent: two of them have a correlation of "
                f"{self.correlation:.3f}, or all of them add up to too much or too little noise"
            )
        return tuple(f"noise of {self.vectors} sums on {self.coordinates} coordinates: {one}" for one in found)


def check_noise(vectors: Sequence[Float64], std: float | None) -> NoiseCheck:
    """Returns the tests of noise vectors, (coordinate,) each, of standard deviation `std`, if that is known."""
    rows = np.stack(vectors)
    count, size = rows.shape
    total = float((rows**2).sum())
    present = None if std is None else total / std**2 / rows.size
    p_present = 1.0 if std is None else float(stats.chi2.cdf(total / std**2, rows.size))
    beyond, p_beyond = (0.0, 1.0) if std is None else _fewest(rows / std)
    if count == 1:
        return NoiseCheck(count, size, present, p_present, beyond, p_beyond, 0.0, 1.0)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    largest = min(_largest_cosine(units), 1.0)
    # The cosine of two independent normal vectors is that of a random direction with a fixed one.
    scaled = largest * np.sqrt((size - 1) / max(1 - largest**2, _LEAST))
    p_pair = float(min(1.0, count * (count - 1) * stats.t.sf(scaled, size - 1)))
    added = float((units.sum(axis=0) ** 2).sum()) * size / count
    p_sum = 2 * float(min(stats.chi2.cdf(added, size), stats.chi2.sf(added, size)))
    p_independent = min(1.0, 2 * min(p_pair, p_sum))
    return NoiseCheck(count, size, present, p_present, beyond, p_beyond, largest, p_independent)


def _fewest(numbers: Float64) -> tuple[float, float]:
    """Returns the multiple beyond which fewest numbers lie for standard normal ones, and the probability of so few.

    Larger noise has more numbers beyond every multiple, so that the probability is then too large.
    """
    sizes = np.sort(np.abs(numbers), axis=None)
    multiples = np.append(_MULTIPLES, sizes[-1])  # none lies beyond the largest
    counts = sizes.size - np.searchsorted(sizes, multiples, side="right")
    found = stats.binom.cdf(counts, sizes.size, 2 * stats.norm.sf(multiples))
    least = int(found.argmin())
    return float(multiples[least]), min(1.0, len(multiples) * float(found[least]))


def _largest_cosine(units: Float64) -> float:
    """Returns the largest cosine, in absolute value, of two rows of length 1; rows are multiplied in blocks."""
    largest = 0.0
    for first in range(0, len(units), _BLOCK):
        for second in range(first, len(units), _BLOCK):
            found = np.abs(units[first : first + _BLOCK] @ units[second : second + _BLOCK].T)
            if first == second:
                np.fill_diagonal(found, 0.0)
            largest = max(largest, float(found.max()))
    return largest


@dataclass(frozen=True)
class ParameterNoise:
    """The variance of one parameter's numbers over independent runs.

    Attributes:
        present: variance that was seen, as a part of the plan's; samples may add to it.
        least: the same of the number that has the least.
        p_present: probability of so little under the plan, in all numbers together or in one of them.
    """

    parameter: str
    numbers: int
    present: float
    least: float
    p_present: float


def check_parameters(runs: Float64, sizes: Mapping[str, int], std: float) -> tuple[ParameterNoise, ...]:
    """Returns the variance of each parameter over independent runs, (run, number), with noise of `std` or more.

    Args:
        runs: the same release of each run; parameters follow one another.
        sizes: numbers of each parameter.
        std: of the plan's noise in one number.
    """
    squares = ((runs - runs.mean(axis=0)) ** 2).sum(axis=0) / std**2
    found, start = list[ParameterNoise](), 0
    for name, size in sizes.items():
        own, free = squares[start : start + size], len(runs) - 1
        together = len(sizes) * stats.chi2.cdf(own.sum(), free * size)
        alone = len(squares) * stats.chi2.cdf(own.min(), free)
        p = min(1.0, 2 * float(min(together, alone)))
        found.append(ParameterNoise(name, size, float(own.mean()) / free, float(own.min()) / free, p))
        start += size
    return tuple(found)
