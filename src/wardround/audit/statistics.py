"""Statistics that tell two worlds apart, fitted on released numbers without knowledge of the mechanism.

| statistic | finds |
|---|---|
| linear discriminant | a shift, and directions without noise: noise that cancels, a number without noise |
| quadratic discriminants | another spread, or other correlations |
| distances from two medians | a shift under Laplace noise |
| exact values | releases that recur to the last bit, such as the zeros of an empty sample, or noise that is fixed |
| one number; largest, smallest, norm, spread, least gap | a shift in an unknown place, or in one round of several |

Each is tried in both directions and by its distance from the middle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from wardround.audit.bounds import Float64

Score: TypeAlias = Callable[[Float64], Float64]

_ALONE = 16
"""Numbers of a release that are also tried one by one."""
_SQUARE = 32
"""Numbers of a release up to which all their products enter the quadratic discriminant."""
_LEAST_SPREAD = 1e-12
"""Least spread of a direction, of the largest one: rounding errors of noise that cancels are below it."""


@dataclass(frozen=True)
class Statistic:
    """A number of each release, (run, number) to (run,); larger means that the patient is in."""

    name: str
    of: Score


def statistics_of(without: Float64, within: Float64) -> Iterator[Statistic]:
    """Yields statistics fitted on releases of two worlds, (run, number) each."""
    for name, of in _fitted(without, within):
        middle = float(np.median(np.concatenate([of(without), of(within)])))
        yield Statistic(name, of)
        yield Statistic(f"{name}, turned", _turned(of))
        yield Statistic(f"{name}, from the middle", _from(of, middle))
        yield Statistic(f"{name}, near the middle", _turned(_from(of, middle)))


def _turned(of: Score) -> Score:
    return lambda rows: -of(rows)


def _from(of: Score, middle: float) -> Score:
    return lambda rows: np.abs(of(rows) - middle)


def _number(k: int) -> Score:
    return lambda rows: rows[:, k]


def _fitted(without: Float64, within: Float64) -> Iterator[tuple[str, Score]]:
    width = without.shape[1]
    for k in range(min(width, _ALONE)):
        yield f"number {k + 1}", _number(k)
    if width > 1:
        yield from _summaries()
        yield "linear discriminant", _linear(without, within)
        both = [_with_squares(rows) for rows in (without, within)]
        of = _linear(*both)
        yield "linear discriminant of squares", lambda rows: of(_with_squares(rows))
    yield "quadratic discriminant, each number", _separate(without, within)
    yield "distances from two medians", _distances(without, within)
    if 1 < width <= _SQUARE:
        yield "quadratic discriminant", _quadratic(without, within)
    yield "exact values", _exact(without, within)


def _summaries() -> Iterator[tuple[str, Score]]:
    yield "largest", lambda rows: rows.max(axis=1)
    yield "smallest", lambda rows: rows.min(axis=1)
    yield "norm", lambda rows: np.asarray(np.linalg.norm(rows, axis=1))
    yield "spread", lambda rows: rows.std(axis=1)
    yield "sum", lambda rows: rows.sum(axis=1)
    yield "least gap", lambda rows: np.diff(np.sort(rows, axis=1), axis=1).min(axis=1)


def _with_squares(rows: Float64) -> Float64:
    return np.concatenate([rows, rows**2], axis=1)


def _linear(without: Float64, within: Float64) -> Score:
    """Returns Fisher's linear discriminant: the difference of the means by the inverse of the common covariance."""
    difference = within.mean(axis=0) - without.mean(axis=0)
    scale = np.concatenate([without, within]).std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    centred = np.concatenate([without - without.mean(axis=0), within - within.mean(axis=0)]) / scale
    # Directions of the centred releases, and their spreads; more numbers than runs leave directions without any.
    _, spreads, directions = np.linalg.svd(centred, full_matrices=False)
    least = max(_LEAST_SPREAD * float(spreads.max(initial=0.0)), np.finfo(np.float64).tiny ** 0.25)
    along = directions @ (difference / scale)
    kept = along / np.maximum(spreads, least) ** 2
    rest = difference / scale - along @ directions  # no noise at all in these directions
    weights = (directions.T @ kept + rest / least**2) / scale
    size = float(np.abs(weights).max(initial=0.0))
    weights = weights / size if size > 0 else weights
    return lambda rows: np.asarray(rows @ weights)


def _separate(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the ratio of two normal densities of independent numbers."""
    means = [rows.mean(axis=0) for rows in (without, within)]
    least = _LEAST_SPREAD * max(float(rows.std(axis=0).max()) for rows in (without, within)) + 1e-150
    spreads = [np.maximum(rows.std(axis=0), least) for rows in (without, within)]

    def of(rows: Float64) -> Float64:
        out, own = (-0.5 * ((rows - m) / s) ** 2 - np.log(s) for m, s in zip(means, spreads, strict=True))
        return np.asarray((own - out).sum(axis=1))

    return of


def _distances(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the ratio of two Laplace densities of independent numbers of one common scale each."""
    middles = [np.median(rows, axis=0) for rows in (without, within)]
    scale = np.abs(np.concatenate([without - middles[0], within - middles[1]])).mean(axis=0)
    scale = np.maximum(scale, _LEAST_SPREAD * float(scale.max()) + 1e-150)

    def of(rows: Float64) -> Float64:
        out, own = (np.abs((rows - middle) / scale) for middle in middles)
        return np.asarray((out - own).sum(axis=1))

    return of


def _quadratic(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the ratio of two normal densities, up to a constant."""
    parts = []
    for rows in (without, within):
        values, directions = np.linalg.eigh(np.cov(rows, rowvar=False))
        least = (_LEAST_SPREAD**2) * float(values.max(initial=0.0)) + 1e-300
        parts.append((rows.mean(axis=0), directions / np.sqrt(np.maximum(values, least))))

    def of(rows: Float64) -> Float64:
        out, own = (((rows - mean) @ whitening) ** 2 for mean, whitening in parts)
        return np.asarray((out - own).sum(axis=1))

    return of


def _exact(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the ratio of two frequencies of each number's exact value, summed over the numbers.

    Values that occur once in both worlds together say nothing.
    """
    tables = []
    for k in range(without.shape[1]):
        values, places, counts = np.unique(
            np.concatenate([without[:, k], within[:, k]]), return_inverse=True, return_counts=True
        )
        own = np.bincount(places[len(without) :], minlength=len(values))
        gain = np.where(counts > 1, np.log((own + 0.5) / (counts - own + 0.5)), 0.0)
        tables.append((values, gain))

    def of(rows: Float64) -> Float64:
        total = np.zeros(len(rows))
        for (values, gain), column in zip(tables, rows.T, strict=True):
            at = np.minimum(np.searchsorted(values, column), len(values) - 1)
            total += np.where(values[at] == column, gain[at], 0.0)
        return total

    return of
