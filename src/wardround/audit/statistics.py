"""Statistics that tell two worlds apart, fitted on released numbers without knowledge of the mechanism.

| statistic | finds |
|---|---|
| linear discriminants | a shift, and directions without noise: noise that cancels, a number without noise |
| quadratic discriminants, directions whose spread differs most | noise whose size or correlation follows the data |
| distances from one world, largest residuals, reach beyond one world | noise that is bounded, or chosen among several |
| histograms, distances from two medians | noise of another shape |
| exact values | releases that recur to the last bit: zeros of an empty sample, noise that is fixed, a small seed |
| residues | digits of the data below those of the noise, on grids of powers of 2 and 10 |
| boosted trees | several of these together |
| one number; largest, smallest, norm, spread, least gaps | a shift in an unknown place |
| one round of several | a whole shift in one round, which may be any of them: shuffled batches |

Each is tried in both directions and by its distance from the middle.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.audit.bounds import Float64

Score: TypeAlias = Callable[[Float64], Float64]
"""A number of each release, (run, number) to (run,)."""

_ALONE = 16
"""Numbers of a release that are also tried one by one."""
_FILLED = 5
"""Runs of a world for each number of a release, from which on all products of two numbers are fitted."""
_LEAST_SPREAD = 1e-12
"""Least spread of a direction, of the largest one: rounding errors of noise that cancels are below it."""
_FAR = 1e6
"""Spreads beyond which a number says no more."""
_BINS = 24
_FOR_TREES = 500
"""Runs of a world below which trees have nothing to learn from."""
_GRIDS = (*(2.0**k for k in range(0, 41, 4)), *(10.0**k for k in range(1, 9)))
"""Points of a grid on the unit, for residues."""


def statistics_of(without: Float64, within: Float64, rounds: int) -> Iterator[tuple[str, Score]]:
    """Yields names and statistics fitted on releases of two worlds, (run, number) each.

    The numbers of a release are those of its rounds, one round after the other.
    """
    for name, of in _fitted(without, within, rounds):
        yield name, of
        middle = float(np.median(np.concatenate([of(without), of(within)])))
        yield f"{name}, from the middle", _from(of, middle)


def _from(of: Score, middle: float) -> Score:
    return lambda rows: np.abs(of(rows) - middle)


def _number(k: int) -> Score:
    return lambda rows: rows[:, k]


def _fitted(without: Float64, within: Float64, rounds: int) -> Iterator[tuple[str, Score]]:
    width = without.shape[1]
    for k in range(min(width, _ALONE)):
        yield f"number {k + 1}", _number(k)
    if width > 1:
        yield from _SUMMARIES
        yield "linear discriminant", _linear(without, within)
        of_squares = _linear(_with_squares(without), _with_squares(within))
        yield "linear discriminant of squares", lambda rows: of_squares(_with_squares(rows))
    if rounds > 1:
        yield "one round of several", _one_round(without, within, rounds)
    yield "quadratic discriminant, each number", _separate(without, within)
    yield "distances from two medians", _distances(without, within)
    for world, rows in (("first", without), ("second", within)):
        yield from _residuals(world, rows)
    yield from _histograms(without, within)
    if 1 < width <= len(without) / _FILLED:
        yield from _products(without, within)
    yield "exact values", _exact(without, within, once=False)
    yield "exact values, once", _exact(without, within, once=True)
    for points in _GRIDS:
        residues = _residues(without, within, points)
        if residues is not None:
            yield f"residues, {points:g} to the unit", residues
    if len(without) >= _FOR_TREES:
        yield "boosted trees", _boosted(without, within)


def _gap(rows: Float64) -> Float64:
    return np.asarray(np.diff(np.sort(rows, axis=1), axis=1).min(axis=1))


_SUMMARIES: tuple[tuple[str, Score], ...] = (
    ("largest", lambda rows: rows.max(axis=1)),
    ("smallest", lambda rows: rows.min(axis=1)),
    ("norm", lambda rows: np.asarray(np.linalg.norm(rows, axis=1))),
    ("spread", lambda rows: rows.std(axis=1)),
    ("sum", lambda rows: rows.sum(axis=1)),
    ("least gap", _gap),
    ("least gap of sizes", lambda rows: _gap(np.abs(rows))),
)


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


def _one_round(without: Float64, within: Float64, rounds: int) -> Score:
    """Returns the logarithm of the ratio of two densities: normal noise, with the whole shift in one round or in none.

    Every round is as likely as another. The shift is the sum of the differences of the rounds' means.
    """
    middle = without.mean(axis=0)
    spreads = _spreads((without - middle).reshape(len(without) * rounds, -1))
    shift = np.clip((within.mean(axis=0) - middle).reshape(rounds, -1).sum(axis=0) / spreads, -_FAR, _FAR)

    def of(rows: Float64) -> Float64:
        each = np.clip((rows - middle).reshape(len(rows), rounds, -1) / spreads, -_FAR, _FAR)
        along = each @ shift - shift @ shift / 2
        largest = along.max(axis=1)
        return np.asarray(largest + np.log(np.exp(along - largest[:, None]).mean(axis=1)))

    return of


def _spreads(rows: Float64) -> Float64:
    spreads = rows.std(axis=0)
    return np.asarray(np.maximum(spreads, _LEAST_SPREAD * float(spreads.max()) + 1e-150))


def _separate(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the ratio of two normal densities of independent numbers."""
    fitted = [(rows.mean(axis=0), _spreads(rows)) for rows in (without, within)]

    def of(rows: Float64) -> Float64:
        out, own = (-0.5 * ((rows - m) / s) ** 2 - np.log(s) for m, s in fitted)
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


def _residuals(world: str, rows: Float64) -> Iterator[tuple[str, Score]]:
    """Yields sizes of what is left without one world's mean, and how far numbers lie beyond all of its numbers."""
    mean, spreads, low, high = rows.mean(axis=0), _spreads(rows), rows.min(axis=0), rows.max(axis=0)
    yield f"distance from the {world} world", lambda of: np.asarray(np.linalg.norm((of - mean) / spreads, axis=1))
    yield f"largest residual of the {world} world", lambda of: np.abs((of - mean) / spreads).max(axis=1)
    yield f"reach beyond the {world} world", lambda of: (np.maximum(of - high, low - of) / spreads).max(axis=1)


def _histograms(without: Float64, within: Float64) -> Iterator[tuple[str, Score]]:
    """Yields the logarithm of the ratio of two histograms, of each number by itself and of all of them together."""
    mean, spreads = without.mean(axis=0), _spreads(without)
    edges = np.quantile((np.concatenate([without, within]) - mean) / spreads, np.linspace(0, 1, _BINS)[1:-1])

    def bins(rows: Float64) -> npt.NDArray[np.intp]:
        return np.asarray(np.searchsorted(edges, (rows - mean) / spreads))

    counts = [
        np.stack([np.bincount(column, minlength=_BINS) for column in bins(rows).T]) + 0.5
        for rows in (without, within)
    ]
    each = np.log(counts[1] / counts[0])
    together = np.log(counts[1].sum(axis=0) / counts[0].sum(axis=0))
    numbers = np.arange(without.shape[1])
    yield "histogram of each number", lambda rows: each[numbers, bins(rows)].sum(axis=1)
    yield "histogram of all numbers", lambda rows: together[bins(rows)].sum(axis=1)


def _products(without: Float64, within: Float64) -> Iterator[tuple[str, Score]]:
    """Yields distances by each world's own covariance, their difference, and the two directions whose spread differs.

    The difference is the logarithm of the ratio of two normal densities, up to a constant.
    """
    distances, bases = list[Score](), list[Float64]()
    for rows in (without, within):
        values, directions = np.linalg.eigh(np.cov(rows, rowvar=False))
        least = (_LEAST_SPREAD**2) * float(values.max(initial=0.0)) + 1e-300
        bases.append(directions / np.sqrt(np.maximum(values, least)))
        distances.append(_distance(rows.mean(axis=0), bases[-1]))
    out, own = distances
    yield "quadratic discriminant", lambda rows: out(rows) - own(rows)
    yield "quadratic distance from the first world", out
    yield "quadratic distance from the second world", own
    for world, base, other in (("first", bases[0], within), ("second", bases[1], without)):
        _, turned = np.linalg.eigh(np.cov(other @ base, rowvar=False))
        for name, k in (("least", 0), ("most", -1)):
            yield f"direction spread {name} by the {world} world", _along(base @ turned[:, k])


def _distance(mean: Float64, base: Float64) -> Score:
    return lambda rows: np.asarray((((rows - mean) @ base) ** 2).sum(axis=1))


def _along(direction: Float64) -> Score:
    return lambda rows: np.asarray(rows @ direction)


def _exact(without: Float64, within: Float64, *, once: bool) -> Score:
    """Returns the logarithm of the ratio of two frequencies of each number's exact value, summed over the numbers.

    Values that occur once in both worlds together say something only of releases that hardly ever recur (`once`).
    """
    tables = []
    for k in range(without.shape[1]):
        values, places, counts = np.unique(
            np.concatenate([without[:, k], within[:, k]]), return_inverse=True, return_counts=True
        )
        own = np.bincount(places[len(without) :], minlength=len(values))
        gain = np.where(once | (counts > 1), np.log((own + 0.5) / (counts - own + 0.5)), 0.0)
        tables.append((values, gain))

    def of(rows: Float64) -> Float64:
        total = np.zeros(len(rows))
        for (values, gain), column in zip(tables, rows.T, strict=True):
            at = np.minimum(np.searchsorted(values, column), len(values) - 1)
            total += np.where(values[at] == column, gain[at], 0.0)
        return total

    return of


def _residues(without: Float64, within: Float64, points: float) -> Score | None:
    """Returns the difference of two sums of cosines of residues on a grid, from each world's own mean residue.

    Each number counts by the length of its world's mean vector (the statistic of von Mises distributions with small
    concentrations). None where no residue has a direction.
    """

    def angles(rows: Float64) -> npt.NDArray[np.complex128]:
        return np.exp(2j * math.pi * np.mod(rows * points, 1.0))

    means = [angles(rows).mean(axis=0) for rows in (without, within)]
    if np.abs(means).max() < 6 / math.sqrt(len(without)):
        return None
    apart = means[1] - means[0]
    return lambda rows: np.asarray((angles(rows) @ apart.conj()).real)


def _boosted(without: Float64, within: Float64) -> Score:
    """Returns the logarithm of the odds by boosted trees of the first numbers and the summaries."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # here: it takes most of a second to import

    def seen(rows: Float64) -> Float64:
        more = [of(rows) for _, of in _SUMMARIES] if rows.shape[1] > 1 else []
        return np.column_stack([rows[:, :_ALONE], *more])

    trees = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=0)
    trees.fit(seen(np.concatenate([without, within])), np.repeat([0, 1], [len(without), len(within)]))
    return lambda rows: np.asarray(trees.decision_function(seen(rows)))
