"""Histograms of test patients' scores by class: what an evaluation across hospitals sums up.

Released, once after the last round: the sum over all hospitals of one row a test patient, with noise
(`wardround.privacy.plans.kinds.NoisedHistograms`), to the coordinator and from it to every party.

Row: for each curve (class 1 against class 0 of two classes, else each class against the rest) 16 bins of the score of
pictures of the class, and 16 of the others. A patient is one unit in each curve: of n pictures each adds 1/n to the bin
of its own score, so that a patient with pictures of several classes needs no rule.

Row of a segmentation: for each curve 16 bins of Dice of patients who have the class in some true mask, and 16 of the
others; a patient is one count in each curve. Dice is that of all of the patient's pictures together, at the network's
size; where the patient has none of the class it is 1 if nothing was predicted, else 0.

Neighbouring data sets: one test patient, added or removed with all pictures. A patient's row is computed from the
released model and the patient's own pictures alone, each patient in a batch of their own, so that no other row changes.
Sensitivity: the entries of one curve are >= 0 and add up to 1, so their L2 norm is at most their L1 norm, 1. K curves
are K such blocks, end to end: the L2 norm of a row is at most sqrt(K), and 1 for two classes. Both are reached by a
patient whose pictures are in one bin. It holds for every model, trained or not, and for every label.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from wardround.types import Labels, Masks, Scores
from wardround.work import BINS, histogram_coordinates, histogram_curves


def histogram_row(scores: Scores, labels: Labels) -> npt.NDArray[np.float64]:
    """Returns what one test patient adds to the histograms, (curve * 2 * bin,): others' counts come first.

    Args:
        scores: of the patient's pictures, (picture, class); class probabilities.
        labels: true class of each picture, (picture,).

    Guarantee:
        The L2 norm is at most sqrt(curves), up to the rounding of one division. Scores that are not finite, as of a
        model that diverged, add nothing.
    """
    pictures, classes = scores.shape
    row = np.zeros(histogram_coordinates(classes))
    if not np.isfinite(scores).all():
        return row
    bins = np.clip(np.floor(scores * BINS), 0, BINS - 1).astype(np.int64)
    blocks = row.reshape(histogram_curves(classes), 2, BINS)
    for curve, of in enumerate([1] if classes == 2 else range(classes)):
        np.add.at(blocks[curve], ((labels == of).astype(np.int64), bins[:, of]), 1.0)
    return np.divide(row, pictures)


def dice_of(
    pictures: Iterable[tuple[Masks, Masks]], classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Returns one test patient's Dice of each class, and whether the patient has it, (class,) each. Private.

    Args:
        pictures: predicted and true class of each pixel or voxel of some of the patient's pictures, (picture, *space)
            each, part by part.
        classes: of the masks, the background included.
    """
    both, predicted, true = np.zeros((3, classes))
    for guessed, known in pictures:
        both += np.bincount(guessed[guessed == known].ravel(), minlength=classes)[:classes]
        predicted += np.bincount(guessed.ravel(), minlength=classes)[:classes]
        true += np.bincount(known.ravel(), minlength=classes)[:classes]
    return np.where(true > 0, 2 * both / np.maximum(predicted + true, 1), predicted == 0), true > 0


def dice_row(pictures: Iterable[tuple[Masks, Masks]], classes: int) -> npt.NDArray[np.float64]:
    """Returns what one test patient of a segmentation adds to the histograms, (curve * 2 * bin,); see `dice_of`.

    Guarantee:
        The L2 norm is sqrt(curves): one count in each.
    """
    dice, has = dice_of(pictures, classes)
    row = np.zeros(histogram_coordinates(classes))
    blocks = row.reshape(histogram_curves(classes), 2, BINS)
    for curve, of in enumerate([1] if classes == 2 else range(classes)):
        blocks[curve, int(has[of]), min(int(dice[of] * BINS), BINS - 1)] = 1.0
    return row
