"""Metrics of a model that calls classes, on test patients, with intervals over patients."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wardround.errors import DataError, ModelError
from wardround.training.metrics import calibration, confusion, ranking
from wardround.training.metrics.bootstrap import Floats, Indices, Interval, interval, number, picture_weights
from wardround.types import Labels, Scores

FIXED_SPECIFICITY = 0.90
"""Share of the healthy that must be cleared before sensitivities are compared; fixed beforehand."""


@dataclass(frozen=True)
class Metrics:
    """Quality on one test set. A picture is counted for the class with the highest probability.

    With two classes, class 1 is the disease: a picture is called positive when its probability exceeds 0.5.
    The threshold is fixed beforehand; one chosen on private data would be a release of its own.

    `X_interval` is the 95 % interval of `X` over patients; None with fewer than two patients, where the number itself
    is None, and where fewer than half of the resamples can give it.

    Attributes:
        accuracy: share of pictures called right.
        majority_accuracy: of calling every picture the test set's commonest class.
        balanced_accuracy: mean over the classes that occur of the share called right.
        auroc: area under the receiver operating curve; with more classes the unweighted mean of one class
            against the rest. None when a class does not occur, so that nothing can be ranked.
        sensitivity: share of class 1 called positive; None unless there are two classes and 1 occurs.
        specificity: share of class 0 called negative; None unless there are two classes and 0 occurs.
        grades: the classes are in an order.
        class_shares: share of each class among the pictures; of class 1, it is what chance reaches in `auprc`.
        auprc: average precision, of classes as `auroc`; None where that is.
        matthews: Matthews' correlation; None when all pictures are of one class, or were called one.
        quadratic_kappa: agreement on grades; None without grades, and where chance could not disagree.
        calibration_error: expected calibration error over the bins of `reliability`.
        brier: half the mean squared distance of the probabilities from the truth.
        sensitivity_at_fixed_specificity: the highest sensitivity of a threshold with at least
            `fixed_specificity`, found on the test pictures; None unless there are two classes and both occur.
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
    grades: bool
    balanced_accuracy_interval: Interval | None
    class_shares: tuple[float, ...]
    auprc: float | None
    auprc_interval: Interval | None
    matthews: float | None
    quadratic_kappa: float | None
    quadratic_kappa_interval: Interval | None
    calibration_error: float
    brier: float
    sensitivity_at_fixed_specificity: float | None
    fixed_specificity: float
    reliability: tuple[calibration.ReliabilityBin, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the fields as values that `json.dumps` takes; an interval is {"low": ..., "high": ...}."""
        return asdict(self)


def evaluate(
    scores: Scores,
    labels: Labels,
    patients: Indices,
    *,
    generator: np.random.Generator,
    num_resamples: int = 1000,
    grades: bool = False,
) -> Metrics:
    """Returns metrics of a model on a test set, with intervals over patients.

    `patients` is the patient of each picture, (picture,), any integers; `grades` says that the classes are in an order.

    Raises:
        DataError: no pictures, or shapes or labels that do not fit together.
        ModelError: a score is not finite.
    """
    _check(scores, labels, patients)
    num_classes, called = scores.shape[1], scores.argmax(axis=1)
    _, patient = np.unique(patients, return_inverse=True)
    once = np.ones((1, len(labels)))
    table = confusion.confusions(labels, called, num_classes, once)
    point = _numbers(scores, labels, called, once)
    draws = picture_weights(patient, generator, num_resamples) if patient.max() > 0 else ()
    parts = [_numbers(scores, labels, called, weights) for weights in draws]
    numbers: dict[str, Any] = {}
    for name, values in point.items():
        known = (grades or name != "quadratic_kappa") and not np.isnan(values[0])
        numbers[name] = float(values[0]) if known else None
        drawn = [part[name] for part in parts]
        numbers[f"{name}_interval"] = interval(np.concatenate(drawn)) if known and drawn else None
    recalls = [number(recall) for recall in confusion.recalls(table)[0]]
    bins = calibration.reliability(scores, labels)
    counts = np.bincount(labels, minlength=num_classes)
    two = num_classes == 2
    return Metrics(
        n_pictures=len(labels),
        n_patients=int(patient.max()) + 1,
        majority_accuracy=float(counts.max() / len(labels)),
        sensitivity=recalls[1] if two else None,
        specificity=recalls[0] if two else None,
        grades=grades,
        class_shares=tuple((counts / len(labels)).tolist()),
        matthews=number(confusion.matthews(table)[0]),
        calibration_error=calibration.calibration_error(bins),
        brier=calibration.brier(scores, labels),
        sensitivity_at_fixed_specificity=(
            ranking.sensitivity_at(scores[:, 1], labels == 1, FIXED_SPECIFICITY) if two else None
        ),
        fixed_specificity=FIXED_SPECIFICITY,
        reliability=bins,
        **numbers,
    )


def _numbers(scores: Scores, labels: Labels, called: Indices, weights: Floats) -> dict[str, Floats]:
    """Returns the numbers for each row of weights, (resample,) each, by their names in `Metrics`."""
    table = confusion.confusions(labels, called, scores.shape[1], weights)
    curves = (ranking.area, ranking.average_precision)
    auroc, auprc = ranking.ranking_numbers(scores, labels, weights, curves)
    return {
        "accuracy": confusion.accuracy(table), "balanced_accuracy": confusion.balanced_accuracy(table),
        "auroc": auroc, "auprc": auprc, "quadratic_kappa": confusion.quadratic_kappa(table),
    }  # fmt: skip


def _check(scores: Scores, labels: Labels, patients: Indices) -> None:
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
