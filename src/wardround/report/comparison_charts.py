"""The charts of a comparison: the headline against epsilon, hospitals and rounds, and its spread over repeats.

Each series has a colour, a marker and, from the seventh on, a dashed line; a dot is a run, a line joins the means.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullLocator

from wardround.report.canvas import WIDE, Chart, both, figure_of, new_axes, new_figure, rows_axes, write
from wardround.report.charts import CHANCE, Scale
from wardround.report.comparison import Overview, Row, Spread
from wardround.report.svg import INK, MUTED, OPEN, PAPER, PRIVATE, RULE, SERIES

_MARKERS = "os^DvP"
_PROMISES = ("privacy.epsilon", "privacy.noise_multiplier", "privacy.plan")
_LINE_HEIGHT = 20
_GUESSING = "chance"


@dataclass(frozen=True)
class _Series:
    label: str
    points: tuple[tuple[float, Spread], ...]


@dataclass(frozen=True)
class _Level:
    """A figure that depends on no position along the axis, such as a baseline."""

    label: str
    value: float
    colour: str


def epsilon_chart(overview: Overview) -> Chart | None:
    """Returns the headline against epsilon; None unless two promises differ."""
    rows = _scored(overview)
    private = [row for row in rows if row.guarantee.holds and row.guarantee.epsilon > 0]
    if len({row.guarantee.epsilon for row in private}) < 2:
        return None
    series = _series(overview, private, _PROMISES, lambda row: row.guarantee.epsilon)
    levels = [
        _Level(f"{row.label}: no privacy, ε = infinity", _score(overview, row).mean, OPEN)
        for row in rows
        if not row.guarantee.holds
    ]
    conditions = {row.guarantee.condition for row in private}
    condition = conditions.pop() if len(conditions) == 1 else "at the δ of its row"
    return _drawn(overview, series, [*levels, *_baselines(overview)], f"ε {condition}")


def hospitals_chart(overview: Overview) -> Chart | None:
    """Returns the headline against the number of hospitals; None unless two numbers differ."""
    rows = _scored(overview)
    if len({row.hospitals for row in rows}) < 2:
        return None
    series = _series(overview, rows, ("hospitals.count",), lambda row: row.hospitals)
    return _drawn(overview, series, _baselines(overview), "hospitals")


def curves_chart(overview: Overview) -> Chart | None:
    """Returns the headline during training, mean over repeats; None when no round was looked at."""
    series = [_Series(row.label, row.curve) for row in overview.rows if row.curve]
    if not series or max(len(one.points) for one in series) < 2:
        return None
    chance = [level for level in _baselines(overview) if level.label == _GUESSING]
    levels = _baselines(overview) if overview.rows[0].measured_on == "test" else chance
    return _drawn(overview, series, levels, "round")


def spread_chart(overview: Overview) -> Chart | None:
    """Returns every run's headline on test patients, a line for each configuration; None when no run has it.

    A line is the range of the runs, of a single run its 95 % interval.
    """
    rows = _scored(overview)
    if not rows:
        return None
    said = "; ".join(f"{row.label}: {_words(_score(overview, row))}" for row in rows)
    label = f"{overview.headline.title} on the test set, every run. {said}."
    return both(lambda width: _draw_spread(overview, rows, width), label)


def _scored(overview: Overview) -> list[Row]:
    return [row for row in overview.rows if overview.headline.key in row.scores]


def _score(overview: Overview, row: Row) -> Spread:
    return row.scores[overview.headline.key]


def _baselines(overview: Overview) -> list[_Level]:
    """Returns baselines that learn nothing from the pictures' contents, as far as they are on the same scale."""
    key = overview.headline.key
    found = [_Level(one.name, one.spread.mean, MUTED) for one in overview.baselines if one.key == key]
    return found + ([_Level(_GUESSING, CHANCE[key], MUTED)] if key in CHANCE else [])


def _series(
    overview: Overview, rows: Sequence[Row], along: Sequence[str], position: Callable[[Row], float]
) -> list[_Series]:
    """Returns rows that differ by what is `along` the axis alone, as one series."""
    groups: dict[str, list[tuple[float, Spread]]] = {}
    for row in rows:
        name = row.label_without(along) or "mean of the runs"
        groups.setdefault(name, []).append((position(row), _score(overview, row)))
    return [_Series(name, tuple(sorted(points, key=lambda p: p[0]))) for name, points in groups.items()]


def _words(spread: Spread) -> str:
    if len(spread.values) == 1:
        interval = spread.interval
        return f"{spread.mean:.3f}" + (
            f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        )
    return f"mean {spread.mean:.3f}, from {spread.low:.3f} to {spread.high:.3f} over {len(spread.values)} runs"


def _ends(spread: Spread) -> tuple[float, float]:
    """Returns the range of the runs, or the 95 % interval of a single one."""
    return spread.interval or (spread.low, spread.high)


def _drawn(overview: Overview, series: Sequence[_Series], levels: Sequence[_Level], along: str) -> Chart:
    on = overview.rows[0].measured_on if along == "round" else "test"
    title = f"{overview.headline.title} on the {on} set"
    said = "; ".join(
        f"{one.label}: " + ", ".join(f"{_words(score)} at {x:.3g}" for x, score in (one.points[0], one.points[-1]))
        for one in series
    )
    floors = "".join(f"; {level.label}: {level.value:.3f}" for level in levels)
    label = f"{title} against {along}. {said}{floors}."
    return both(lambda width: _draw(Scale.of(overview.headline), series, levels, title, along, width), label)


def _draw(
    scale: Scale, series: Sequence[_Series], levels: Sequence[_Level], title: str, along: str, width: int
) -> Figure:
    """Draws the series and levels: rounds on a linear axis without single runs, else on a logarithmic axis."""
    columns = 2 if width >= WIDE else 1
    entries = len(series) + len(levels)
    key_height = _LINE_HEIGHT * math.ceil(entries / columns) + 8
    figure = new_figure(width, 286 + key_height)
    axes = new_axes(figure, 38, 44 + key_height, 20, 34)
    scores = [score for one in series for _, score in one.points]
    lows = [*(score.low for score in scores), *(level.value for level in levels)]
    axes.set_ylim(scale.floor(lows), 1.0)
    axes.set_title(title, loc="left", fontsize=13, pad=12, color=INK, x=-38 / (width - 58))
    axes.grid(axis="y", color=RULE, linewidth=1)
    places = sorted({x for one in series for x, _ in one.points})
    if along == "round":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    else:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:.3g}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(places[0] / 1.15, places[-1] * 1.15)
    axes.set_xlabel(along)
    for number, one in enumerate(series):
        _draw_series(axes, one, number, dots=along != "round")
    for number, level in enumerate(levels):
        axes.axhline(level.value, color=level.colour, linewidth=1.4, dashes=(4 + 4 * number, 3), label=level.label)
    figure.legend(
        loc="lower left", bbox_to_anchor=(0, 0), ncol=columns, frameon=False, fontsize=11.5, labelcolor=INK,
        borderaxespad=0.2, handlelength=2.6, labelspacing=0.45,
    )  # fmt: skip
    return figure


def _draw_series(axes: Axes, one: _Series, number: int, *, dots: bool) -> None:
    colour, marker = SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]
    places = [x for x, _ in one.points]
    style = "-" if number < len(SERIES) else (0, (6, 2))
    axes.plot(
        places, [score.mean for _, score in one.points], color=colour, linewidth=2, linestyle=style,
        marker=marker, markersize=6.5, label=one.label,
    )  # fmt: skip
    for x, score in one.points if dots else ():
        if len(score.values) > 1:
            axes.plot([x, x], [score.low, score.high], color=colour, linewidth=1.5)
            every = [x] * len(score.values)
            axes.plot(every, score.values, color=colour, linestyle="none", marker=marker, markersize=3.5)


def _fitting(text: str, most: int, size: int) -> str:
    """Returns a text that is at most so many pixels wide, its end left out where it is longer."""
    shown, bold = text, FontProperties(family="DejaVu Sans", weight="bold")  # wider than any that the page uses
    while shown and TextPath((0, 0), shown, size=size, prop=bold).get_extents().width > most:
        text = text[:-1]
        shown = f"{text}…"
    return shown


def _draw_spread(overview: Overview, rows: Sequence[Row], width: int) -> Figure:
    """Draws a line for each configuration, its name above it, a mark for each run and a bar at the mean."""
    scores = [_score(overview, row) for row in rows]
    baselines = _baselines(overview)
    floor = Scale.of(overview.headline).floor(
        [*(_ends(score)[0] for score in scores), *(level.value for level in baselines)]
    )
    axes = rows_axes(width, len(rows), 46, 8, 44, 56, floor)
    size = 12 if width >= WIDE else 11
    axes.set_xlabel(f"{overview.headline.title} on the test set", labelpad=4)
    for y, (row, score) in enumerate(zip(rows, scores, strict=True)):
        private = row.guarantee.holds
        colour = PRIVATE if private else OPEN
        for level in baselines:  # beside the marks alone: a name may be as long as the chart is wide
            axes.plot([level.value] * 2, [y, y + 0.45], color=MUTED, linewidth=1, dashes=(4, 3))
        axes.plot(_ends(score), [y + 0.2] * 2, color=colour, linewidth=1.5)
        axes.plot(
            score.values, [y + 0.2] * len(score.values), color=colour, linestyle="none",
            marker="o" if private else "D", markersize=7, markerfacecolor=colour if private else PAPER,
            markeredgewidth=1.6,
        )  # fmt: skip
        axes.plot(
            [score.mean], [y + 0.2], color=INK, linestyle="none", marker="|", markersize=16, markeredgewidth=2
        )
        write(
            axes, _fitting(row.label, round(0.95 * width) - 8, size), (0, y - 0.2), within=("axes fraction", "data"),
            bold=row.name == overview.best, fontsize=size, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        write(axes, f"{score.mean:.3f}", (1, y + 0.2), (8, 0), within=("axes fraction", "data"))
    return figure_of(axes)
