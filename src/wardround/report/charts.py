"""The charts: rounds, comparison, adversaries. Each is drawn twice, for a wide column and for a phone.

Colours come from the Okabe-Ito palette, and a shape or a word repeats what a colour says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from wardround.report.canvas import (
    BAND,
    INK,
    MUTED,
    OPEN,
    PAPER,
    PRIVATE,
    WIDE,
    Axes,
    Chart,
    Drawing,
    both,
    rows_axes,
    ticks,
)
from wardround.report.contents import Comparison, Insider, Look, Measure, ReliabilityBin, Report
from wardround.report.guarantee import Guarantee

CHANCE = {"auroc": 0.5, "quadratic_kappa": 0.0}
"""The value that guessing reaches, by key of the measure."""


@dataclass(frozen=True)
class Scale:
    """The headline's title, and the score of guessing; None where that means nothing."""

    title: str
    chance: float | None

    @classmethod
    def of(cls, headline: Measure) -> Self:
        """Returns the scale of a measure."""
        return cls(headline.title, CHANCE.get(headline.key))

    def floor(self, lows: Sequence[float]) -> float:
        """Returns the lower end of the axis: under chance, and under everything shown."""
        least = min([0.0 if self.chance is None else self.chance, *lows])
        return 0.0 if self.chance is None and least >= 0 else math.floor((least - 0.04) * 20) / 20


def rounds_chart(report: Report) -> Chart | None:
    """Returns the headline, and under it epsilon, against rounds; None when no round was looked at."""
    looks = report.looks
    if not looks or report.quality is None:
        return None
    scale = Scale.of(report.quality.headline)
    label = _rounds_label(looks, report.guarantee, scale)
    return both(lambda width: _draw_rounds(looks, report.guarantee, scale, width), label)


def comparison_chart(report: Report) -> Chart | None:
    """Returns the headline of the main run and its references; None when none is known."""
    rows = tuple(row for row in report.comparisons if row.quality.headline.score.value is not None)
    if not rows or report.quality is None:
        return None
    scale = Scale.of(report.quality.headline)
    said = "; ".join(f"{_name(row)}: {_score_words(row)}" for row in rows)
    chance = "" if scale.chance is None else f"; chance is {scale.chance:g}"
    return both(
        lambda width: _draw_comparison(rows, scale, width), f"{scale.title} on the test set{chance}. {said}."
    )


def calibration_chart(report: Report) -> Chart | None:
    """Returns the share of calls that were right against their probability; None when that is not known."""
    found = report.calibration
    if found is None or not found.bins:
        return None
    said = "; ".join(
        f"{row.pictures} pictures called with {row.confidence:.2f}: {row.accuracy:.2f} right" for row in found.bins
    )
    return both(lambda width: _draw_calibration(found.bins, width), f"Calibration. {said}.")


def insiders_chart(report: Report) -> Chart | None:
    """Returns epsilon by adversary; None when there are fewer than two."""
    rows = report.insiders
    if len(rows) < 2:
        return None
    said = "; ".join(f"{row.adversary}: {row.guarantee.text}" for row in rows)
    return both(lambda width: _draw_insiders(rows, width), f"Epsilon by adversary. {said}.")


def _draw_rounds(looks: Sequence[Look], guarantee: Guarantee, scale: Scale, width: int) -> Drawing:
    upper, lower = 200, 136
    drawing = Drawing(width, upper + (lower if guarantee.holds else 0) + 26)
    known = [(look.round, look.score.value, look.score) for look in looks if look.score.value is not None]
    lows = [(x, value if score.low is None else score.low) for x, value, score in known]
    highs = [(x, value if score.high is None else score.high) for x, value, score in known]
    colour = PRIVATE if guarantee.holds else OPEN
    first, last = min(look.round for look in looks), looks[-1].round
    span = 0.02 * max(1, last - min(first, last - 1))
    rounds = (first - span, last + span)
    floor = scale.floor([low for _, low in lows])
    axes = Axes.within(drawing, 38, drawing.height - upper, 52, 30, rounds, (floor, 1.0))
    axes.title(f"{scale.title} on the {looks[-1].measured_on} set")
    axes.rows(ticks(floor, 1.0, 6))
    if lows != highs:
        edge = [axes.at(*point) for point in (*lows, *reversed(highs))]
        drawing.path(edge, "none", fill=BAND, closed=True)
    if scale.chance is not None:
        axes.across(scale.chance, MUTED)
        at = axes.box[2] - 2, axes.at(first, scale.chance)[1] - 4
        drawing.text("chance", at, colour=MUTED, size=11, anchor="end", centred=False)
    points = [(x, value) for x, value, _ in known]
    axes.line(points, colour)
    for point in points:
        axes.mark(*point, "circle", 5, colour)
    if points:
        _beside(axes, points[-1], f"{points[-1][1]:.3f}", colour)
    below = axes
    if guarantee.holds:
        spent = [(look.round, look.epsilon) for look in looks]
        most = max(epsilon for _, epsilon in spent) * 1.12 or 1.0
        below = Axes.within(drawing, 38, 40, 52, upper + 34, rounds, (0.0, most))
        below.title(f"ε spent so far, {guarantee.condition}")
        below.rows(ticks(0.0, most, 4))
        below.line(spent, INK)
        for point in spent:
            below.mark(*point, "square", 4.5, INK)
        _beside(below, spent[-1], Guarantee(spent[-1][1], guarantee.delta, guarantee.unit).value, INK)
    below.columns(ticks(first, last, 6, whole=True))
    below.label("round")
    return drawing


def _beside(axes: Axes, point: tuple[float, float], text: str, colour: str) -> None:
    """Writes a text right of the last point."""
    x, y = axes.at(*point)
    axes.drawing.text(text, (x + 9, y), colour=colour, bold=True)


def _draw_comparison(rows: Sequence[Comparison], scale: Scale, width: int) -> Drawing:
    """Draws one line a row, its name left of it when there is room, else above."""
    wide = width >= WIDE
    step, left, right = (36, 268, 56) if wide else (50, 8, 48)
    scores = [row.quality.headline.score for row in rows]
    lows = [end for score in scores for end in (score.low, score.value) if end is not None]
    axes = rows_axes(width, len(rows), step, left, 40, right, scale.floor(lows))
    if scale.chance is not None:
        axes.along(scale.chance, MUTED)
        at = axes.at(scale.chance, 0)[0], axes.box[1] - 6
        anchor = "middle" if wide else "start"
        axes.drawing.text("chance", at, colour=MUTED, size=11, anchor=anchor, centred=False)
    axes.label(f"{scale.title} on the test set")
    for place, row in enumerate(rows):
        y = place + (0 if wide else 0.2)
        _draw_row(axes, y, row)
        middle = axes.at(scores[0].value or 0.0, y)[1]
        at = (0, middle) if wide else (axes.box[0], middle - 15)
        axes.drawing.text(_name(row), at, bold=row.is_main, halo=True)
    return axes.drawing


def _draw_row(axes: Axes, y: float, row: Comparison) -> None:
    score = row.quality.headline.score
    assert score.value is not None
    colour = PRIVATE if row.private else OPEN
    if score.low is not None and score.high is not None:
        several = row.quality.models > 1
        axes.line([(score.low, y), (score.high, y)], colour, 1.5 if several else 3)
        for end in (score.low, score.high) if several else ():
            bar(axes, end, y, 9, colour, 1)
    kind, size = ("circle", 9) if row.private else ("diamond", 7.5)
    axes.mark(score.value, y, kind, size, colour, colour if row.private else PAPER)
    at = axes.box[2] + 8, axes.at(score.value, y)[1]
    axes.drawing.text(f"{score.value:.3f}", at, bold=row.is_main)


def bar(axes: Axes, x: float, y: float, size: float, colour: str, width: float) -> None:
    """Draws an upright bar at two values, `size` pixels high."""
    across, middle = axes.at(x, y)
    axes.drawing.path([(across, middle - size / 2), (across, middle + size / 2)], colour, width)


def _draw_insiders(rows: Sequence[Insider], width: int) -> Drawing:
    """Draws one bar a row, its adversary above it; no bound is a bar without an end."""
    drawing = Drawing(width, 50 * len(rows) + 42)
    finite = [row.guarantee.epsilon for row in rows if row.guarantee.holds]
    limit = max(finite, default=1.0) or 1.0
    axes = Axes.within(drawing, 2, 34, 62, 6, (0.0, limit), (len(rows) - 0.5, -0.5))
    for y, row in enumerate(rows):
        bounded = row.guarantee.holds
        colour = PRIVATE if row.covered else OPEN
        end = axes.at(row.guarantee.epsilon if bounded else limit, y + 0.2)
        left, top = axes.box[0], end[1] - 7
        edge = [(left, top), (end[0], top), (end[0], top + 15), (left, top + 15)]
        dash = "" if bounded else "6 4"
        drawing.path(edge, colour, 1.5, dash=dash, fill=colour if row.covered else PAPER, closed=True)
        named = row.adversary[:1].upper() + row.adversary[1:]
        drawing.text(named, axes.at(0, y - 0.18), size=12.5 if width >= WIDE else 11.5)
        value = row.guarantee.value if bounded else "no limit"
        drawing.text(value, (end[0] + 7, end[1]), bold=True)
    condition = next((row.guarantee for row in rows if row.guarantee.holds), rows[0].guarantee).condition
    drawing.text(f"ε {condition}", (axes.box[0], axes.box[3] + 20), colour=MUTED, centred=False)
    return drawing


def _draw_calibration(bins: Sequence[ReliabilityBin], width: int) -> Drawing:
    """Draws each bin as a point whose area follows its pictures, beside the diagonal of a calibrated model."""
    low = max(0.0, math.floor((min(row.confidence for row in bins) - 0.05) * 10) / 10)
    floor = min(low, *(row.interval[0] for row in bins))
    axes = Axes.within(Drawing(width, 312), 46, 44, 20, 28, (low, 1.01), (floor, 1.02))
    axes.columns(ticks(low, 1.0, 6 if width >= WIDE else 5), grid=True)
    axes.rows(ticks(floor, 1.0, 8))
    axes.line([(low, low), (1, 1)], MUTED, 1, dash="4 3")
    most = max(row.pictures for row in bins)
    axes.line([(row.confidence, row.accuracy) for row in bins], PRIVATE, 1.5)
    for row in bins:
        axes.line([(row.confidence, end) for end in row.interval], PRIVATE, 1.5)
        axes.mark(row.confidence, row.accuracy, "circle", 3 + 8 * math.sqrt(row.pictures / most), PRIVATE)
    axes.label("probability that the model gave")
    axes.title("share that was right")
    return axes.drawing


def _name(row: Comparison) -> str:
    return f"{row.place}, {'with' if row.private else 'without'} privacy"


def _score_words(row: Comparison) -> str:
    score = row.quality.headline.score
    spread = ""
    if score.low is not None and score.high is not None:
        what = "95 % interval" if row.quality.models == 1 else f"range over {row.quality.models} models"
        spread = f", {what} {score.low:.3f} to {score.high:.3f}"
    return f"{score.value:.3f}{spread}"


def _rounds_label(looks: Sequence[Look], guarantee: Guarantee, scale: Scale) -> str:
    first, last = looks[0], looks[-1]
    text = f"{scale.title} on the {last.measured_on} set from round {first.round} to round {last.round}"
    if first.score.value is not None and last.score.value is not None:
        text += f": from {first.score.value:.3f} to {last.score.value:.3f}"
    if not guarantee.holds:
        return f"{text}. There is no privacy guarantee."
    before, after = (Guarantee(look.epsilon, guarantee.delta, guarantee.unit).value for look in (first, last))
    return f"{text}. ε {guarantee.condition}, spent so far: from {before} to {after}."
