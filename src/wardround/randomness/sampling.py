"""Poisson sampling of patients. A patient is taken with all their images, or not at all."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError
from wardround.randomness.streams import Stream

Indices = npt.NDArray[np.int64]

LARGER_SAMPLE = 1e-12
"""Probability that a round has more patients than `largest_sample`."""


def poisson_sample(num_patients: int, sampling_prob: float, stream: Stream) -> Indices:
    """Returns ascending indices of the patients in one step, each taken independently with probability `sampling_prob`.

    `sampling_prob` lies in (0, 1]; 1 takes everyone and draws nothing. The stream must be secret from every party that
    sees the release; amplification by sampling rests on that.

    Guarantee:
        Matches `PoissonSampledEvent`: inclusion is independent between patients, and the number of
        patients drawn is random and never released. The samples of several hospitals together are a
        Poisson sample of all their patients.
    """
    if not 0 < sampling_prob <= 1:
        raise PrivacyError(f"sampling_prob must lie in (0, 1], got {sampling_prob}.")
    if sampling_prob == 1:
        return np.arange(num_patients)
    return np.flatnonzero(stream.uniform(num_patients) < sampling_prob)


def largest_sample(num_patients: int, sampling_prob: float) -> int:
    """Returns the smallest number that a Poisson sample's size exceeds with probability `LARGER_SAMPLE` at most.

    The size is Binomial(num_patients, sampling_prob). Public: computed from these two numbers, not from a sample.

    >>> largest_sample(5000, 0.05), largest_sample(5000, 1.0)
    (365, 5000)
    """
    # Imported here: sampling itself starts without SciPy.
    from scipy.special import bdtrc

    if num_patients < 0 or not 0 < sampling_prob <= 1:
        raise PrivacyError(
            f"A sample must be of 0 patients or more with sampling_prob in (0, 1], got {num_patients} and "
            f"{sampling_prob}."
        )
    sizes = range(num_patients)
    return bisect_left(sizes, True, key=lambda size: bdtrc(size, num_patients, sampling_prob) <= LARGER_SAMPLE)
