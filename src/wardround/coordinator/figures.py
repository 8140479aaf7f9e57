"""Figures of a model from the histograms of test patients' scores over all hospitals, with their errors.

Everything here is computed from what was released: the histograms with their noise, which are never clamped at zero (it
would pull the AUROC of 400 patients down by 0.06 at epsilon 1). So a figure may lie outside [0, 1] by its error.

Each patient counts once, however many pictures they have. A score is known to 1/16: ties within a bin count half in the
AUROC, and calibration takes the middle of a bin for its scores. The calibration error is a sum of sizes, so noise makes
it larger; the others are nearly unbiased. Of a segmentation the bins are of each patient's Dice, known to 1/16 as well.

Errors are one standard deviation, by the delta method: with J the derivative of a figure by the bins h,
noise: sqrt(sum J² s²) for noise of std s in each bin; patients: sqrt(sum J² h), as of independent patients of one
picture each (more pictures a patient leave less).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from wardround.work import BINS, histogram_curves

Floats = npt.NDArray[np.float64]

THRESHOLDS = (0.25, 0.5, 0.75)
"""Operating points, fixed beforehand: a score of the threshold or above is called positive."""

_MIDDLES = (np.arange(BINS) + 0.5) / BINS


@dataclass(frozen=True)
class Figure:
    """One figure. None: the noised number of patients that it is divided by is not above zero.

    Attributes:
        noise_error: standard deviation that the noise alone gives it.
        standard_error: the same with the chance of who the test patients are.
    """

    value: float | None
    noise_error: float | None = None
    standard_error: float | None = None


def figures_of(
    histograms: Floats, classes: Sequence[str], noise_std: float, *, masks: bool = False
) -> dict[str, object]:
    """Returns figures as a JSON object: of each curve, and the mean AUROC of the curves, or their mean Dice.

    Args:
        histograms: as released, (curve * 2 * bin,).
        classes: names of the classes, in order.
        noise_std: std of the noise in each bin.
        masks: they are of a segmentation; the background is then in no mean.
    """
    blocks = histograms.reshape(histogram_curves(len(classes)), 2, BINS)
    found = [_curve(block, noise_std, _mask_values if masks else _values) for block in blocks]
    named = classes[1:] if len(classes) == 2 else classes
    headline = "dice" if masks else "auroc"
    of = found[1:] if masks and len(found) > 1 else found
    return {
        "patients": asdict(_patients(blocks, noise_std)),
        headline: asdict(_mean([curve[headline] for curve in of])),
        "curves": [
            {"class": name} | {key: asdict(figure) for key, figure in curve.items()}
            for name, curve in zip(named, found, strict=True)
        ],
        "noise_std": noise_std,
        "histograms": blocks.tolist(),
    }


def _curve(block: Floats, noise_std: float, values: Callable[[Floats], dict[str, float]]) -> dict[str, Figure]:
    """Returns the figures of one curve, (2, bin): the others, and those of the class."""
    names = list(values(np.ones((2, BINS))))
    negatives, positives = block.sum(axis=1)
    least = min(negatives, positives) if values is _values else min(positives, positives + negatives)
    if least <= 0:
        return dict.fromkeys(names, Figure(None))
    slopes = _derivative(lambda bins: np.array(list(values(bins).values())), block)
    noise = noise_std**2 * (slopes**2).sum(axis=(1, 2))
    patients = np.maximum((slopes**2 * block).sum(axis=(1, 2)), 0.0)
    return {
        name: Figure(value, math.sqrt(noise[at]), math.sqrt(noise[at] + patients[at]))
        for at, (name, value) in enumerate(values(block).items())
    }


def _values(block: Floats) -> dict[str, float]:
    """Returns the figures of one curve by name; each is a ratio, the same for any multiple of the bins."""
    negatives, positives = block
    total = float(block.sum())
    below = np.cumsum(negatives) - 0.5 * negatives
    found = {
        "auroc": positives @ below / (positives.sum() * negatives.sum()),
        "share": positives.sum() / total,
        "calibration_error": np.abs(positives - _MIDDLES * (positives + negatives)).sum() / total,
        "brier": (positives @ (1 - _MIDDLES) ** 2 + negatives @ _MIDDLES**2) / total,
    }
    for threshold in THRESHOLDS:
        first = round(threshold * BINS)
        found |= {
            f"sensitivity_at_{threshold:g}": positives[first:].sum() / positives.sum(),
            f"specificity_at_{threshold:g}": negatives[:first].sum() / negatives.sum(),
            f"accuracy_at_{threshold:g}": (positives[first:].sum() + negatives[:first].sum()) / total,
        }
    return {name: float(value) for name, value in found.items()}


def _mask_values(block: Floats) -> dict[str, float]:
    """Returns the figures of one class of a segmentation by name: of the patients who have it."""
    _, having = block
    found = {"dice": having @ _MIDDLES / having.sum(), "share": having.sum() / block.sum()}
    for threshold in THRESHOLDS[1:]:
        found[f"dice_at_least_{threshold:g}"] = having[round(threshold * BINS) :].sum() / having.sum()
    return {name: float(value) for name, value in found.items()}


def _derivative(function: Callable[[Floats], Floats], at: Floats) -> Floats:
    """Returns the derivatives of several figures, (figure, 2, bin), by central differences."""
    step = 1e-5 * max(1.0, float(np.abs(at).sum()))
    columns = []
    for place in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        columns.append((function(up) - function(down)) / (2 * step))
    return np.stack(columns, axis=1).reshape(-1, *at.shape)


def _patients(blocks: Floats, noise_std: float) -> Figure:
    """Returns the number of test patients: every curve counts all of them."""
    error = noise_std * math.sqrt(blocks[0].size / len(blocks))
    return Figure(float(blocks.sum() / len(blocks)), error, error)


def _mean(figures: Sequence[Figure]) -> Figure:
    """Returns the mean over the curves; their noise is independent, their patients are the same."""
    rows = [(f.value, f.noise_error, f.standard_error) for f in figures]
    if any(value is None for row in rows for value in row):
        return Figure(None)
    values, noise, both = np.array(rows, dtype=np.float64).T
    patients = np.sqrt(np.maximum(both**2 - noise**2, 0)).mean()
    noise_error = math.sqrt((noise**2).sum()) / len(rows)
    return Figure(float(values.mean()), noise_error, math.hypot(noise_error, float(patients)))
