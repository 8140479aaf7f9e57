"""What every chart is drawn on: twice, for a wide column and for a phone, in the page's own fonts and colours."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wardround.report.svg import INK, MUTED, inline_svg

WIDE, NARROW = 760, 340
"""Widths in CSS pixels."""


@dataclass(frozen=True)
class Chart:
    """One chart as SVG, for a wide column and for a phone."""

    wide: str
    narrow: str


def both(draw: Callable[[int], Figure], label: str) -> Chart:
    """The chart in both widths; `label` is what a screen reader says instead."""
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
    """A figure whose unit is one CSS pixel."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def new_axes(figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Axes with margins in pixels, ruled horizontally, without a frame."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    axes.set_frame_on(False)
    axes.tick_params(length=0, pad=6)
    axes.set_axisbelow(True)
    return axes


def end_label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """The last value of a line, at its end."""
    axes.annotate(
        text, (x, y), xytext=(9, 0), textcoords="offset points", va="center", color=colour, fontweight="bold",
        annotation_clip=False,
    )  # fmt: skip
