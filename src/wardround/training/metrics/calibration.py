"""Calibration: the reliability of probabilities.

The bins are of the confidence in the class that was called, and count pictures: scikit-learn's `calibration_curve` is
of the probability of one class, and gives no counts.
"""

from dataclasses import dataclass

import numpy as np

from wardround.training.metrics.bootstrap import Indices
from wardround.types import Labels, Scores

BINS = 15
"""Bins of equal width, as Guo et al. 2017 take them."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The pictures called with a confidence in (low, high]; confidence is the highest probability.

    Without pictures, mean confidence and accuracy (the share called right) are None.
    """

    low: float
    high: float
    count: int
    mean_confidence: float | None
    accuracy: float | None


def reliability(scores: Scores, labels: Labels) -> tuple[ReliabilityBin, ...]:
    """Returns the reliability table, bins of equal width from 0 to 1."""
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, BINS + 1)
    place: Indices = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    confidences = np.bincount(place, confidence, minlength=BINS)
    rights = np.bincount(place, right, minlength=BINS)
    return tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(counts[i]),
            mean_confidence=float(confidences[i] / counts[i]) if counts[i] else None,
            accuracy=float(rights[i] / counts[i]) if counts[i] else None,
        )
        for i in range(BINS)
    )


def calibration_error(table: tuple[ReliabilityBin, ...]) -> float:
    """Returns the expected calibration error: mean distance of confidence and accuracy, weighted by pictures.

    Source: Guo et al. 2017, equation 3, https://arxiv.org/abs/1706.04599. With few pictures it is above zero even
    for a model that is calibrated.
    """
    total = sum(row.count for row in table)
    gaps = [
        row.count * abs(row.accuracy - row.mean_confidence)
        for row in table
        if row.accuracy is not None and row.mean_confidence is not None
    ]
    return sum(gaps) / total


def brier(scores: Scores, labels: Labels) -> float:
    """Returns half the mean squared distance of the probabilities from the truth: 0 is perfect, 1 is surely wrong.

    Brier 1950, halved, so that with two classes it is the squared error of the probability of class 1. scikit-learn's
    warns of probabilities in single precision, whose sums are off by 1e-7.

    >>> round(brier(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0])), 3)
    0.2
    """
    truth = np.arange(scores.shape[1]) == labels[:, None]
    return float(0.5 * ((scores - truth) ** 2).sum(axis=1).mean())
