"""Calls and probabilities of the final model on the test pictures: at released thresholds, calibrated, and wrong ones.

Rates and calibration are released without protection, to readers of the record, like all metrics of test patients. The
page of wrong calls shows the pictures themselves. It is for the person who simulates, and in no record.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wardround.errors import MissingExtra
from wardround.images.entries import Target
from wardround.images.quality.mistakes import write_mistakes
from wardround.models.operating_point import ByThreshold, OperatingPoint
from wardround.simulation.materials import Materials
from wardround.training.metrics.bootstrap import interval, picture_weights
from wardround.training.metrics.calibration import brier, calibration_error, reliability
from wardround.training.metrics.confusion import confusions, recalls
from wardround.training.scores import scores_of
from wardround.types import Scores, Vector

OWN_PAGE = "own.html"
_RESAMPLES = 1000


def called(
    points: Sequence[OperatingPoint], weights: Vector, materials: Materials
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Returns what each operating point reaches on the test pictures, one a row, and the calibration of the model.

    Sensitivity and specificity have 95 % intervals over patients, from a fixed public seed. `accuracy` is of the class
    against the others. A class without threshold is called where its logit is the largest. Probabilities are those that
    `wardround predict` gives: calibrated by the operating points where every class has one, else a softmax.
    """
    test, names = materials.test, materials.images.class_names
    probabilities = materials.workbench.probabilities(weights, test.rows)
    scores = scores_of(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))
    patient = np.repeat(np.arange(len(test)), test.counts)
    rows: list[dict[str, object]] = []
    for place, asked, score, point in _thresholds(points):
        is_own = (test.labels == names.index(point.class_name)).astype(np.int64)
        is_called = (scores[:, place] >= score).astype(np.int64)
        row: dict[str, object] = {
            "class": point.class_name,
            "asked_sensitivity": asked,
            "score": score,
            "accuracy": float((is_called == is_own).mean()),
            "reason": "" if isinstance(point, ByThreshold) else point.reason,
        }
        [own] = recalls(confusions(is_own, is_called, 2, np.ones((1, len(is_own)))))
        drawn = picture_weights(patient, np.random.default_rng(0), _RESAMPLES)
        resampled = np.concatenate([recalls(confusions(is_own, is_called, 2, each)) for each in drawn])
        for column, key in enumerate(("specificity", "sensitivity")):
            around = interval(resampled[:, column]) if len(test) > 1 and np.isfinite(own[column]) else None
            row[key] = float(own[column]) if np.isfinite(own[column]) else None
            row[f"{key}_interval"] = None if around is None else asdict(around)
        rows.append(row)
    shown = _calibrated(points, scores, len(names))
    bins = reliability(probabilities if shown is None else shown, test.labels)
    return rows, {
        "released": shown is not None,
        "error": calibration_error(bins),
        "brier": brier(probabilities if shown is None else shown, test.labels),
        "bins": [asdict(each) for each in bins],
    }


def show_mistakes(weights: Vector, materials: Materials, path: Path) -> None:
    """Writes the page of test pictures that the model calls wrongly; nothing of masks, and without Jinja2."""
    if materials.images.target is Target.MASKS:
        return
    rows = materials.test.rows
    with suppress(MissingExtra):
        write_mistakes(materials.images, rows, materials.workbench.probabilities(weights, rows), path)


def _thresholds(points: Sequence[OperatingPoint]) -> Iterator[tuple[int, float | None, float, OperatingPoint]]:
    """Yields place, sensitivity asked for, least score, and point: of each threshold, or of the largest logit."""
    for place, point in enumerate(points):
        if isinstance(point, ByThreshold):
            yield from ((place, each.sensitivity, each.score, point) for each in point.thresholds)
        else:
            yield place, None, 0.0, point


def _calibrated(points: Sequence[OperatingPoint], scores: Scores, classes: int) -> Scores | None:
    """Returns probabilities by released curves, (picture, class), as `inference.calibration`; None where one lacks."""
    curves = [point for point in points if isinstance(point, ByThreshold)]
    if len(curves) != (1 if classes == 2 else classes):
        return None
    slopes, intercepts = (np.array(each) for each in zip(*((c.slope, c.intercept) for c in curves), strict=True))
    logs = -np.logaddexp(0.0, -(slopes * scores + intercepts))
    if classes == 2:
        second = np.exp(logs[:, 0])
        return np.stack([1 - second, second], axis=1)
    shares: Scores = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
