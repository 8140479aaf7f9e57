"""A reproduction as one self-contained page; dashed and hollow is published, filled and blue is repaired."""

from matplotlib.figure import Figure as Drawing

from wardround.report.canvas import Chart, both, new_axes, new_figure
from wardround.report.page import filled, markup_of
from wardround.report.svg import INK, MUTED, OPEN, PRIVATE, RULE
from wardround.reproduce.table import PHANTOMS, Figure, Origin, Table

_STYLES: dict[Origin, tuple[str, str, str]] = {
    Origin.PUBLISHED: (MUTED, "--", "s"),
    Origin.AS_PUBLISHED: (OPEN, "-", "D"),
    Origin.REPAIRED: (PRIVATE, "-", "o"),
    Origin.OPEN: (INK, ":", "^"),
}


def render(table: Table) -> str:
    """Returns the page; all that came with the studies is text in it, never markup."""
    drawing, phantoms = markup_of(_chart(table.drawn)), PHANTOMS in table.data
    return filled("wardround.reproduce", "reproduction.html.j2", t=table, phantoms=phantoms, drawing=drawing)


def _chart(figure: Figure) -> Chart:
    """Returns the figure with a key under it; its numbers are read out to who cannot see it."""
    said = "; ".join(f"{s.label}: {', '.join(f'{y:.3f}' for y in s.y)}" for s in figure.series)
    over = ", ".join(figure.ticks) or figure.x_title
    return both(lambda width: _drawn(figure, width), f"{figure.y_title} over {over}. {said}.")


def _drawn(figure: Figure, width: int) -> Drawing:
    columns = 2 if width > 400 else 1
    foot = 60 + 20 * -(-len(figure.series) // columns)
    drawing = new_figure(width, 320 + foot)
    axes = new_axes(drawing, 50, foot, 24, 30)
    axes.grid(axis="y", color=RULE, linewidth=1)
    for number, series in enumerate(figure.series, start=1):
        colour, line, marker = _STYLES[series.origin]
        axes.plot(
            series.x, series.y, color=colour, linestyle=line, linewidth=1.6, label=f"{number}  {series.label}",
            marker=marker if len(series.x) < 12 else None, markersize=6.5,
            markerfacecolor=colour if series.origin is Origin.REPAIRED else "none",
        )  # fmt: skip
        axes.annotate(
            str(number), (series.x[-1], series.y[-1]), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=colour, annotation_clip=False,
        )  # fmt: skip
    if figure.ticks:
        axes.set_xticks(range(len(figure.ticks)), figure.ticks)
        axes.set_xlim(-0.4, len(figure.ticks) - 0.6)
    axes.set_xlabel(figure.x_title)
    axes.set_title(figure.y_title, loc="left", fontsize=13, pad=12, color=INK)
    drawing.legend(loc="lower left", ncols=columns, frameon=False, fontsize=10, handlelength=2.4)
    return drawing
