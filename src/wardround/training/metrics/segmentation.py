"""How good predicted masks are on test patients, region by region, with intervals over patients.

A patient's pictures or volumes are averaged first, then patients: who was scanned twice counts once. Pass whole
volumes, not their slices: the Dice of a slice is another number, and one without anything in it has none.
"""

from dataclasses import asdict, dataclass

from wardround.training.metrics.bootstrap import Headline, Interval


@dataclass(frozen=True)
class RegionMetrics:
    """One region. Means are over patients, of whom each is the mean of their pictures.

    A number is None when no picture can give it. Intervals are 95 %, over patients; None with fewer than two
    patients, where the number is None, and where fewer than half of the resamples can give it.

    Attributes:
        name: of the region.
        n_patients: patients with a Dice: the others neither have the region nor were given it.
        n_both_empty: pictures without the region, in truth and prediction; in no mean.
        n_missed: pictures with the region, in which none was predicted: Dice 0, no HD95.
        n_imagined: pictures without the region, in which one was predicted: Dice 0, no HD95.
        dice: mean Dice.
        dice_interval: its interval.
        hd95: mean of the 95th percentile of surface distances, in `unit`.
        hd95_interval: its interval.
        surface_dice: mean share of the surfaces within the tolerance.
        surface_dice_interval: its interval.
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
    """Quality of masks on one test set.

    Attributes:
        n_pictures: pictures or volumes.
        n_patients: patients they belong to.
        unit: of distances: "mm", or "pixels" where pictures have no size in mm.
        size_unit: of sizes: "mm3", "mm2" or "pixels".
        tolerance: of the surface Dice, in `unit`.
        dice: mean over the regions of their mean Dice; regions without one are left out.
        dice_interval: its interval.
        hd95: the same of HD95.
        hd95_interval: its interval.
        surface_dice: the same of the surface Dice.
        surface_dice_interval: its interval.
        regions: each by itself.
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

    @property
    def headline(self) -> Headline:
        """The number to name first."""
        return Headline("mean Dice", self.dice, self.dice_interval)

    def to_json(self) -> dict[str, object]:
        """The fields as values that `json.dumps` takes; an interval is {"low": ..., "high": ...}."""
        return asdict(self)
