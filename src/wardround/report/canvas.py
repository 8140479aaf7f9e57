"""The canvas of every chart: drawn twice, for a wide column and for a phone, in the page's own fonts and colours."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wardround.report.svg import INK, MUTED, RULE, inline_svg

WIDE, NARROW = 760, 340
"""Widths in CSS pixels."""


@dataclass(frozen=True)
class Chart:
    """One chart as SVG, for a wide column and for a phone."""

    wide: str
    narrow: str


@lru_cache(maxsize=16)
def drawn_once(draw: Callable[..., Figure], label: str, *values: Hashable) -> Chart:
    """Returns the chart that `draw` makes of values and a width, as `both` does, and keeps it.

    The page of a run is written again when its reference runs have ended, and most of its charts are the same.
    """
    return both(lambda width: draw(*values, width), label)


def both(draw: Callable[[int], Figure], label: str) -> Chart:
    """Returns the chart in both widths; a screen reader says the label instead."""
    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and printed sharply
            "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than what the page will use
            "font.size": 12.5,
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "axes.unicode_minus": False,
            "text.parse_math": False,  # a $ in a name is a $
        }
    ):
        return Chart(inline_svg(draw(WIDE), label, "wide"), inline_svg(draw(NARROW), label, "narrow"))


def new_figure(width: int, height: int) -> Figure:
    """Returns a figure whose unit is one CSS pixel."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def new_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Returns axes with margins in pixels, without a frame."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    axes.set_frame_on(False)
    axes.tick_params(length=0, pad=6)
    axes.set_axisbelow(True)
    return axes


def figure_of(axes: Axes) -> Figure:
    """Returns the figure that axes are drawn on."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def rows_axes(width: int, rows: int, step: int, left: int, bottom: int, right: int, floor: float) -> Axes:
    """Returns axes of a new figure with one horizontal line a row, `step` pixels each, and a score along x."""
    axes = new_axes(new_figure(width, step * rows + bottom + 22), left, bottom, right, 22)
    axes.set_xlim(floor, 1.0)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(6 if width >= WIDE else 5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color=RULE, linewidth=1)
    return axes


def write(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float] = (0, 0), *,
    within: tuple[str, str] = ("data", "data"), colour: str = INK, bold: bool = False, **style: Any,
) -> None:  # fmt: skip
    """Writes a text at a place, `offset` by pixels; each coordinate is `within` the data or the axes' fraction."""
    weight = "bold" if bold else "normal"
    given = {"va": "center", "annotation_clip": False, "textcoords": "offset points", **style}
    axes.annotate(text, at, offset, within, color=colour, fontweight=weight, **given)
