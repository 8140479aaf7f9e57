"""Which patients take part in a step. A patient is taken with all their images, or not at all."""

import numpy as np
import numpy.typing as npt

from wardround.errors import PrivacyError
from wardround.privacy.randomness import Stream

Indices = npt.NDArray[np.int64]


def poisson_sample(num_patients: int, sampling_prob: float, stream: Stream) -> Indices:
    """Indices of the patients in one step: each one independently with probability `sampling_prob`.

    Args:
        num_patients: patients this hospital holds.
        sampling_prob: in (0, 1]; 1 takes everyone and draws nothing.
        stream: secret from whoever sees the release; the amplification by sampling rests on that.

    Returns:
        Ascending indices, (sampled patients,); possibly none.

    Guarantee:
        Matches `PoissonSampledEvent`: inclusion is independent between patients, and the number of
        patients drawn is random and never released. Hospitals that each sample like this sample their
        union like this.
    """
    if not 0 < sampling_prob <= 1:
        raise PrivacyError(f"sampling_prob must lie in (0, 1], got {sampling_prob}.")
    if sampling_prob == 1:
        return np.arange(num_patients)
    return np.flatnonzero(stream.uniform(num_patients) < sampling_prob)
