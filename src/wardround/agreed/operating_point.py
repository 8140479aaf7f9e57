"""Thresholds and a calibration of a private head, from the released moments of its scores: post-processing."""

import math
from statistics import NormalDist

import numpy as np

from wardround.agreed.schedule import sum_std
from wardround.config import Study
from wardround.federation.strategy import State
from wardround.models.operating_point import ByArgmax, ByThreshold, OperatingPoint, Threshold
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.privacy.plans.plan import Plan
from wardround.training.scores import MOMENTS, SCALE, Rows64, score_count, unit_of

SENSITIVITIES = (0.90, 0.95)

FEWEST = 10.0
"""Least noised number of patients of a class and of the others, in standard deviations of its noise."""

_LEAST = 1e-9
"""Shortest mean of sine and cosine that is told from none."""


def operating_points_of(
    study: Study, plan: Plan, state: State, classes: tuple[str, ...]
) -> tuple[OperatingPoint, ...]:
    """Returns the operating point of each class, of two classes that of the second; none where none was released.

    `state` is that of `wardround.federation.strategies.scored.Scored`: noised sums, and nothing of a patient.
    """
    part = plan.training
    if "moments" not in state or not isinstance(part, NoisedGradients):
        return ()
    rounds, unit = float(state["score_rounds"][0]), unit_of(len(classes), part.clip.norm)
    std = sum_std(study, part) / math.sqrt(rounds) / unit
    scores = score_count(len(classes))
    means = state["moments"].astype(np.float64)[: scores * 2 * MOMENTS] / (rounds * unit)
    named = classes[1:] if scores == 1 else classes
    return tuple(
        operating_point(name, six[0], six[1], std)
        for name, six in zip(named, means.reshape(scores, 2, MOMENTS), strict=True)
    )


def operating_point(name: str, others: Rows64, own: Rows64, std: float) -> OperatingPoint:
    """Returns the operating point of one class from sums of 1, sine and cosine over patients.

    Scores of the class, and of the others, are taken to be normal. A threshold of sensitivity q is the mean of the
    class less z_q standard deviations. The calibration is linear discriminant analysis with the pooled variance.

    Args:
        name: of the class.
        others: noised sums over patients of other classes, (3,).
        own: noised sums over patients of the class, (3,).
        std: of the noise in each sum, in patients.
    """
    if min(others[0], own[0]) < FEWEST * std:
        few = min(others[0], own[0])
        return ByArgmax(
            class_name=name,
            reason=f"A noised count of {few:.0f} patients is below {FEWEST:g} times its noise of {std:.1f}.",
        )
    mean_of_others, variance_of_others = _of(others, side=-1)
    mean, variance = _of(own, side=1)
    pooled = (others[0] * variance_of_others + own[0] * variance) / (others[0] + own[0])
    if mean <= mean_of_others:
        return ByArgmax(class_name=name, reason="The noised scores of the class do not lie above those of others.")
    if min(variance, pooled) <= 0:
        return ByArgmax(class_name=name, reason="The noise hides how far the scores of the class spread.")
    thresholds = tuple(_threshold(own, mean, variance, share, std) for share in SENSITIVITIES)
    noise = max(threshold.noise_std for threshold in thresholds)
    if noise > (mean - mean_of_others) / 2:
        return ByArgmax(
            class_name=name,
            reason=f"The noise in a threshold, {noise:.2g}, is more than half of the distance between the classes, "
            f"{mean - mean_of_others:.2g}.",
        )
    slope = (mean - mean_of_others) / pooled
    intercept = math.log(own[0] / others[0]) - slope * (mean + mean_of_others) / 2
    return ByThreshold(class_name=name, thresholds=thresholds, slope=slope, intercept=intercept, patients_std=std)


def _threshold(sums: Rows64, mean: float, variance: float, sensitivity: float, std: float) -> Threshold:
    """Returns the score that a share of the class exceeds, with its noise by the derivatives of the three sums.

    With r the length of (sine, cosine) per patient and k = z scale / deviation, the derivatives by the two sums have
    the length scale sqrt(1 + k^2) / r, and that by the count is scale k, each divided by the count.
    """
    z, deviation = NormalDist().inv_cdf(sensitivity), math.sqrt(variance)
    k, length = z * SCALE / deviation, math.hypot(sums[1], sums[2]) / sums[0]
    slope = SCALE * math.hypot(math.hypot(1, k) / length, k)
    return Threshold(sensitivity=sensitivity, score=mean - z * deviation, noise_std=float(std / sums[0] * slope))


def _of(sums: Rows64, side: int) -> tuple[float, float]:
    """Returns mean and variance of a normal score, in nats, from sums of 1, sine and cosine.

    An angle says the mean up to whole turns: it is taken from a quarter turn against `side` to three quarters along it,
    -11 to 33 for a class (`side` = 1) and -33 to 11 for the others (-1). The variance is at most 0 where noise hides
    it.
    """
    angle = side * math.atan2(sums[1], sums[2])
    length = math.hypot(sums[1], sums[2]) / sums[0]
    turned = angle + 2 * math.pi * (angle < -math.pi / 2)
    return side * SCALE * turned, -2 * SCALE**2 * math.log(max(length, _LEAST))
