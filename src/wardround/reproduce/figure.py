"""A reproduction's figure, drawn as the report draws: dashed and hollow is published, filled and blue is repaired."""

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from wardround.report.svg import INK, MUTED, OPEN, PRIVATE, RULE, inline_svg
from wardround.reproduce.table import Figure, Origin

_WIDTH, _HEIGHT = 760, 380
_STYLES: dict[Origin, tuple[str, str, str]] = {
    Origin.PUBLISHED: (MUTED, "--", "s"),
    Origin.AS_PUBLISHED: (OPEN, "-", "D"),
    Origin.REPAIRED: (PRIVATE, "-", "o"),
    Origin.OPEN: (INK, ":", "^"),
}
_HOLLOW = "none"


def draw(figure: Figure) -> str:
    """The figure as an inline SVG with a key under it; its numbers are read out to who cannot see it."""
    with mpl.rc_context(
        {"svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 11.5, "text.color": INK,
         "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "text.parse_math": False}
    ):  # fmt: skip
        rows = (len(figure.series) + 1) // 2
        height = _HEIGHT + 20 * rows
        drawing = Drawing(figsize=(_WIDTH / 72, height / 72), dpi=72)
        foot = 20 * rows + 60
        axes = drawing.add_axes((0.07, foot / height, 0.9, (_HEIGHT - 90) / height))
        axes.set_frame_on(False)
        axes.tick_params(length=0, pad=6)
        axes.grid(axis="y", color=RULE, linewidth=1)
        for number, series in enumerate(figure.series):
            colour, line, marker = _STYLES[series.origin]
            few = len(series.x) < 12
            axes.plot(
                series.x, series.y, color=colour, linestyle=line, linewidth=1.6, label=f"{number + 1}  {series.label}",
                marker=marker if few else None, markersize=6.5,
                markerfacecolor=colour if series.origin is Origin.REPAIRED else _HOLLOW,
            )  # fmt: skip
            axes.annotate(
                str(number + 1), (series.x[-1], series.y[-1]), xytext=(8, 0), textcoords="offset points",
                va="center", fontsize=9.5, color=colour, annotation_clip=False,
            )  # fmt: skip
        if figure.ticks:
            axes.set_xticks(range(len(figure.ticks)), figure.ticks)
            axes.set_xlim(-0.4, len(figure.ticks) - 0.6)
        axes.set_xlabel(figure.x_title)
        axes.set_title(figure.y_title, loc="left", fontsize=13, pad=12, color=INK)
        drawing.legend(loc="lower left", ncols=2, frameon=False, fontsize=10, handlelength=2.4)
        return inline_svg(drawing, _label(figure), "wide")


def _label(figure: Figure) -> str:
    said = "; ".join(f"{s.label}: {', '.join(f'{y:.3f}' for y in s.y)}" for s in figure.series)
    over = ", ".join(figure.ticks) or figure.x_title
    return f"{figure.y_title} over {over}. {said}."
