"""Predicted masks against true ones, region by region, with intervals over patients.

Pictures are added one at a time, so that they need not be in memory together. A patient's pictures or volumes are
averaged first, then patients: a patient who was scanned twice counts once. Pass whole volumes, not their slices: the
Dice of a slice is another number, and one without anything in it has none.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.entries import Region
from wardround.training.metrics.bootstrap import (
    Floats,
    Indices,
    Interval,
    interval,
    number,
    patient_weights,
    ratio,
)
from wardround.training.metrics.groups import MIN_PATIENTS, Groups, each_group
from wardround.training.metrics.surfaces import Overlap, overlap

Mask = npt.NDArray[np.uint8]
"""Class of each pixel or voxel, (*space)."""

TOLERANCE = 1.0
"""Tolerance of the surface Dice, in mm, or in pixels where pictures have no size in mm."""

_MEASURES = ("dice", "hd95", "surface_dice")


@dataclass(frozen=True)
class RegionMetrics:
    """One region. Means are over patients, of whom each is the mean of their pictures.

    A number is None when no picture can give it. `X_interval` is the 95 % interval of `X` over patients; None with
    fewer than two patients, where the number is None, and where fewer than half of the resamples can give it.

    Attributes:
        n_patients: patients with a Dice: the others neither have the region nor were given it.
        n_both_empty: pictures without the region, in truth and prediction; in no mean.
        n_missed: pictures with the region, in which none was predicted: Dice 0, no HD95.
        n_imagined: pictures without the region, in which one was predicted: Dice 0, no HD95.
        hd95: mean of the 95th percentile of surface distances, in `unit`.
        surface_dice: mean share of the surfaces within the tolerance.
        true_size: mean size of the true region, in `size_unit`.
        predicted_size: mean size of the predicted one.
    """

    name: str
    n_patients: int
    n_both_empty: int
    n_missed: int
    n_imagined: int
    dice: float | None
    dice_interval: Interval | None
    hd95: float | None
    hd95_interval: Interval | None
    surface_dice: float | None
    surface_dice_interval: Interval | None
    true_size: float
    predicted_size: float


@dataclass(frozen=True)
class SegmentationMetrics:
    """Quality of masks on one test set; Dice, HD95 and surface Dice are means over the regions that have one.

    Attributes:
        unit: of distances: "mm", or "pixels" where pictures have no size in mm.
        size_unit: of sizes: "mm3", "mm2" or "pixels".
        tolerance: of the surface Dice, in `unit`.
    """

    n_pictures: int
    n_patients: int
    unit: str
    size_unit: str
    tolerance: float
    dice: float | None
    dice_interval: Interval | None
    hd95: float | None
    hd95_interval: Interval | None
    surface_dice: float | None
    surface_dice_interval: Interval | None
    regions: tuple[RegionMetrics, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the fields as values that `json.dumps` takes; an interval is {"low": ..., "high": ...}."""
        return asdict(self)


class MaskScores:
    """A few numbers of predicted and true masks, which are added one by one.

    At least one region is scored. `spacing` is the size of a pixel along each axis, in mm; None for pictures without
    one, whose distances are in pixels.
    """

    def __init__(self, regions: Sequence[Region], spacing: Sequence[float] | None) -> None:
        if not regions or len({region.name for region in regions}) < len(regions):
            raise DataError(
                "masks must be scored by at least one region, each of another name, "
                f"got {[region.name for region in regions]}. Name the regions."
            )
        if spacing is not None and not all(0 < length < np.inf for length in spacing):
            raise DataError(f"spacing must be > 0 mm along each axis, got {tuple(spacing)}. Check the headers.")
        self._regions, self._spacing = tuple(regions), spacing
        self._patients: dict[Hashable, int] = {}
        self._patient: list[int] = []
        self._overlaps: list[list[Overlap]] = []
        self._axes: int | None = None if spacing is None else len(spacing)

    def __len__(self) -> int:
        """Pictures or volumes so far."""
        return len(self._overlaps)

    def add(self, predicted: Mask, true: Mask, patient: Hashable) -> None:
        """Scores one picture or volume of a patient: the class of each pixel, (*space), predicted and true.

        Raises:
            DataError: masks of different shapes, or of other axes than the spacing has.
        """
        if predicted.shape != true.shape or true.ndim != (self._axes or true.ndim) or true.ndim not in (2, 3):
            raise DataError(
                f"two masks must have the same 2 or 3 axes, got {predicted.shape} and {true.shape}"
                f"{'' if self._spacing is None else f' with a spacing of {len(self._spacing)} axes'}. "
                "Predict on the grid of the truth."
            )
        self._axes = true.ndim
        spacing = self._spacing or (1.0,) * true.ndim
        pairs = [(_part(predicted, region), _part(true, region)) for region in self._regions]
        self._overlaps.append([overlap(*pair, spacing, TOLERANCE) for pair in pairs])
        self._patient.append(self._patients.setdefault(patient, len(self._patients)))

    def result(self, *, generator: np.random.Generator, num_resamples: int = 1000) -> SegmentationMetrics:
        """Returns metrics of all pictures added so far.

        Raises:
            DataError: none was added.
        """
        return self._of(np.arange(len(self)), generator, num_resamples)

    def by_group(
        self,
        groups: Mapping[str, Sequence[str]],
        *,
        generator: np.random.Generator,
        num_resamples: int = 1000,
        min_patients: int = MIN_PATIENTS,
    ) -> dict[str, Groups[SegmentationMetrics]]:
        """Returns metrics of each value of each column, as `each_group`; pictures in the order of their addition."""
        patients = np.array(self._patient, dtype=np.int64)
        return each_group(
            patients, groups, lambda rows: self._of(rows, generator, num_resamples), min_patients=min_patients
        )

    def _of(self, rows: Indices, generator: np.random.Generator, num_resamples: int) -> SegmentationMetrics:
        if len(rows) == 0:
            raise DataError("a test set must have at least one mask, got none. Set test patients aside first.")
        chosen = [self._overlaps[row] for row in rows]
        _, patient = np.unique(np.array(self._patient)[rows], return_inverse=True)
        each = _of_patients(
            np.array([[[getattr(o, m) for m in _MEASURES] for o in line] for line in chosen]), patient
        )
        weights = patient_weights(len(each), generator, num_resamples)
        point, draws = _weighted_means(each, np.ones((1, len(each))))[0], _weighted_means(each, weights)
        return SegmentationMetrics(
            n_pictures=len(rows),
            n_patients=len(each),
            unit="pixels" if self._spacing is None else "mm",
            size_unit="pixels" if self._spacing is None else f"mm{self._axes}",
            tolerance=TOLERANCE,
            regions=tuple(
                self._region(
                    i, [line[i] for line in chosen], patient, _estimates(point[i], draws[:, i], len(each))
                )
                for i in range(len(self._regions))
            ),
            **_estimates(_known_mean(point), _known_mean(draws), len(each)),
        )

    def _region(
        self, which: int, overlaps: Sequence[Overlap], patient: Indices, estimates: dict[str, Any]
    ) -> RegionMetrics:
        pixel = 1.0 if self._spacing is None else float(np.prod(self._spacing))
        sizes = np.array([[o.true, o.predicted] for o in overlaps], dtype=np.float64)
        true_size, predicted_size = pixel * _of_patients(sizes, patient).mean(axis=0)
        has, given = (sizes > 0).T
        return RegionMetrics(
            name=self._regions[which].name,
            n_patients=len(np.unique(patient[has | given])),
            n_both_empty=int((~has & ~given).sum()),
            n_missed=int((has & ~given).sum()),
            n_imagined=int((~has & given).sum()),
            true_size=float(true_size),
            predicted_size=float(predicted_size),
            **estimates,
        )


def _estimates(point: Floats, draws: Floats, num_patients: int) -> dict[str, Any]:
    """Returns measures, (measure,), and their intervals, from (resample, measure), by field of the metrics."""
    found: dict[str, Any] = {}
    for name, value, drawn in zip(_MEASURES, point, draws.T, strict=True):
        found[name] = number(value)
        found[f"{name}_interval"] = None if num_patients < 2 or found[name] is None else interval(drawn)
    return found


def _part(mask: Mask, region: Region) -> npt.NDArray[np.bool_]:
    part: npt.NDArray[np.bool_] = np.logical_or.reduce([mask == k for k in region.classes])
    return part


def _of_patients(values: Floats, patient: Indices) -> Floats:
    """Returns the mean over each patient's pictures of what is known, (patient, ...), from (picture, ...)."""
    known = ~np.isnan(values)
    shape = (int(patient.max()) + 1, *values.shape[1:])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, patient, np.where(known, values, 0.0))
    np.add.at(count, patient, known)
    return ratio(total, count)


def _weighted_means(values: Floats, weights: Floats) -> Floats:
    """Returns means over the first axis of what is known, (weight, ...); NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.tensordot(weights, np.where(known, values, 0.0), axes=1)
    return ratio(total, np.tensordot(weights, known.astype(np.float64), axes=1))


def _known_mean(values: Floats) -> Floats:
    """Returns the mean over the regions that have a number, (..., measure), from (..., region, measure)."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-2), known.sum(axis=-2).astype(np.float64))
