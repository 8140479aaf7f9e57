"""Intervals by drawing patients with replacement; all pictures of a patient who is drawn follow."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_CHUNK = 2**18
"""Resamples are taken in chunks of about so many picture weights (2 MiB), which
stay in a processor's cache; it does not change what is drawn."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def patient_weights(num_patients: int, generator: np.random.Generator, num_resamples: int) -> Floats:
    """Returns the number of times that each patient is drawn in each resample, (resample, patient)."""
    chance = np.full(num_patients, 1.0 / num_patients)
    return generator.multinomial(num_patients, chance, size=num_resamples).astype(np.float64)


def picture_weights(patient: Indices, generator: np.random.Generator, num_resamples: int) -> Iterator[Floats]:
    """Yields the number of times that each picture occurs in each resample, (resample, picture), some at a time.

    `patient` is the position 0, 1, ... of each picture's patient, (picture,); every patient has a picture.
    """
    num_patients = int(patient.max()) + 1
    at_once = max(1, _CHUNK // len(patient))
    for start in range(0, num_resamples, at_once):
        yield patient_weights(num_patients, generator, min(at_once, num_resamples - start))[:, patient]


def interval(values: Floats) -> Interval | None:
    """Returns the percentile interval of resampled values, NaN where a resample could not give one.

    None when fewer than half of the resamples gave a value.
    """
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or len(known) == 0:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(low), float(high))


def number(value: float) -> float | None:
    """Returns a number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Returns the elementwise quotient, NaN where the denominator is zero."""
    unknown = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    quotient: Floats = np.divide(numerator, denominator, out=unknown, where=denominator != 0)
    return quotient
