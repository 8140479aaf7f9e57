"""The audit of any scheme that is a function `release(dataset, seed)`, by one generic attack that knows nothing of it.

The attack runs the scheme many times on two neighbouring data sets, in turn. One run in four fits statistics (linear
and quadratic discriminants, residuals, histograms, exact values that recur, residues, boosted trees), one in four
chooses one of them and its threshold, and the other half is counted. With U and V the upper Clopper-Pearson limits of
the two error rates, the claim is contradicted where

    V < f(U),  f(x) = max over (epsilon, delta) of max(1 - delta - exp(epsilon) x, exp(-epsilon) (1 - delta - x), 0)

f is the trade-off curve that the claim leaves a distinguisher (Kairouz, Oh and Viswanath 2015, Theorem 2.1,
https://arxiv.org/abs/1311.0776). A claim that is an event has an epsilon at every delta, and all of them are held
against the same two limits, so that they cost no confidence.

The scheme is code that sees its data in the clear. Only Python can hand one over; no study file names one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import Event
from wardround.audit.bounds import Float64, epsilon_of_limits, upper_limit, upper_limits
from wardround.audit.statistics import Score, statistics_of
from wardround.errors import PrivacyError

Release = Callable[[Any, int], npt.ArrayLike]
"""A scheme: everything that it releases of a data set, as numbers of a fixed shape; the seed stands for its secrets."""

RUNS, ALPHA = 16_000, 0.001
DELTAS = (1e-5, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Deltas at which a claim is held against the errors; the first is the one that is printed without a contradiction."""
_THRESHOLDS = 60
_LARGEST_EXPONENT = 700.0
_BLOCK = 50
"""Runs whose seeds follow one another: seeds are used as they are, by their lowest bits, and rounded down."""
_MOST = 1e60
"""Released numbers are cut at this, NaN is taken for it: their squares are still finite."""


Dataset: TypeAlias = tuple[Float64, ...]
"""Patients of per-patient gradients, (picture, number) each."""
Pairs: TypeAlias = tuple[tuple[Dataset, Dataset], ...]

WIDTH = 16
FIRST = np.eye(WIDTH)[0]
DENSE = np.full(WIDTH, 1 / math.sqrt(WIDTH))
OTHERS: Dataset = tuple(row[None] for row in np.random.default_rng(7).normal(size=(4, WIDTH)) / WIDTH)

NEIGHBOURS: Pairs = (
    (OTHERS, (*OTHERS, 10 * FIRST[None])),
    (OTHERS, (*OTHERS, np.stack([10 * DENSE] * 4 + [10 * FIRST] * 4))),
    ((), (10 * DENSE[None],)),
    ((-DENSE[None],), (-DENSE[None], 10 * DENSE[None])),
)
"""One patient more: with one long gradient; with several pictures; alone; beside one who is the opposite."""
REPLACED: Pairs = (((*OTHERS, 10 * FIRST[None]), (*OTHERS, -10 * FIRST[None])),)
"""One patient replaced by the opposite."""


@dataclass(frozen=True)
class Claim:
    """A promise of (epsilon, delta) at one or several deltas, the first the one that is printed."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, event: Event) -> "Claim":
        """Returns the promise of an event, by the accountant, at `DELTAS`."""
        return cls(tuple((epsilon_of(event, delta), delta) for delta in DELTAS))

    def least_error(self, rate: float | Float64) -> Float64:
        """Returns f(rate): the least rate of the other error that the promise leaves a distinguisher."""
        least = np.zeros_like(rate, dtype=np.float64)
        for epsilon, delta in self.points:
            steep = 1 - delta - math.exp(min(epsilon, _LARGEST_EXPONENT)) * np.asarray(rate)
            least = np.maximum(least, np.maximum(steep, math.exp(-epsilon) * (1 - delta - np.asarray(rate))))
        return least


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
            sees, as numbers of one shape. The first axis of two or more is taken for rounds.
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
    for pair, worlds in enumerate(neighbours):
        seeds = _seeds([seed, pair], 2 * runs).reshape(runs, 2)
        rows = [
            [
                np.asarray(release(world, int(one)), dtype=np.float64)
                for world, one in zip(worlds, both, strict=True)
            ]
            for both in seeds
        ]
        if len({row.shape for both in rows for row in both}) > 1 or not rows[0][0].size:
            raise _unfit("releases of several shapes, or of none")
        released = np.clip(np.nan_to_num(np.array(rows), nan=_MOST), -_MOST, _MOST)
        rounds = released.shape[2] if released.ndim > 3 else 1
        released = released.reshape(runs, 2, -1)
        found.append(
            _attacked(released[:, 0], released[:, 1], rounds, claim, pair, alpha / len(neighbours), 1 - alpha)
        )
        if found[-1].caught:
            break
    return max(found, key=lambda one: (one.caught, one.epsilon - one.claimed))


def _seeds(entropy: Sequence[int], count: int) -> npt.NDArray[np.int64]:
    """Returns different seeds below 2^32, in blocks of successive ones at random places; of each two, one a world."""
    generator = np.random.default_rng(entropy)
    places = generator.choice(2**32 // _BLOCK, -(-count // _BLOCK), replace=False)
    pairs = (places[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()[:count].reshape(-1, 2)
    return generator.permuted(pairs, axis=1).ravel()  # neither world has the even seeds


def _unfit(got: str) -> PrivacyError:
    return PrivacyError(
        f"A release must be an array of numbers of one shape in every run, got {got}. Fill up what is missing with a "
        "fixed number.",
        code="privacy-audit-release",
    )


def _attacked(
    without: Float64, within: Float64, rounds: int, claim: Claim, pair: int, alpha: float, confidence: float
) -> Found:
    # The runs of each part lie among those of the others, and the worlds took turns: what follows time follows neither.
    fit, choose, count = (
        [np.concatenate([rows[k::4] for k in parts]) for rows in (without, within)]
        for parts in ((0,), (1,), (2, 3))
    )
    counted = len(count[0])
    # A larger margin between the least error that is promised and the limit of the error that is seen is better.
    best, threshold, sign = -math.inf, 0.0, 1.0
    chosen: tuple[str, Score] = "nothing", lambda rows: rows[:, 0]
    for name, of in statistics_of(fit[0], fit[1], rounds):
        scores = [of(rows) for rows in choose]
        for turned in (1.0, -1.0):
            places = _thresholds(turned * scores[0], turned * scores[1])
            errors = _errors(turned * scores[0], turned * scores[1], places)
            # As many errors as are to be expected among the runs that are counted.
            expected = [(one + 0.5) * counted / len(choose[0]) for one in errors]
            u, v = (upper_limits(one, counted, alpha / 2) for one in expected)
            margins = claim.least_error(u) - v
            if margins.max() > best:
                best, chosen, threshold, sign = margins.max(), (name, of), places[margins.argmax()], turned
    scores = [sign * chosen[1](rows) for rows in count]
    positives, negatives = (int(one[0]) for one in _errors(scores[0], scores[1], np.array([threshold])))
    above, below = (upper_limit(one, counted, alpha / 2) for one in (positives, negatives))
    bounds = [(epsilon_of_limits(above, below, delta), epsilon, delta) for epsilon, delta in claim.points]
    shown, claimed, delta = next((one for one in bounds if one[0] > one[1]), bounds[0])
    caught = shown > claimed
    least = upper_limit(0, counted, alpha / 2)
    return Found(
        pair, f"{chosen[0]}{', turned' if sign < 0 else ''}", delta, shown, claimed,
        epsilon_of_limits(least, least, delta), caught, positives, negatives, counted, confidence, scores[0],
        scores[1], threshold,
    )  # fmt: skip


def _thresholds(without: Float64, within: Float64) -> Float64:
    inner = np.quantile(np.concatenate([without, within]), np.linspace(0, 1, _THRESHOLDS), method="nearest")
    # The extremes of one world alone: no false positive, or no false negative, among the runs that choose.
    return np.unique([*inner, without.max(), np.nextafter(within.min(), -np.inf)])


def _errors(without: Float64, within: Float64, places: Float64) -> tuple[Float64, Float64]:
    """Returns the numbers of false positives and of false negatives at several thresholds, (threshold,) each."""
    positives = len(without) - np.searchsorted(np.sort(without), places, side="right")
    return positives.astype(np.float64), np.searchsorted(np.sort(within), places, side="right").astype(np.float64)
