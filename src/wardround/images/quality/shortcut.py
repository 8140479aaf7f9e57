"""Predictions for the wrong reasons: by a few numbers of brightness and border alone.

A picture set may be easy because sick patients were photographed by another machine. A model that looks good
on such a set has shown little; its figures belong beside what these six numbers reach.

Guarantee: none. Everything here is computed from the pictures as they are, for the hospital's own screen or for
a reference in a simulation.
"""

import hashlib
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.types import Labels, Pictures, Scores

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]
_RIDGE = 1e-3
_LAST_GAIN = 1e-10
"""Newton's gain from which one more step is the last: its error is then squared, which leaves rounding alone."""

_MOST_BY_NEWTON, _MOST_STEPS = 16, 100
"""Classes, and Newton's steps; ten are many."""

_BLOCK_VALUES = 4_000_000
"""Grey values that are held as numbers of 64 bits at once: 32 MB."""

_AT_ONCE = 256
"""Pictures whose counts of levels are held at once."""

NUM_FOLDS = 5


class Rule(StrEnum):
    """Columns of a logistic regression: the numbers, or their squares as well."""

    LINEAR = "linear"
    SQUARES = "squares"


def six_numbers(pictures: Pictures, rows: _Indices | None = None) -> _Floats:
    """Returns brightness, contrast, dark and bright ends, brightness and contrast of the border, (picture, 6).

    The border is the outermost eighth along each axis of space. Values are in units of full brightness.

    Pictures or volumes are uint8, (picture, channel, *space); of `rows` alone where they are given.
    """
    rows = np.arange(len(pictures)) if rows is None else rows
    pictures = np.asarray(pictures)  # a view of a memory map costs more than the counts of a small picture
    channels, lengths = pictures.shape[1], pictures.shape[2:]
    inner = tuple(slice(max(1, length // 8), length - max(1, length // 8)) for length in lengths)
    levels = np.arange(255 * channels + 1) / (255.0 * channels)
    parts = [np.zeros((0, 6))]
    for start in range(0, len(rows), _AT_ONCE):
        both = [_counts(pictures[row], inner, len(levels)) for row in rows[start : start + _AT_ONCE]]
        whole, border = (np.array(counts) for counts in zip(*both, strict=True))
        dark, bright = (_quantile(whole, levels, share) for share in (0.05, 0.95))
        parts.append(np.stack([*_moments(whole, levels), dark, bright, *_moments(border, levels)], axis=1))
    return np.concatenate(parts)


def _counts(picture: Pictures, inner: tuple[slice, ...], levels: int) -> tuple[_Indices, _Indices]:
    """Returns how many pixels of a picture, (channel, *space), have each level, and how many of its border."""
    grey = picture[0] if len(picture) == 1 else picture.sum(axis=0, dtype=np.int64)

    def counts(values: npt.NDArray[np.integer]) -> _Indices:
        if values.dtype == np.uint8 and values.size:  # Pillow counts bytes in a third of NumPy's time
            return np.array(Image.fromarray(values.reshape(len(values), -1)).histogram(), dtype=np.int64)
        return np.bincount(values.ravel(), minlength=levels)

    whole = counts(grey)
    return whole, whole - counts(grey[inner])


def _moments(counts: _Indices, levels: _Floats) -> tuple[_Floats, _Floats]:
    """Returns mean and standard deviation of each picture, from how many pixels have each level, (picture, level)."""
    pixels = counts.sum(axis=1)
    means = (counts * levels).sum(axis=1) / pixels
    return means, np.sqrt((counts * (levels - means[:, None]) ** 2).sum(axis=1) / pixels)


def _quantile(counts: _Indices, levels: _Floats, share: float) -> _Floats:
    """Returns the quantile of each picture, linear between two pixels as NumPy has it."""
    up_to, place = counts.cumsum(axis=1), (counts.sum(axis=1)[0] - 1) * share
    low, high = (levels[(up_to <= int(at)).sum(axis=1)] for at in (np.floor(place), np.ceil(place)))
    found: _Floats = low + (high - low) * (place - np.floor(place))
    return found


def border_numbers(pictures: Pictures) -> _Floats:
    """Returns brightness, contrast, and the brightness of each border by itself: (picture, 6), or 8 for volumes.

    A border is the outermost eighth on one side of one axis of space. Values are in units of full brightness.

    Pictures or volumes are uint8, (picture, channel, *space).
    """
    block = max(1, _BLOCK_VALUES // max(1, int(np.prod(pictures.shape[1:]))))
    parts = [np.zeros((0, 2 * pictures.ndim - 2))]
    for start in range(0, len(pictures), block):
        values = pictures[start : start + block].astype(np.float64).mean(axis=1) / 255.0
        flat = values.reshape(len(values), -1)
        numbers = [flat.mean(1), flat.std(1)]
        for axis in range(1, values.ndim):
            width = max(1, values.shape[axis] // 8)
            for border in (slice(width), slice(-width, None)):
                outermost: _Floats = values[(slice(None),) * axis + (border,)]
                numbers.append(outermost.reshape(len(values), -1).mean(axis=1))
        parts.append(np.stack(numbers, axis=1))
    return np.concatenate(parts)


def shortcut_scores(
    pictures: Pictures, rows: _Indices, labels: Labels, test_rows: _Indices, num_classes: int
) -> Scores:
    """Returns class probabilities of test pictures by `six_numbers` and their squares, (test picture, class).

    `pictures` may be a memory map: no more of it is copied than is held at once. `labels` are of `rows`, (row,).
    """
    train, test = (six_numbers(pictures, of) for of in (rows, test_rows))
    return scores_of_numbers(train, labels, test, num_classes, Rule.SQUARES)


def scores_of_numbers(train: _Floats, labels: Labels, test: _Floats, num_classes: int, rule: Rule) -> Scores:
    """Returns class probabilities by logistic regression on a few numbers a picture, (test picture, class).

    Numbers are (picture, number), and labels (picture,).
    """
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
    weights = _logistic(_expanded((train - mean) / std, rule), labels, num_classes)
    return _softmax(_expanded((test - mean) / std, rule) @ weights)


def cross_validated_auroc(
    numbers: _Floats, labels: Labels, patients: Sequence[str], num_classes: int, rule: Rule
) -> float | None:
    """Returns the AUROC of predictions for patients that the rule has not seen, over five folds of patients.

    All pictures of a patient are in one fold. The folds are fixed by the patients' ids, so that two looks at one
    set print one figure. With three classes or more: the mean over the classes, each against the rest.

    Numbers are (picture, number), labels (picture,), and a patient is named for each picture.

    Returns:
        None for fewer than two classes, or a class with fewer patients than folds.
    """
    folds = _folds(labels, patients)
    people = [len({p for p, one in zip(patients, labels, strict=True) if one == label}) for label in set(labels)]
    if len(people) < 2 or min(people) < NUM_FOLDS:
        return None
    scores = np.zeros((len(labels), num_classes))
    for fold in range(NUM_FOLDS):
        test = folds == fold
        scores[test] = scores_of_numbers(numbers[~test], labels[~test], numbers[test], num_classes, rule)
    present = sorted(set(labels.tolist()))
    against_rest = [_auroc(scores[:, label], labels == label) for label in present]
    return against_rest[-1] if len(present) == 2 else float(np.mean(against_rest))


def _folds(labels: Labels, patients: Sequence[str]) -> _Indices:
    """Returns one fold a picture; patients are dealt out class by class, in the order of a hash of their ids."""
    highest: dict[str, int] = {}
    for patient, label in zip(patients, labels.tolist(), strict=True):
        highest[patient] = max(label, highest.get(patient, 0))
    dealt = sorted(
        highest, key=lambda one: (highest[one], hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest())
    )
    fold = {patient: place % NUM_FOLDS for place, patient in enumerate(dealt)}
    return np.array([fold[patient] for patient in patients], dtype=np.int64)


def _auroc(scores: _Floats, is_positive: npt.NDArray[np.bool_]) -> float:
    """Returns the chance that a positive scores above a negative, ties counted half (Mann and Whitney 1947)."""
    from scipy.stats import rankdata

    positives = int(is_positive.sum())
    above = float(rankdata(scores)[is_positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(scores) - positives))


def _expanded(numbers: _Floats, rule: Rule) -> _Floats:
    columns = [np.ones((len(numbers), 1)), numbers]
    if rule is Rule.SQUARES:
        columns.append(np.clip(numbers, -4, 4) ** 2)
    return np.concatenate(columns, axis=1)


def _logistic(rows: _Floats, labels: Labels, num_classes: int) -> _Floats:
    """Returns the weights of ridge-penalised multinomial logistic regression, (column, class): its one minimum.

    By Newton's method, each step halved until the loss falls as a convex function does (Boyd and Vandenberghe 2004,
    algorithm 9.5): a few rows and columns are solved in less time than scipy.optimize takes to import. Its second
    derivatives grow with the square of the classes, so many of them go to SciPy.
    """
    wanted = np.eye(num_classes)[labels]

    def loss(weights: _Floats) -> tuple[float, _Floats]:
        chances = _softmax(rows @ weights.T)
        nats = -np.log(np.maximum((chances * wanted).sum(axis=1), 1e-300)).mean()
        slope = (chances - wanted).T @ rows / len(rows) + 2 * _RIDGE * weights
        return float(nats + _RIDGE * (weights**2).sum()), slope

    weights = np.zeros((num_classes, rows.shape[1]))
    if num_classes > _MOST_BY_NEWTON:
        from scipy.optimize import minimize

        def flat(values: _Floats) -> tuple[float, _Floats]:
            value, slope = loss(values.reshape(weights.shape))
            return value, slope.ravel()

        return np.asarray(minimize(flat, weights.ravel(), jac=True, method="L-BFGS-B").x.reshape(weights.shape).T)
    value, slope = loss(weights)
    for _ in range(_MOST_STEPS):
        step = np.linalg.solve(_curvature(rows, _softmax(rows @ weights.T)), slope.ravel()).reshape(weights.shape)
        gain, share = float((slope * step).sum()), 1.0
        if not gain > _LAST_GAIN:
            return np.asarray((weights - step).T)
        while (after := loss(weights - share * step))[0] > value - 0.25 * share * gain:
            share /= 2
        weights, (value, slope) = weights - share * step, after
    return np.asarray(weights.T)


def _curvature(rows: _Floats, chances: _Floats) -> _Floats:
    """Returns the second derivatives of the loss, (class * column, class * column)."""
    columns, classes = rows.shape[1], chances.shape[1]
    blocks = np.zeros((classes, columns, classes, columns))
    for one in range(classes):
        for other in range(one + 1):
            each = chances[:, one] * ((one == other) - chances[:, other])
            blocks[one, :, other] = blocks[other, :, one] = (rows * each[:, None]).T @ rows / len(rows)
    return blocks.reshape(classes * columns, -1) + 2 * _RIDGE * np.eye(classes * columns)


def _softmax(logits: _Floats) -> _Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances: _Floats = powers / powers.sum(axis=1, keepdims=True)
    return chances
