"""Poisson sampling of patients. A patient is taken with all their images, or not at all."""

import math
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError
from wardround.randomness.places import Names
from wardround.randomness.streams import Stream

Indices = npt.NDArray[np.int64]

LARGER_SAMPLE = 1e-12
"""Probability that a round has more patients than `largest_sample`."""


def poisson_sample(patients: int | Names, sampling_prob: float, stream: Stream) -> Indices:
    """Returns ascending indices of the patients in one step, each taken independently with probability `sampling_prob`.

    Args:
        patients: names of this hospital's patients, (patient, 2); or a number of patients, who are then drawn by their
            positions, which is the same under a secret stream.
        sampling_prob: in (0, 1]; 1 takes everyone and draws nothing.
        stream: secret from every party that sees the release; amplification by sampling rests on that.

    Guarantee:
        Matches `PoissonSampledEvent`: inclusion is independent between patients, and the number of
        patients drawn is random and never released. The samples of several hospitals together are a
        Poisson sample of all their patients. By name, a draw is a function of the stream's key and of the patient's
        name alone: for every key, a seeded one as well, one patient more or less changes no other's inclusion.
    """
    if not 0 < sampling_prob <= 1:
        raise PrivacyError(f"sampling_prob must lie in (0, 1], got {sampling_prob}.")
    if sampling_prob == 1:
        return np.arange(patients if isinstance(patients, int) else len(patients))
    drawn = stream.uniform(patients) if isinstance(patients, int) else stream.uniform_of(patients)
    return np.flatnonzero(drawn < sampling_prob)


def largest_sample(num_patients: int, sampling_prob: float) -> int:
    """Returns the smallest number that the size of a round exceeds with probability `LARGER_SAMPLE` at most.

    Public: computed from two public numbers, not from a sample or from a number of patients. The public number of
    patients is an expectation where each one's place follows from the own id. The size of a round is then a sum of
    independent draws with mean num_patients * sampling_prob = m, and above m + 1 it exceeds k with at most the
    probability that Poisson(m) does (Anderson and Samuels 1967, "Some inequalities among binomial and Poisson
    probabilities", Proceedings of the Fifth Berkeley Symposium, volume 1).

    >>> largest_sample(5000, 0.05), largest_sample(5000, 1.0)
    (369, 5505)
    """
    # Imported here: sampling itself starts without SciPy.
    from scipy.special import pdtrc

    if num_patients < 0 or not 0 < sampling_prob <= 1:
        raise PrivacyError(
            f"A sample must be of 0 patients or more with sampling_prob in (0, 1], got {num_patients} and "
            f"{sampling_prob}."
        )
    mean = num_patients * sampling_prob
    sizes = range(math.floor(mean) + 1, math.ceil(mean + 10 * math.sqrt(mean)) + 40)
    return sizes[bisect_left(sizes, True, key=lambda size: pdtrc(size, mean) <= LARGER_SAMPLE)]
