"""The charts of a comparison: the headline against epsilon, hospitals and rounds, and its spread over repeats.

Each series has a colour, a marker and, from the seventh on, a dashed line; a dot is a run, a line joins the means.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from wardround.report.canvas import (
    INK,
    MARKS,
    MUTED,
    OPEN,
    PAPER,
    PRIVATE,
    SERIES,
    WIDE,
    Axes,
    Chart,
    Drawing,
    Point,
    both,
    rows_axes,
    ticks,
)
from wardround.report.charts import CHANCE, Scale, bar
from wardround.report.comparison import Overview, Row, Spread

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
    """Returns every run's headline on test patients, a line for each configuration; None when no run has it."""
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
        return f"{spread.mean:.3f}"
    return f"mean {spread.mean:.3f}, from {spread.low:.3f} to {spread.high:.3f} over {len(spread.values)} runs"


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
) -> Drawing:
    """Draws the series and levels: rounds on a linear axis without single runs, else on a logarithmic axis."""
    columns = 2 if width >= WIDE else 1
    key_height = _LINE_HEIGHT * math.ceil((len(series) + len(levels)) / columns) + 8
    lows = [score.low for one in series for _, score in one.points] + [level.value for level in levels]
    places = sorted({x for one in series for x, _ in one.points})
    first, last, is_round = places[0], places[-1], along == "round"
    floor, edge = scale.floor(lows), 0.03 * ((last - first) or 1)
    ends = (first - edge, last + edge) if is_round else (first / 1.15, last * 1.15)
    drawing = Drawing(width, 286 + key_height)
    axes = Axes.within(drawing, 38, 44 + key_height, 20, 34, ends, (floor, 1.0), is_log=not is_round)
    axes.title(title)
    axes.rows(ticks(floor, 1.0, 6))
    if is_round:
        axes.columns(ticks(first, last, 6, whole=True))
    else:
        axes.columns(places, [f"{place:.3g}" for place in places])
    axes.label(along)
    for number, level in enumerate(levels):
        axes.across(level.value, level.colour, 1.4, dash=_dash_of(number))
    for number, one in enumerate(series):
        _draw_series(axes, one, number, dots=not is_round)
    samples = [(one.label, partial(_series_sample, drawing, number)) for number, one in enumerate(series)]
    samples += [
        (level.label, partial(_sample, drawing, level.colour, 1.4, _dash_of(number)))
        for number, level in enumerate(levels)
    ]
    drawing.legend(samples, columns, _LINE_HEIGHT)
    return drawing


def _dash_of(number: int) -> str:
    return f"{4 + 4 * number} 3"


def _style_of(number: int) -> tuple[str, str, str]:
    """Returns the colour, the mark and the dashes of a series."""
    return (
        SERIES[number % len(SERIES)],
        MARKS[number % len(MARKS)],
        "" if number < len(SERIES) else "12 4",
    )


def _sample(drawing: Drawing, colour: str, width: float, dash: str, at: Point) -> None:
    """Draws a piece of a line for the key."""
    drawing.path([at, (at[0] + 34, at[1])], colour, width, dash=dash)


def _series_sample(drawing: Drawing, number: int, at: Point) -> None:
    colour, mark, dash = _style_of(number)
    _sample(drawing, colour, 2, dash, at)
    drawing.mark((at[0] + 17, at[1]), mark, 6.5, colour)


def _draw_series(axes: Axes, one: _Series, number: int, *, dots: bool) -> None:
    colour, mark, dash = _style_of(number)
    axes.line([(x, score.mean) for x, score in one.points], colour, dash=dash)
    for x, score in one.points:
        axes.mark(x, score.mean, mark, 6.5, colour)
        if dots and len(score.values) > 1:
            axes.line([(x, score.low), (x, score.high)], colour, 1.5)
            for value in score.values:
                axes.mark(x, value, mark, 3.5, colour)


def _draw_spread(overview: Overview, rows: Sequence[Row], width: int) -> Drawing:
    """Draws a line for each configuration, its name above it, a mark for each run and a bar at the mean."""
    scores = [_score(overview, row) for row in rows]
    baselines = _baselines(overview)
    floor = Scale.of(overview.headline).floor(
        [*(score.low for score in scores), *(level.value for level in baselines)]
    )
    axes = rows_axes(width, len(rows), 46, 8, 44, 56, floor)
    for level in baselines:
        axes.along(level.value, MUTED)
    axes.label(f"{overview.headline.title} on the test set")
    for place, (row, score) in enumerate(zip(rows, scores, strict=True)):
        y, private = place + 0.2, row.guarantee.holds
        colour = PRIVATE if private else OPEN
        axes.line([(score.low, y), (score.high, y)], colour, 1.5)
        for value in score.values:
            axes.mark(value, y, "circle" if private else "diamond", 7, colour, colour if private else PAPER)
        bar(axes, score.mean, y, 16, INK, 2)
        at = axes.box[0], axes.at(floor, place - 0.18)[1]
        size = 12.0 if width >= WIDE else 11.0
        axes.drawing.text(row.label, at, bold=row.name == overview.best, size=size, halo=True)
        axes.drawing.text(f"{score.mean:.3f}", (axes.box[2] + 8, axes.at(floor, y)[1]))
    return axes.drawing
