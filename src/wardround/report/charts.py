"""The charts: rounds, comparison, adversaries. Each is drawn twice, for a wide column and for a phone.

Colours come from the Okabe-Ito palette, and a shape or a word repeats what a colour says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wardround.report.canvas import WIDE, Chart, drawn_once, figure_of, new_axes, new_figure, rows_axes, write
from wardround.report.contents import Comparison, Insider, Look, Measure, ReliabilityBin, Report
from wardround.report.guarantee import Guarantee
from wardround.report.svg import BAND, INK, MUTED, OPEN, PAPER, PRIVATE, RULE

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
    return drawn_once(_draw_rounds, label, looks, report.guarantee, scale)


def comparison_chart(report: Report) -> Chart | None:
    """Returns the headline of the main run and its references; None when none is known."""
    rows = tuple(row for row in report.comparisons if row.quality.headline.score.value is not None)
    if not rows or report.quality is None:
        return None
    scale = Scale.of(report.quality.headline)
    said = "; ".join(f"{_name(row)}: {_score_words(row)}" for row in rows)
    chance = "" if scale.chance is None else f"; chance is {scale.chance:g}"
    return drawn_once(_draw_comparison, f"{scale.title} on the test set{chance}. {said}.", rows, scale)


def calibration_chart(report: Report) -> Chart | None:
    """Returns the share of calls that were right against their probability; None when that is not known."""
    found = report.calibration
    if found is None or not found.bins:
        return None
    said = "; ".join(
        f"{row.pictures} pictures called with {row.confidence:.2f}: {row.accuracy:.2f} right" for row in found.bins
    )
    return drawn_once(_draw_calibration, f"Calibration. {said}.", found.bins)


def insiders_chart(report: Report) -> Chart | None:
    """Returns epsilon by adversary; None when there are fewer than two."""
    rows = report.insiders
    if len(rows) < 2:
        return None
    said = "; ".join(f"{row.adversary}: {row.guarantee.text}" for row in rows)
    return drawn_once(_draw_insiders, f"Epsilon by adversary. {said}.", rows)


def _draw_rounds(looks: Sequence[Look], guarantee: Guarantee, scale: Scale, width: int) -> Figure:
    upper, lower = 200, 136
    height = upper + (lower if guarantee.holds else 0) + 26
    figure = new_figure(width, height)
    foot = height - upper
    axes = new_axes(figure, 38, foot, 52, 30)
    known = [look for look in looks if look.score.value is not None]
    x = [look.round for look in known]
    values = [look.score.value or 0.0 for look in known]
    lows = [v if look.score.low is None else look.score.low for look, v in zip(known, values, strict=True)]
    highs = [v if look.score.high is None else look.score.high for look, v in zip(known, values, strict=True)]
    colour = PRIVATE if guarantee.holds else OPEN
    if lows != highs:
        axes.fill_between(x, lows, highs, color=BAND, linewidth=0)
    axes.plot(x, values, color=colour, linewidth=2, marker="o", markersize=5)
    last_round = looks[-1].round
    first_round = min(look.round for look in looks)
    span = max(1, last_round - min(first_round, last_round - 1))
    axes.set_ylim(scale.floor(lows), 1.0)
    _panel(axes, f"{scale.title} on the {looks[-1].measured_on} set", (first_round, last_round, span))
    if scale.chance is not None:
        axes.axhline(scale.chance, color=MUTED, linewidth=1, dashes=(4, 3))
        at_end: dict[str, Any] = {"va": "baseline", "ha": "right", "fontsize": 11}
        write(axes, "chance", (1, scale.chance), (-2, 4), within=("axes fraction", "data"), colour=MUTED, **at_end)
    if values:
        write(axes, f"{values[-1]:.3f}", (x[-1], values[-1]), (9, 0), colour=colour, bold=True)
    if not guarantee.holds:
        axes.set_xlabel("round")
        return figure
    axes.tick_params(labelbottom=False)
    below = new_axes(figure, 38, 40, 52, upper + 34)
    spent = [look.epsilon for look in looks]
    below.plot([look.round for look in looks], spent, color=INK, linewidth=2, marker="s", markersize=4.5)
    below.set_ylim(0, max(spent) * 1.12 or 1.0)
    below.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    _panel(below, f"ε spent so far, {guarantee.condition}", (first_round, last_round, span))
    last = Guarantee(spent[-1], guarantee.delta, guarantee.unit).value
    write(below, last, (last_round, spent[-1]), (9, 0), bold=True)
    below.set_xlabel("round")
    return figure


def _panel(axes: Axes, title: str, rounds: tuple[int, int, int]) -> None:
    first, last, span = rounds
    axes_width = axes.get_position().width * figure_of(axes).get_size_inches()[0] * 72
    axes.set_title(title, loc="left", fontsize=13, pad=12, color=INK, x=-38 / axes_width)
    axes.set_xlim(first - 0.02 * span, last + 0.02 * span)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=RULE, linewidth=1)


def _draw_comparison(rows: Sequence[Comparison], scale: Scale, width: int) -> Figure:
    """Draws one line a row, its name left of it when there is room, else above."""
    wide = width >= WIDE
    step, left, right = (36, 268, 56) if wide else (50, 8, 48)
    scores = [row.quality.headline.score for row in rows]
    lows = [end for score in scores for end in (score.low, score.value) if end is not None]
    axes = rows_axes(width, len(rows), step, left, 40, right, scale.floor(lows))
    if scale.chance is not None:
        axes.axvline(scale.chance, color=MUTED, linewidth=1, dashes=(4, 3))
        above: dict[str, Any] = {"va": "baseline", "ha": "center" if wide else "left", "fontsize": 11}
        write(axes, "chance", (scale.chance, 1), (0, 6), within=("data", "axes fraction"), colour=MUTED, **above)
    axes.set_xlabel(f"{scale.title} on the test set", labelpad=4)
    for y, row in enumerate(rows):
        height = y + (0 if wide else 0.2)
        _draw_row(axes, height, row)
        write(
            axes, _name(row), (0, height), (-left, 0) if wide else (0, 15), within=("axes fraction", "data"),
            bold=row.is_main, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    return figure_of(axes)


def _draw_row(axes: Axes, y: float, row: Comparison) -> None:
    score = row.quality.headline.score
    assert score.value is not None
    colour = PRIVATE if row.private else OPEN
    if score.low is not None and score.high is not None:
        several = row.quality.models > 1
        axes.plot(
            [score.low, score.high], [y, y], color=colour, linewidth=1.5 if several else 3,
            marker="|" if several else None, markersize=9, solid_capstyle="butt",
        )  # fmt: skip
    marker, size = ("o", 9) if row.private else ("D", 7.5)
    axes.plot(
        [score.value], [y], color=colour, marker=marker, markersize=size, linestyle="none",
        markerfacecolor=colour if row.private else PAPER, markeredgewidth=2,
    )  # fmt: skip
    write(axes, f"{score.value:.3f}", (1, y), (8, 0), within=("axes fraction", "data"), bold=row.is_main)


def _draw_insiders(rows: Sequence[Insider], width: int) -> Figure:
    """Draws one bar a row, its adversary above it; no bound is a bar without an end."""
    figure = new_figure(width, 50 * len(rows) + 42)
    axes = new_axes(figure, 2, 34, 62, 6)
    finite = [row.guarantee.epsilon for row in rows if row.guarantee.holds]
    limit = max(finite, default=1.0) or 1.0
    axes.set_xlim(0, limit)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_axis_off()
    for y, row in enumerate(rows):
        bounded = row.guarantee.holds
        colour = PRIVATE if row.covered else OPEN
        length = row.guarantee.epsilon if bounded else limit
        axes.barh(
            y + 0.2, length, height=0.3, color=colour if row.covered else PAPER, edgecolor=colour, linewidth=1.5,
            linestyle="-" if bounded else (0, (4, 3)),
        )  # fmt: skip
        named = row.adversary[:1].upper() + row.adversary[1:]
        write(axes, named, (0, y - 0.18), fontsize=12.5 if width >= WIDE else 11.5)
        write(axes, row.guarantee.value if bounded else "no limit", (length, y + 0.2), (7, 0), bold=True)
    condition = next((row.guarantee for row in rows if row.guarantee.holds), rows[0].guarantee).condition
    corner = ("axes fraction", "axes fraction")
    write(axes, f"ε {condition}", (0, 0), (0, -20), within=corner, colour=MUTED, va="baseline")
    return figure


def _draw_calibration(bins: Sequence[ReliabilityBin], width: int) -> Figure:
    """Draws each bin as a point whose area follows its pictures, beside the diagonal of a calibrated model."""
    axes = new_axes(new_figure(width, 300), 46, 44, 20, 16)
    low = max(0.0, math.floor((min(row.confidence for row in bins) - 0.05) * 10) / 10)
    axes.set_xlim(low, 1.01)
    axes.set_ylim(min(low, *(row.interval[0] for row in bins)), 1.02)
    axes.grid(color=RULE, linewidth=1)
    axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, dashes=(4, 3))
    most = max(row.pictures for row in bins)
    axes.plot([row.confidence for row in bins], [row.accuracy for row in bins], color=PRIVATE, linewidth=1.5)
    for row in bins:
        axes.plot([row.confidence] * 2, row.interval, color=PRIVATE, linewidth=1.5)
        size = 3 + 8 * math.sqrt(row.pictures / most)
        axes.plot([row.confidence], [row.accuracy], color=PRIVATE, marker="o", markersize=size, linestyle="none")
    axes.set_xlabel("probability that the model gave", labelpad=4)
    axes.set_ylabel("share that was right", labelpad=4)
    return figure_of(axes)


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
