"""How good a model is on test patients, with intervals that know that pictures of one patient go together.

Intervals are percentile bootstraps over patients: patients are drawn with replacement, and all their pictures
follow. Resampling pictures would treat two views of one child as two children, and promise too much.

Numbers computed here say something about the test patients, and nothing protects them; whoever prints
them says so. A number that the test set cannot give is None, never zero and never NaN.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError, ModelError
from wardround.types import Labels, Scores

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

_CHUNK = 2**22
"""Resamples are taken in chunks of about so many picture weights, to bound memory (32 MiB)."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """Quality on one test set. A picture is counted for the class with the highest probability.

    With two classes, class 1 is the disease: a picture is called positive when its probability exceeds 0.5.
    The threshold is fixed beforehand; one chosen on private data would be a release of its own.

    Attributes:
        n_pictures: pictures in the test set.
        n_patients: patients they belong to.
        accuracy: share of pictures called right.
        accuracy_interval: its 95 % interval over patients; None with fewer than two patients.
        majority_accuracy: what calling every picture the test set's commonest class would reach.
        balanced_accuracy: mean over the classes that occur of the share called right.
        auroc: area under the receiver operating curve; with more classes the unweighted mean of one class
            against the rest. None when a class does not occur, so that nothing can be ranked.
        auroc_interval: its 95 % interval over patients, over the resamples in which every class occurs;
            None where `auroc` is, and when that holds for fewer than half of the resamples.
        sensitivity: share of class 1 called positive; None unless there are two classes and 1 occurs.
        specificity: share of class 0 called negative; None unless there are two classes and 0 occurs.
    """

    n_pictures: int
    n_patients: int
    accuracy: float
    accuracy_interval: Interval | None
    majority_accuracy: float
    balanced_accuracy: float
    auroc: float | None
    auroc_interval: Interval | None
    sensitivity: float | None
    specificity: float | None

    def to_json(self) -> dict[str, object]:
        """The fields as values that `json.dumps` takes; an interval is {"low": ..., "high": ...}."""
        return asdict(self)


def evaluate(
    scores: Scores,
    labels: Labels,
    patients: _Indices,
    *,
    generator: np.random.Generator,
    num_resamples: int = 1000,
) -> Metrics:
    """Metrics of a model on a test set, with intervals over patients.

    Args:
        scores: class probabilities, (picture, class).
        labels: class indices, (picture,).
        patients: which patient each picture belongs to, (picture,); any integers.
        generator: draws the resamples.
        num_resamples: for the intervals.

    Raises:
        DataError: no pictures, or shapes or labels that do not fit together.
        ModelError: a score is not finite.
    """
    _check(scores, labels, patients)
    num_classes = scores.shape[1]
    correct = (scores.argmax(axis=1) == labels).astype(np.float64)
    recalls = [float(correct[labels == k].mean()) if (labels == k).any() else None for k in range(num_classes)]
    occurring = [recall for recall in recalls if recall is not None]
    _, index = np.unique(patients, return_inverse=True)
    once = np.ones((1, len(labels)))
    auroc = _number(_macro_auroc(scores, labels, once)[0])
    accuracies, aurocs = _resampled(scores, labels, correct, index, (generator, num_resamples))
    num_patients = int(index.max()) + 1
    return Metrics(
        n_pictures=len(labels),
        n_patients=num_patients,
        accuracy=float(correct.mean()),
        accuracy_interval=_interval(accuracies) if num_patients > 1 else None,
        majority_accuracy=float(np.bincount(labels).max() / len(labels)),
        balanced_accuracy=float(np.mean(occurring)),
        auroc=auroc,
        auroc_interval=_interval(aurocs) if auroc is not None and num_patients > 1 else None,
        sensitivity=recalls[1] if num_classes == 2 else None,
        specificity=recalls[0] if num_classes == 2 else None,
    )


def auroc(scores: Scores, labels: Labels) -> float | None:
    """Area under the receiver operating curve, ties counted half; None when a class does not occur.

    Args:
        scores: class probabilities, (picture, class).
        labels: class indices, (picture,).

    >>> auroc(np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]), np.array([0, 0, 1]))
    0.75
    """
    return _number(_macro_auroc(scores, labels, np.ones((1, len(labels))))[0])


def _check(scores: Scores, labels: Labels, patients: _Indices) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores) == len(labels) == len(patients):
        raise DataError(
            "a test set must have scores (picture, class), and one label and one patient a picture, "
            f"got {scores.shape}, {labels.shape} and {patients.shape}. Pass arrays of the same pictures."
        )
    if len(labels) == 0:
        raise DataError("a test set must have at least one picture, got none. Set test patients aside first.")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError(
            f"labels must lie in 0..{scores.shape[1] - 1}, got {labels.min()}..{labels.max()}. "
            "Check that model and test set have the same classes."
        )
    if not np.isfinite(scores).all():
        raise ModelError(
            "scores must be finite, got NaN or infinity. The training diverged: lower the learning rate."
        )


def _resampled(
    scores: Scores, labels: Labels, correct: _Floats, index: _Indices, draws: tuple[np.random.Generator, int]
) -> tuple[_Floats, _Floats]:
    """Accuracy and AUROC of each resample, (resample,) each; NaN where a class does not occur."""
    accuracies, aurocs = [], []
    for weights in _picture_weights(index, *draws):
        accuracies.append(weights @ correct / weights.sum(axis=1))
        aurocs.append(_macro_auroc(scores, labels, weights))
    return np.concatenate(accuracies), np.concatenate(aurocs)


def _picture_weights(index: _Indices, generator: np.random.Generator, num_resamples: int) -> Iterator[_Floats]:
    """How often each picture occurs when patients are drawn with replacement, (resample, picture)."""
    num_patients = int(index.max()) + 1
    chance = np.full(num_patients, 1.0 / num_patients)
    chunk = max(1, _CHUNK // len(index))
    for start in range(0, num_resamples, chunk):
        counts = generator.multinomial(num_patients, chance, size=min(chunk, num_resamples - start))
        yield counts[:, index].astype(np.float64)


def _macro_auroc(scores: Scores, labels: Labels, weights: _Floats) -> _Floats:
    """AUROC for each row of picture weights, (resample,); NaN where a class has no weight."""
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    columns = [_weighted_auroc(scores[:, k], labels == k, weights) for k in classes]
    means: _Floats = np.mean(columns, axis=0)
    return means


def _weighted_auroc(score: _Floats, is_positive: npt.NDArray[np.bool_], weights: _Floats) -> _Floats:
    """Chance that a positive picture scores above a negative one, plus half the chance of a tie.

    The Mann-Whitney form of the area (Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747),
    with pictures counted by weight.

    Args:
        score: (picture,).
        is_positive: (picture,).
        weights: (resample, picture).
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered, positive = weights[:, order], is_positive[order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    wins = (positives * (below + 0.5 * negatives)).sum(axis=1)
    areas: _Floats = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def _interval(values: _Floats) -> Interval | None:
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or len(known) == 0:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(low), float(high))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
