"""Metrics of a model that calls classes, on test patients, with intervals over patients."""

from dataclasses import asdict, dataclass

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
        n_pictures: pictures in the test set.
        n_patients: patients they belong to.
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
        fixed_specificity: the specificity that is meant.
        reliability: confidence and accuracy by bins of confidence.
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

    Args:
        scores: class probabilities, (picture, class).
        labels: class indices, (picture,).
        patients: patient of each picture, (picture,); any integers.
        generator: draws the resamples.
        num_resamples: for the intervals.
        grades: the classes are in an order.

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
    known = [name for name in point if parts and not np.isnan(point[name][0])]
    intervals = {name: interval(np.concatenate([part[name] for part in parts])) for name in known}
    recalls = [number(recall) for recall in confusion.recalls(table)[0]]
    bins = calibration.reliability(scores, labels)
    counts = np.bincount(labels, minlength=num_classes)
    two = num_classes == 2
    return Metrics(
        n_pictures=len(labels),
        n_patients=int(patient.max()) + 1,
        accuracy=float(point["accuracy"][0]),
        accuracy_interval=intervals.get("accuracy"),
        majority_accuracy=float(counts.max() / len(labels)),
        balanced_accuracy=float(point["balanced_accuracy"][0]),
        auroc=number(point["auroc"][0]),
        auroc_interval=intervals.get("auroc"),
        sensitivity=recalls[1] if two else None,
        specificity=recalls[0] if two else None,
        grades=grades,
        balanced_accuracy_interval=intervals.get("balanced_accuracy"),
        class_shares=tuple((counts / len(labels)).tolist()),
        auprc=number(point["auprc"][0]),
        auprc_interval=intervals.get("auprc"),
        matthews=confusion.matthews(labels, called),
        quadratic_kappa=number(point["quadratic_kappa"][0]) if grades else None,
        quadratic_kappa_interval=intervals.get("quadratic_kappa") if grades else None,
        calibration_error=calibration.calibration_error(bins),
        brier=calibration.brier(scores, labels),
        sensitivity_at_fixed_specificity=(
            ranking.sensitivity_at(scores[:, 1], labels == 1, FIXED_SPECIFICITY) if two else None
        ),
        fixed_specificity=FIXED_SPECIFICITY,
        reliability=bins,
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
