"""The audit of any scheme that is a function `release(dataset, seed)`, by one generic attack that knows nothing of it.

The attack runs the scheme many times on two neighbouring data sets. A quarter of the runs fits statistics (linear and
quadratic discriminants, extremes, exact values that recur), a quarter chooses one of them and its threshold, and the
other half is counted. With U and V the upper Clopper-Pearson limits of the two error rates, the claim is contradicted
where

    V < f(U),  f(x) = max over (epsilon, delta) of max(1 - delta - exp(epsilon) x, exp(-epsilon) (1 - delta - x), 0)

f is the trade-off curve that the claim leaves a distinguisher (Kairouz, Oh and Viswanath 2015, Theorem 2.1,
https://arxiv.org/abs/1311.0776). A claim that is an event has an epsilon at every delta, and all of them are held
against the same two limits, so that they cost no confidence.

The scheme is code that sees its data in the clear. Only Python can hand one over; no study file names one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import Event
from wardround.audit.bounds import Float64, epsilon_of_limits, upper_limit
from wardround.audit.statistics import Statistic, statistics_of
from wardround.errors import PrivacyError

Release = Callable[[Any, int], npt.ArrayLike]
"""A scheme: everything that it releases of a data set, as numbers of a fixed shape; the seed stands for its secrets."""

RUNS, ALPHA = 3000, 0.001
DELTAS = (1e-5, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Deltas at which a claim is held against the errors; the first is the one that is printed without a contradiction."""
_THRESHOLDS = 60
_LARGEST_EXPONENT = 700.0
_MOST = 1e60
"""Released numbers are cut at this, NaN is taken for it: their squares are still finite."""


@dataclass(frozen=True)
class Claim:
    """A promise of (epsilon, delta) at one or several deltas, the first the one that is printed."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, event: Event) -> "Claim":
        """Returns the promise of an event, by the accountant, at `DELTAS`."""
        return cls(tuple((epsilon_of(event, delta), delta) for delta in DELTAS))

    def least_error(self, rate: float) -> float:
        """Returns f(rate): the least rate of the other error that the promise leaves a distinguisher."""
        return max(_least_error(epsilon, delta, rate) for epsilon, delta in self.points)


@dataclass(frozen=True)
class Found:
    """The outcome of the generic attack on one pair of neighbours, or the best of several pairs.

    Attributes:
        pair: number of the pair.
        statistic: the one that was chosen.
        delta: at which `epsilon` and `claimed` are: the first of the claim's that is contradicted, or its first.
        epsilon: lower bound.
        claimed: at this delta.
        ceiling: the bound at this delta if every guess were right.
        caught: whether the claim is contradicted.
        false_positives: of `counted` runs without the patient.
        false_negatives: of `counted` runs with the patient.
        counted: runs of each world that were counted.
        confidence: that no pair is contradicted if the claim holds.
        without: the chosen statistic in the counted runs of the first world, (run,).
        within: of the second, (run,).
        threshold: above which the second world is guessed.
    """

    pair: int
    statistic: str
    delta: float
    epsilon: float
    claimed: float
    ceiling: float
    caught: bool
    false_positives: int
    false_negatives: int
    counted: int
    confidence: float
    without: Float64
    within: Float64
    threshold: float


def audit_scheme(
    release: Release,
    neighbours: Sequence[tuple[Any, Any]],
    claim: Claim,
    *,
    runs: int = RUNS,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Found:
    """Returns what a generic attack finds of a scheme; `caught` is a contradiction of the claim.

    Args:
        release: called as `release(dataset, seed)`, with another seed in every run. It returns all that an attacker
            sees, as numbers of one shape.
        neighbours: pairs of data sets, of the kind that the scheme takes, that differ in one patient. Each pair is
            tried in turn, at alpha / pairs, until one contradicts the claim.
        claim: what is promised for these neighbours.
        runs: of each of the two data sets of a pair, 30 at least.
        seed: of the runs' seeds.
        alpha: probability, at most, of a contradiction where the claim holds.

    Guarantee:
        A scheme that keeps its promise is caught with probability `alpha` at most, over its own randomness. A scheme
        that is not caught is not shown to be private: see `ceiling`.

    Raises:
        PrivacyError: releases of several shapes, or no numbers (code `privacy-audit-release`); too few
            runs (code `privacy-audit-runs`).
    """
    if runs < 30 or not neighbours:
        raise PrivacyError(
            f"`runs` must be 30 or more, for a pair of neighbours or more, got {runs} and {len(neighbours)} pairs. "
            "Give more.",
            code="privacy-audit-runs",
        )
    found = list[Found]()
    for pair, (without, within) in enumerate(neighbours):
        worlds = [
            _released(release, dataset, [(2 * pair + world) * runs + run + (seed << 32) for run in range(runs)])
            for world, dataset in enumerate((without, within))
        ]
        if worlds[0].shape != worlds[1].shape:
            raise _unfit(f"{worlds[0].shape[1]} numbers of one data set and {worlds[1].shape[1]} of its neighbour")
        found.append(_attacked(worlds[0], worlds[1], claim, pair, alpha / len(neighbours), 1 - alpha))
        if found[-1].caught:
            break
    return max(found, key=lambda one: (one.caught, one.epsilon - one.claimed))


def _released(release: Release, dataset: Any, seeds: Sequence[int]) -> Float64:
    """Returns the releases of independent runs, (run, number)."""
    rows = [np.asarray(release(dataset, seed), dtype=np.float64).ravel() for seed in seeds]
    if len({row.size for row in rows}) > 1 or not rows[0].size:
        raise _unfit("releases of several lengths, or of none")
    return np.clip(np.nan_to_num(np.stack(rows), nan=_MOST), -_MOST, _MOST)


def _unfit(got: str) -> PrivacyError:
    return PrivacyError(
        f"A release must be an array of numbers of one shape in every run, got {got}. Fill up what is missing with a "
        "fixed number.",
        code="privacy-audit-release",
    )


def _attacked(
    without: Float64, within: Float64, claim: Claim, pair: int, alpha: float, confidence: float
) -> Found:
    part = len(without) // 4
    fit, choose, count = (
        (without[some], within[some]) for some in (slice(part), slice(part, 2 * part), slice(2 * part, None))
    )
    counted = len(count[0])
    # A larger margin between the least error that is promised and the limit of the error that is seen is better.
    best, chosen, threshold = -math.inf, Statistic("nothing", lambda rows: rows[:, 0]), 0.0
    for statistic in statistics_of(*fit):
        scores = [statistic.of(rows) for rows in choose]
        for at in _thresholds(scores):
            margin = _margin(claim, *_limits(scores[0], scores[1], at, alpha))
            if margin > best:
                best, chosen, threshold = margin, statistic, at
    scores = [chosen.of(rows) for rows in count]
    u, v = _limits(scores[0], scores[1], threshold, alpha)
    bounds = [(epsilon_of_limits(u, v, delta), epsilon, delta) for epsilon, delta in claim.points]
    shown, claimed, delta = next((one for one in bounds if one[0] > one[1]), bounds[0])
    caught = shown > claimed
    least = upper_limit(0, counted, alpha / 2)
    return Found(
        pair, chosen.name, delta, shown, claimed, epsilon_of_limits(least, least, delta), caught,
        int((scores[0] > threshold).sum()), int((scores[1] <= threshold).sum()), counted, confidence, scores[0],
        scores[1], threshold,
    )  # fmt: skip


def _thresholds(scores: Sequence[Float64]) -> Iterator[float]:
    both = np.concatenate(scores)
    yield from np.unique(np.quantile(both, np.linspace(0, 1, _THRESHOLDS), method="nearest"))
    # The extremes of one world alone: no false positive, or no false negative, among the runs that choose.
    yield from (float(scores[0].max()), float(np.nextafter(scores[1].min(), -np.inf)))


def _limits(without: Float64, within: Float64, threshold: float, alpha: float) -> tuple[float, float]:
    u = upper_limit(int((without > threshold).sum()), len(without), alpha / 2)
    return u, upper_limit(int((within <= threshold).sum()), len(within), alpha / 2)


def _margin(claim: Claim, u: float, v: float) -> float:
    return claim.least_error(u) - v


def _least_error(epsilon: float, delta: float, rate: float) -> float:
    steep = 1 - delta - math.exp(min(epsilon, _LARGEST_EXPONENT)) * rate
    return max(0.0, steep, math.exp(-epsilon) * (1 - delta - rate))
