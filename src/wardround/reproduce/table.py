"""The results of a reproduction: rows that cannot be read without what they guarantee."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from wardround.accounting.statement import Statement, format_epsilon

JsonDict = dict[str, object]

PHANTOMS = "phantoms"
"""Stands in what a table says of its pictures exactly when they were generated."""


class Origin(StrEnum):
    """The origin of a row's number."""

    PUBLISHED = "published"
    AS_PUBLISHED = "ours, as published"
    REPAIRED = "ours, repaired"
    OPEN = "ours, without privacy"


@dataclass(frozen=True)
class Score:
    """A mean over repeats, with their standard deviation; that is None for one number alone."""

    mean: float
    deviation: float | None = None
    repeats: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> "Score":
        """Summarises the numbers of all repeats.

        >>> Score.of([0.5, 0.7]).text
        '0.600 ± 0.141'
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    @property
    def text(self) -> str:
        """Three decimals."""
        return f"{self.mean:.3f}" + ("" if self.deviation is None else f" ± {self.deviation:.3f}")


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        setting: which column of a published figure or group it belongs to, such as "5 x 1000".
        scores: by the table's keys; a key may be missing.
        statement: what it guarantees, or that it guarantees nothing and why.
        claimed: what its source promised, in words; empty where it promised nothing.
        runs: folders of the runs behind it.
    """

    setting: str
    name: str
    origin: Origin
    scores: Mapping[str, Score]
    statement: Statement
    claimed: str = ""
    runs: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True where it promises anything."""
        return self.statement.epsilon < math.inf

    @property
    def unit(self) -> str:
        """The unit that is protected; a dash where none is."""
        return str(self.statement.unit) if self.holds else "–"

    @property
    def epsilon(self) -> str:
        """Rounded up, so that it promises no more than was computed."""
        return format_epsilon(self.statement.epsilon) if self.holds else "infinity"

    @property
    def delta(self) -> str:
        """A dash where no delta would help."""
        return f"{self.statement.delta:g}" if self.holds else "–"

    @property
    def guarantee(self) -> str:
        """In one line: the promise, or that there is none and what was claimed."""
        if self.holds:
            return self.statement.short()
        claimed = f" (claimed: {self.claimed})" if self.claimed else ""
        return f"no guarantee{claimed}: {self.statement.reason.rstrip('.')}"

    def to_json(self) -> JsonDict:
        """Plain JSON, with the whole statement."""
        return {
            "setting": self.setting,
            "name": self.name,
            "origin": self.origin.value,
            "scores": {key: asdict(score) for key, score in self.scores.items()},
            "unit": self.unit,
            "epsilon": self.statement.to_json()["epsilon"],
            "delta": self.statement.delta if self.holds else None,
            "guarantee": self.guarantee,
            "claimed": self.claimed,
            "statement": self.statement.to_json(),
            "sentence": self.statement.sentence(),
            "runs": list(self.runs),
        }


def beside(
    setting: str, name: str, published: Mapping[str, Score], ours: Mapping[str, Score], statement: Statement,
    claimed: str = "",
) -> list[Row]:  # fmt: skip
    """Returns a published row, and ours of the same loop as published."""
    return [
        Row(setting, name, origin, scores, statement, claimed)
        for origin, scores in ((Origin.PUBLISHED, published), (Origin.AS_PUBLISHED, ours))
    ]


@dataclass(frozen=True)
class Shrunk:
    """A published setting and what was used instead."""

    name: str
    published: str
    used: str


@dataclass(frozen=True)
class Series:
    """One line of a figure."""

    label: str
    origin: Origin
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """A figure to be drawn: lines over numbers, or over settings when `ticks` names them."""

    x_title: str
    y_title: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A reproduction, ready to be shown.

    The first metric is that of the figure, which by default is drawn over the settings; phantoms are said to be
    phantoms in `data`; `baselines` are numbers to read the rest against.
    """

    name: str
    title: str
    source: str
    data: str
    metrics: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    shrunk: tuple[Shrunk, ...] = ()
    notes: tuple[str, ...] = ()
    figure: Figure | None = None
    baselines: Mapping[str, Score] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why rows promise nothing: each reason once, as a sentence, in the order in which they come."""
        found = dict.fromkeys(row.statement.reason.rstrip(".") for row in self.rows if not row.holds)
        return tuple(f"{reason[:1].upper()}{reason[1:]}." for reason in found)

    def said(self, row: Row) -> str:
        """A row's guarantee in a few words; of a row that promises nothing, which of `reasons` is why."""
        if row.holds:
            return row.guarantee
        claimed = f", claimed: {row.claimed}" if row.claimed else ""
        reason = row.statement.reason.rstrip(".")
        return f"none{claimed} [{self.reasons.index(f'{reason[:1].upper()}{reason[1:]}.') + 1}]"

    @property
    def sentences(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each statement of ours in full, once, and the rows that it is of."""
        rows: dict[str, list[str]] = {}
        for row in self.rows:
            if row.origin is not Origin.PUBLISHED:
                rows.setdefault(row.statement.sentence(), []).append(f"{row.setting}: {row.name}")
        return tuple((sentence, tuple(dict.fromkeys(names))) for sentence, names in rows.items())

    @property
    def drawn(self) -> Figure:
        """The figure, or the first metric over the settings."""
        return self.figure or by_setting(self.rows, *self.metrics[0])

    def to_json(self) -> JsonDict:
        """Plain JSON: all that the terminal and the page show."""
        drawn = asdict(self.drawn)
        return {
            **{key: getattr(self, key) for key in ("name", "title", "source", "data", "notes")},
            "shrunk": [asdict(entry) for entry in self.shrunk],
            "baselines": {name: asdict(score) for name, score in self.baselines.items()},
            "metrics": [{"key": key, "title": title} for key, title in self.metrics],
            "rows": [row.to_json() for row in self.rows],
            "figure": {"x": drawn.pop("x_title"), "y": drawn.pop("y_title"), **drawn},
        }


def by_setting(rows: Iterable[Row], key: str, title: str) -> Figure:
    """One line a method and origin over the settings, in the order in which they come."""
    known = [row for row in rows if key in row.scores]
    ticks = tuple(dict.fromkeys(row.setting for row in known))
    lines: dict[tuple[str, Origin], list[tuple[float, float]]] = {}
    for row in known:
        point = (float(ticks.index(row.setting)), row.scores[key].mean)
        lines.setdefault((row.name, row.origin), []).append(point)
    series = tuple(
        Series(f"{name} ({origin})", origin, *map(tuple, zip(*points, strict=True)))
        for (name, origin), points in lines.items()
    )
    return Figure("", title, series, ticks)
