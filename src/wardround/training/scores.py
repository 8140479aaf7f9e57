"""Moments of class scores: one row a patient, whose noised sum gives thresholds and a calibration.

A score is the logit of a class less the largest logit of the others. Of two classes one score says all (that of the
second class); of K > 2 classes there is one score for each. A picture of class y gives, for each score s,
e_[y is the class] (x) (1, sin(s / 7), cos(s / 7)): six numbers, of squared norm 2 for any score. Scores are cut,
to -10.5 and 32.5 for pictures of the class, to -21 and 10.5 for others. A patient gives the mean over their pictures.

The sums are a count and, at one frequency, the characteristic function of the scores, E exp(i s / 7): of normal scores
with mean m and deviation d it is exp(i m / 7 - d^2 / 98). Powers of the score would have to be cut at
a largest score, and be released with the noise that this needs.

Released: the sum over patients, with noise (`wardround.federation.strategies.scored`). Sensitivity: with S scores the
mean's norm is at most sqrt(2 S); rows are divided by that and multiplied by the clipping norm C, so that one patient,
added or removed with all pictures, moves the sum by at most C. For K > 2 classes this is the release of K scores at
sensitivity sqrt(K), whose noise is sqrt(K) times that of one score.

Source: Mardia and Jupp 1999, Directional Statistics (trigonometric moments, the wrapped normal distribution).
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from wardround.errors import ModelError
from wardround.models.linear import scoring_layer
from wardround.models.networks.ordinal import ContinuationRatios
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.training.centring import cut_rows
from wardround.training.centring import unit_of as row_unit
from wardround.training.patients import Sample
from wardround.training.workbench import Workbench
from wardround.types import Vector

Rows64 = npt.NDArray[np.float64]

SCALE = 7.0
"""The score, in nats, that makes an angle of 1: a larger one tells larger scores apart, and has more noise."""

_OWN, _OTHERS = (-10.5, 32.5), (-21.0, 10.5)
"""Least and largest score of pictures of a class, and of those of others. An angle tells no score of a class from one
that is 14 pi away, and those outside would be taken for such; they are cut, at every learning rate. Other
classes may be of two kinds, near and far: a mean angle lies between theirs only within half a turn, 7 pi."""

MOMENTS = 3
"""1, sine and cosine."""

_SQUARED_NORM = 2
"""1 + sin^2 + cos^2, of each score of a picture."""

_AT_ONCE = 256


def mean_rows(workbench: Workbench, parameters: int, sample: Sample, clipping_norm: float) -> Rows64:
    """Returns each patient's mean row (`wardround.training.centring`), (patient, parameter), zeros behind it.

    Its L2 norm is at most `clipping_norm`, and no bit of it depends on another patient.
    """
    drawn, counts = sample.patients.pictures_of(sample.chosen), sample.patients.counts[sample.chosen]
    found = np.zeros((len(sample.chosen), parameters))
    for start in range(0, len(drawn.rows), _AT_ONCE):
        own = slice(start, start + _AT_ONCE)
        cut = cut_rows(workbench.inputs_of(drawn.rows[own]))
        np.add.at(found[:, : cut.shape[1]], drawn.patient.numpy()[own], cut)
    found *= (row_unit(clipping_norm) / np.maximum(1, counts))[:, None]
    return found


def scores_of(logits: Rows64) -> Rows64:
    """Returns each class's logit less the largest of the others, (picture, score): of two classes the second's."""
    if logits.shape[1] == 2:
        return logits[:, 1:] - logits[:, :1]
    classes = np.arange(logits.shape[1])
    others = np.stack([np.delete(logits, own, axis=1).max(axis=1) for own in classes], axis=1)
    return np.asarray(logits - others)


def score_count(classes: int) -> int:
    """Returns the number of scores of a picture."""
    return 1 if classes == 2 else classes


def unit_of(classes: int, clipping_norm: float) -> float:
    """Returns the entry of a patient's row that stands for one whole patient."""
    return clipping_norm * DOUBLE_PRECISION / math.sqrt(_SQUARED_NORM * score_count(classes))


def moment_rows(workbench: Workbench, weights: Vector, sample: Sample, clipping_norm: float) -> Rows64:
    """Returns each patient's moments, (patient, parameter), zeros behind them; L2 norm at most `clipping_norm`.

    No bit of a row depends on another patient: logits are summed up picture by picture, in double precision.

    Raises:
        ModelError: the network is no linear head on kept inputs, or has too few parameters to hold the moments.
    """
    layer, is_ordinal = scoring_layer(workbench.network)
    drawn = sample.patients.pictures_of(sample.chosen)
    counts = sample.patients.counts[sample.chosen]
    if layer is None:
        raise ModelError("Score moments are of a linear head; train one, or set score_rounds = 0.")
    classes, features = layer.weight.shape
    table = weights[: classes * features].astype(np.float64).reshape(classes, features)
    bias = weights[classes * features :].astype(np.float64) if layer.bias is not None else np.zeros(classes)
    found = np.zeros((len(sample.chosen), weights.size))
    logits = _logits(workbench, drawn.rows, table) + bias
    if is_ordinal:
        logits = ContinuationRatios()(torch.from_numpy(logits)).numpy()
    moments = moments_of(logits, drawn.labels)
    if moments.shape[1] > weights.size:
        raise ModelError(
            f"A head must have at least {moments.shape[1]} parameters to release the moments of its scores, got "
            f"{weights.size}; set score_rounds = 0."
        )
    # In the order of a patient's own pictures.
    np.add.at(found[:, : moments.shape[1]], drawn.patient.numpy(), moments)
    return np.asarray(found * (unit_of(logits.shape[1], clipping_norm) / np.maximum(1, counts))[:, None])


def moments_of(logits: Rows64, labels: npt.NDArray[np.int64]) -> Rows64:
    """Returns e_[label is the class] (x) (1, sine, cosine) for each score, (picture, score * 2 * MOMENTS).

    A score that is not a number counts as 0. Sine and cosine are taken of one number at a time: vectors of numbers may
    be rounded in another way than single ones.
    """
    own = np.array([[1]]) if logits.shape[1] == 2 else np.arange(logits.shape[1])[None]
    is_own = labels[:, None] == own
    scores = np.nan_to_num(scores_of(logits))
    cut = np.where(is_own, np.clip(scores, *_OWN), np.clip(scores, *_OTHERS))
    waves = [np.vectorize(wave, otypes=[np.float64])(cut / SCALE) for wave in (math.sin, math.cos)]
    trio = np.stack([np.ones_like(cut), *waves], axis=2)
    both = np.concatenate([trio * ~is_own[:, :, None], trio * is_own[:, :, None]], axis=2)
    return both.reshape(len(labels), both.shape[1] * both.shape[2])  # of no picture as well


def _logits(workbench: Workbench, rows: npt.NDArray[np.int64], table: Rows64) -> Rows64:
    found = np.zeros((len(rows), len(table)))
    for start in range(0, len(rows), _AT_ONCE):
        own = workbench.inputs_of(rows[start : start + _AT_ONCE]).flatten(1).numpy().astype(np.float64)
        for place, weight in enumerate(table):
            found[start : start + _AT_ONCE, place] = (own * weight).sum(axis=1)
    return found
