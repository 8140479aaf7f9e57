"""Several runs side by side: every number of the comparison, as frozen dataclasses."""

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from wardround.records.folder import JsonDict
from wardround.report.contents import Measure
from wardround.report.guarantee import Guarantee
from wardround.report.together import Together

NOT_CHARGED = (
    "Choosing the best by its test figure is neither charged nor unbiased: the test patients' figures are released "
    "without protection, and the largest of several is too good."
)
DEALT_ANEW = (
    "Some runs deal patients anew: a patient who is tested on in one run is trained on in another, so unprotected test "
    "figures of some runs are about training patients of others. The composed epsilon covers the models, and not "
    "those figures."
)
ADD_UP = (
    "Each line is about other patients, as far as these are known, or protects another unit; for a patient in several "
    "of them, they add up as well."
)


@dataclass(frozen=True)
class Spread:
    """One figure over the repeats of a configuration; `interval` is the 95 % one of a single run with one model."""

    values: tuple[float, ...]
    interval: tuple[float, float] | None = None

    @property
    def mean(self) -> float:
        """Mean over the repeats."""
        return statistics.fmean(self.values)

    @property
    def low(self) -> float:
        """Least of the repeats."""
        return min(self.values)

    @property
    def high(self) -> float:
        """Most of the repeats."""
        return max(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over the repeats; None of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_json(self) -> JsonDict:
        """Returns the spread as a JSON object."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "mean": self.mean, "low": self.low, "high": self.high, "sd": self.sd, "values": list(self.values),
            "interval": interval,
        }  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """A figure that is reached without learning from the pictures: its name, its measure, and all different values."""

    name: str
    key: str
    measure: str
    spread: Spread


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        source: the study file or finished run it comes from; empty where there is one only.
        folders: of the runs, as seen from the page.
        guarantee: the loosest of the repeats.
        stopped: number of repeats that a spent budget ended early.
        rounds: the most that one of the repeats took.
        scores: by key of the measure, on test patients.
        curve: the headline during training, as pairs of a round and its spread.
        measured_on: patients of the curve, "test" or "validation".
        majority: accuracy of always answering the commonest class.
        shortcut: AUROC of six brightness and border numbers alone.
        shortcut_kappa: their quadratic kappa, of grades.
        location: Dice of where the regions usually lie, without any picture.
    """

    name: str
    source: str
    values: Mapping[str, object]
    runs: tuple[str, ...]
    folders: tuple[str, ...]
    guarantee: Guarantee
    promise: str
    seeded: bool
    stopped: int
    rounds: int
    hospitals: int
    scores: Mapping[str, Spread]
    validation: Spread | None
    curve: tuple[tuple[int, Spread], ...]
    measured_on: str
    majority: Spread | None
    shortcut: Spread | None
    shortcut_kappa: Spread | None
    location: Spread | None

    @property
    def label(self) -> str:
        """Name for a reader."""
        return self.label_without(()) or self.name

    def label_without(self, keys: Collection[str]) -> str:
        """Returns the source and every varied value but those of `keys`; empty if nothing is left."""
        values = ", ".join(f"{key} = {value}" for key, value in self.values.items() if key not in keys)
        return ": ".join(part for part in (self.source, values) if part)

    def to_json(self) -> JsonDict:
        """Returns the row as a JSON object."""
        return {
            "name": self.name,
            "values": dict(self.values),
            "runs": list(self.runs),
            **self.guarantee.to_json(),
            "promise": self.promise,
            "seeded": self.seeded,
            "stopped": self.stopped,
            "rounds": self.rounds,
            "hospitals": self.hospitals,
            "test": {key: spread.to_json() for key, spread in self.scores.items()},
            "validation": _json(self.validation),
            "curve": [{"round": round, **score.to_json()} for round, score in self.curve],
            "curve_measured_on": self.measured_on,
            "majority_accuracy": _json(self.majority),
            "shortcut_auroc": _json(self.shortcut),
            "shortcut_kappa": _json(self.shortcut_kappa),
            "location_dice": _json(self.location),
        }


@dataclass(frozen=True)
class Charge:
    """A ledger that runs of the comparison shared, as far as it was spent."""

    limit: float
    spent: Guarantee

    def sentence(self) -> str:
        """Returns the limit, and the part of it that was spent."""
        return (
            f"Runs were charged to one ledger. At delta = {self.spent.delta:g} for one {self.spent.whom} it allows "
            f"{self.limit:g}, and the patient who spent most of it has spent {self.spent.value}."
        )


@dataclass(frozen=True)
class Overview:
    """Everything the comparison shows.

    Attributes:
        columns: every measure, the headline first.
        settings: by dotted key of a study file, the value in each row, where these differ and the labels do not say so.
        not_comparable: sentence on rows with different test patients; empty where all have the same.
        charge: the shared ledger; None where there is none.
        best: name of the best configuration by its validation figure; None where that cannot be said.
    """

    title: str
    columns: tuple[Measure, ...]
    rows: tuple[Row, ...]
    settings: Mapping[str, tuple[str, ...]]
    not_comparable: str
    together: tuple[Together, ...]
    dealt_anew: bool
    charge: Charge | None
    best: str | None
    choice: str
    missing: Mapping[str, str]

    @property
    def headline(self) -> Measure:
        """Measure to name where there is room for one."""
        return self.columns[0]

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """Baselines that some run knows, over all runs of all configurations."""
        numbers = "brightness and border numbers alone"
        named = (
            ("where the regions usually lie", "dice", "Dice", [row.location for row in self.rows]),
            (numbers, "auroc", "AUROC", [row.shortcut for row in self.rows]),
            (numbers, "quadratic_kappa", "kappa", [row.shortcut_kappa for row in self.rows]),
            ("always the commonest class", "accuracy", "accuracy", [row.majority for row in self.rows]),
        )
        return tuple(
            Baseline(name, key, measure, Spread(tuple(values)))
            for name, key, measure, spreads in named
            if (
                values := dict.fromkeys(
                    value for spread in spreads if spread is not None for value in spread.values
                )
            )
        )

    def to_json(self) -> JsonDict:
        """Returns the comparison as a JSON object; an infinite epsilon is the string 'infinity'."""
        return {
            "title": self.title,
            "headline": self.headline.key,
            "configurations": [row.to_json() for row in self.rows],
            "settings": {key: list(values) for key, values in self.settings.items()},
            "not_comparable": self.not_comparable or None,
            "together": [one.to_json() for one in self.together],
            "caveats": [NOT_CHARGED] + [ADD_UP] * (len(self.together) > 1) + [DEALT_ANEW] * self.dealt_anew,
            "charge": None if self.charge is None else self.charge.sentence(),
            "best_by_validation": self.best,
            "choice": self.choice,
            "missing": dict(self.missing),
        }


def _json(spread: Spread | None) -> JsonDict | None:
    return None if spread is None else spread.to_json()


def lines_of(overview: Overview) -> list[str]:
    """Returns a table, and under it the settings that differ and the caveats that belong to it."""
    title = overview.headline.title
    validated = any(row.validation is not None for row in overview.rows)
    header = [
        "configuration",
        "runs",
        "promise",
        "rounds",
        *[f"{title}, validation"] * validated,
        f"{title}, test",
    ]
    table = [header, *(_cells(overview, row, validated=validated) for row in overview.rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    lines += ["", *[overview.not_comparable] * bool(overview.not_comparable)]
    labels = [row.label for row in overview.rows]
    for key, values in overview.settings.items():
        lines.append(
            f"{key}: {', '.join(f'{value} ({label})' for value, label in zip(values, labels, strict=True))}"
        )
    lines += [*(f"{one.measure} of {one.name}: {_spread(one.spread)}" for one in overview.baselines)]
    lines += [overview.choice, NOT_CHARGED]
    lines += [one.sentence() for one in overview.together]
    lines += [ADD_UP] * (len(overview.together) > 1) + [DEALT_ANEW] * overview.dealt_anew
    lines += [] if overview.charge is None else [overview.charge.sentence()]
    return lines + [f"{name} is not here: {why}" for name, why in overview.missing.items()]


def _cells(overview: Overview, row: Row, *, validated: bool) -> list[str]:
    guarantee = row.guarantee
    seeded = " [seeded]" if row.seeded else ""
    promise = (
        f"epsilon = {guarantee.value} at delta = {guarantee.delta:g} for one {guarantee.whom}{seeded}"
        if guarantee.holds
        else f"none: epsilon = infinity for one {guarantee.unit}{seeded}"
    )
    scores = [_spread(row.validation)] if validated else []
    return [
        row.label,
        str(len(row.runs)),
        promise,
        str(row.rounds),
        *scores,
        _spread(row.scores.get(overview.headline.key)),
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    low, high = spread.interval or (spread.low, spread.high)
    return f"{spread.mean:.3f}" + (f" [{low:.3f} .. {high:.3f}]" if high > low else "")
