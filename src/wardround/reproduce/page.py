"""A reproduction as one self-contained page; dashed and hollow is published, filled and blue is repaired."""

from functools import partial

from wardround.report.canvas import INK, MUTED, OPEN, PAPER, PRIVATE, Axes, Chart, Drawing, Point, both, ticks
from wardround.report.page import markup_of, rendered
from wardround.reproduce.table import PHANTOMS, Figure, Origin, Table

_STYLES: dict[Origin, tuple[str, str, str]] = {
    Origin.PUBLISHED: (MUTED, "6 3", "square"),
    Origin.AS_PUBLISHED: (OPEN, "", "diamond"),
    Origin.REPAIRED: (PRIVATE, "", "circle"),
    Origin.OPEN: (INK, "2 3", "up"),
}
"""Colour, dashes and mark."""


def render(table: Table) -> str:
    """Returns the page; all that came with the studies is text in it, never markup."""
    drawing, phantoms = markup_of(_chart(table.drawn)), PHANTOMS in table.data
    return rendered("reproduction.html.j2", "wardround.reproduce", t=table, phantoms=phantoms, drawing=drawing)


def _chart(figure: Figure) -> Chart:
    """Returns the figure with a key under it; its numbers are read out to who cannot see it."""
    said = "; ".join(f"{s.label}: {', '.join(f'{y:.3f}' for y in s.y)}" for s in figure.series)
    over = ", ".join(figure.ticks) or figure.x_title
    return both(lambda width: _drawn(figure, width), f"{figure.y_title} over {over}. {said}.")


def _drawn(figure: Figure, width: int) -> Drawing:
    columns = 2 if width > 400 else 1
    foot = 60 + 20 * -(-len(figure.series) // columns)
    drawing = Drawing(width, 320 + foot)
    every = [(x, y) for series in figure.series for x, y in zip(series.x, series.y, strict=True)]
    across, up = _ends([x for x, _ in every]), _ends([y for _, y in every])
    names = [str(name) for name in figure.ticks]
    axes = Axes.within(drawing, 50, foot, 24, 30, (-0.4, len(names) - 0.6) if names else across, up)
    axes.title(figure.y_title)
    axes.rows(ticks(*up, 8))
    axes.columns(range(len(names)), names) if names else axes.columns(ticks(*across, 8 if columns > 1 else 5))
    axes.label(figure.x_title)
    samples = []
    for number, series in enumerate(figure.series, start=1):
        colour, dash, mark = _STYLES[series.origin]
        fill = colour if series.origin is Origin.REPAIRED else PAPER
        points = list(zip(series.x, series.y, strict=True))
        axes.line(points, colour, 1.6, dash=dash)
        for x, y in points if len(points) < 12 else ():
            axes.mark(x, y, mark, 6.5, colour, fill)
        end = axes.at(*points[-1])
        drawing.text(str(number), (end[0] + 8, end[1]), size=9.5, colour=colour)
        samples.append((f"{number}  {series.label}", partial(_sample, drawing, (colour, dash, mark), fill)))
    drawing.legend(samples, columns)
    return drawing


def _sample(drawing: Drawing, style: tuple[str, str, str], fill: str, at: Point) -> None:
    colour, dash, mark = style
    drawing.path([at, (at[0] + 34, at[1])], colour, 1.6, dash=dash)
    drawing.mark((at[0] + 17, at[1]), mark, 6.5, colour, fill)


def _ends(values: list[float]) -> Point:
    """Returns the ends of a scale: those of the values, and a twentieth of their range beyond."""
    low, high = min(values), max(values)
    beyond = 0.05 * (high - low) or 0.5
    return low - beyond, high + beyond
