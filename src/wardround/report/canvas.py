"""The canvas of every chart: SVG drawn twice, for a wide column and for a phone, in the page's own fonts and colours.

Lengths are CSS pixels, from the upper left corner. Colours are variables of the style sheet, so that a chart follows
light, dark and print. Nothing in a chart refers to anything, inside or outside.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDE, NARROW = 760, 340
"""Widths."""

INK, MUTED, RULE, PAPER = "var(--ink)", "var(--muted)", "var(--rule)", "var(--card)"
PRIVATE, OPEN, BAND = "var(--private)", "var(--open)", "var(--band)"
SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))

DASHED = "4 3"
TEXT, TITLE = 12.5, 13.0
"""Sizes of text."""

Point = tuple[float, float]

_MARKS = {  # by name; corners in units of the mark's radius
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "up": ((0, -1), (1, 1), (-1, 1)),
    "down": ((0, 1), (1, -1), (-1, -1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "pentagon": ((0, -1.1), (1.05, -0.3), (0.65, 0.9), (-0.65, 0.9), (-1.05, -0.3)),
}
MARKS = ("circle", *_MARKS)


@dataclass(frozen=True)
class Chart:
    """One chart as SVG, for a wide column and for a phone."""

    wide: str
    narrow: str


@dataclass
class Drawing:
    """An SVG element that is being drawn."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def shape(self, tag: str, style: str, **places: float | str) -> None:
        """Adds an element; places are its attributes."""
        shown = " ".join(f'{k}="{v if isinstance(v, str) else _short(v)}"' for k, v in places.items())
        self.parts.append(f'<{tag} {shown} style="{style}" />')

    def path(
        self, points: Sequence[Point], colour: str, width: float = 1.0, *, dash: str = "", fill: str = "none",
        closed: bool = False,
    ) -> None:  # fmt: skip
        """Adds a line through points, or a filled shape."""
        style = f"fill:{fill};stroke:{colour};stroke-width:{_short(width)}" + (
            f";stroke-dasharray:{dash}" * bool(dash)
        )
        self.shape("path", style, d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) + "Z" * closed)

    def mark(self, at: Point, kind: str, size: float, colour: str, fill: str | None = None) -> None:
        """Adds a mark `size` wide, one of `MARKS`; `fill` of the inside where it is another colour."""
        (x, y), radius, inside = at, size / 2, fill or colour
        if kind == "circle":
            style = f"fill:{inside};stroke:{colour};stroke-width:1.6"
            self.shape("circle", style, cx=x, cy=y, r=radius)
        else:
            corners = [(x + radius * a, y + radius * b) for a, b in _MARKS[kind]]
            self.path(corners, colour, 1.6, fill=inside, closed=True)

    def text(
        self, text: str, at: Point, *, colour: str = INK, size: float = TEXT, anchor: str = "start",
        bold: bool = False, centred: bool = True, halo: bool = False,
    ) -> None:  # fmt: skip
        """Writes a text whose middle (`centred`) or baseline is at a height; a `halo` covers what lies behind it."""
        style = f"fill:{colour};font-size:{_short(size)}px;text-anchor:{anchor}" + ";font-weight:bold" * bold
        style += f";paint-order:stroke;stroke:{PAPER};stroke-width:4px" * halo
        x, y = at[0], at[1] + 0.35 * size * centred
        self.parts.append(f'<text x="{_short(x)}" y="{_short(y)}" style="{style}">{escape(text)}</text>')

    def legend(self, rows: Sequence[tuple[str, Callable[[Point], None]]], columns: int, line: float = 20) -> None:
        """Writes names at the foot, each after what its function draws in the 34 pixels right of a point."""
        per_column = -(-len(rows) // columns)
        for number, (name, sample) in enumerate(rows):
            column, place = divmod(number, per_column)
            at = (column * self.width / columns + 2, self.height - line * (per_column - place - 0.5))
            sample(at)
            self.text(name, (at[0] + 42, at[1]), size=11.5)

    def svg(self, label: str, css_class: str) -> str:
        """Returns the element; a screen reader says the label instead."""
        return (
            f'<svg viewBox="0 0 {_short(self.width)} {_short(self.height)}" role="img" aria-label="{escape(label)}" '
            f'class="{css_class}" style="font-family:var(--font)">{"".join(self.parts)}</svg>'
        )


@dataclass(frozen=True)
class Axes:
    """A part of a drawing with a scale along each side.

    Attributes:
        drawing: on which it lies.
        box: its left, top, right and lower edge.
        x: values at the left and the right edge.
        y: values at the lower and the upper edge.
        is_log: the horizontal scale is logarithmic.
    """

    drawing: Drawing
    box: tuple[float, float, float, float]
    x: Point
    y: Point
    is_log: bool = False

    @classmethod
    def within(
        cls, drawing: Drawing, left: float, bottom: float, right: float, top: float, x: Point, y: Point, *,
        is_log: bool = False,
    ) -> "Axes":  # fmt: skip
        """Returns axes with margins to the drawing's edges."""
        return cls(drawing, (left, top, drawing.width - right, drawing.height - bottom), x, y, is_log)

    def at(self, x: float, y: float) -> Point:
        """Returns the place of two values."""
        left, top, right, bottom = self.box
        across = _share(math.log(x), *map(math.log, self.x)) if self.is_log else _share(x, *self.x)
        return left + across * (right - left), bottom - _share(y, *self.y) * (bottom - top)

    def line(self, points: Iterable[Point], colour: str, width: float = 2.0, *, dash: str = "") -> None:
        """Draws a line through values."""
        self.drawing.path([self.at(*point) for point in points], colour, width, dash=dash)

    def across(self, y: float, colour: str, width: float = 1.0, *, dash: str = DASHED) -> None:
        """Draws a level from edge to edge."""
        self.line([(self.x[0], y), (self.x[1], y)], colour, width, dash=dash)

    def along(self, x: float, colour: str, width: float = 1.0, *, dash: str = DASHED) -> None:
        """Draws a vertical line from edge to edge."""
        self.line([(x, self.y[0]), (x, self.y[1])], colour, width, dash=dash)

    def mark(self, x: float, y: float, kind: str, size: float, colour: str, fill: str | None = None) -> None:
        """Draws a mark at two values; see `Drawing.mark`."""
        self.drawing.mark(self.at(x, y), kind, size, colour, fill)

    def title(self, text: str, left: float = 0.0) -> None:
        """Writes a title above, from the drawing's edge on."""
        self.drawing.text(text, (left, self.box[1] - 12), size=TITLE, centred=False)

    def label(self, text: str) -> None:
        """Writes the name of the horizontal scale at the drawing's foot."""
        at = (self.box[0] + self.box[2]) / 2, self.box[3] + 36
        self.drawing.text(text, at, colour=MUTED, anchor="middle", centred=False)

    def columns(self, places: Iterable[float], names: Iterable[str] | None = None, *, grid: bool = False) -> None:
        """Writes values below, with vertical lines for a `grid`."""
        places = list(places)
        for x, name in zip(places, names or shown(places), strict=True):
            if grid:
                self.along(x, RULE, dash="")
            at = self.at(x, self.y[0])[0], self.box[3] + 17
            self.drawing.text(name, at, colour=MUTED, anchor="middle", centred=False)

    def rows(self, places: Iterable[float]) -> None:
        """Writes values at the left, with horizontal lines."""
        places = list(places)
        for y, name in zip(places, shown(places), strict=True):
            self.across(y, RULE, dash="")
            at = self.box[0] - 6, self.at(self.x[0], y)[1]
            self.drawing.text(name, at, colour=MUTED, anchor="end")


def both(draw: Callable[[int], Drawing], label: str) -> Chart:
    """Returns the chart in both widths."""
    return Chart(draw(WIDE).svg(label, "wide"), draw(NARROW).svg(label, "narrow"))


def rows_axes(width: int, rows: int, step: int, left: int, bottom: int, right: int, floor: float) -> Axes:
    """Returns axes of a new drawing with one horizontal line a row, `step` pixels each, and a score along x."""
    drawing = Drawing(width, step * rows + bottom + 22)
    axes = Axes.within(drawing, left, bottom, right, 22, (floor, 1.0), (rows - 0.5, -0.5))
    axes.columns(ticks(floor, 1.0, 6 if width >= WIDE else 5), grid=True)
    return axes


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Returns round values from `low` to `high`, at most `most + 1` of them.

    >>> ticks(0.4, 1.0, 6), ticks(1, 105, 6, whole=True)
    ([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [20.0, 40.0, 60.0, 80.0, 100.0])
    """
    power = 10.0 ** math.floor(math.log10(max(high - low, 1e-9) / most))
    kinds = (1, 2, 5, 10, 20) if whole else (1, 2, 2.5, 5, 10, 20)
    steps = [power * kind for kind in kinds if power * kind >= 1 or not whole] or [1.0]
    step = next((s for s in steps if (high - low) / s <= most + 1e-9), steps[-1])
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def shown(values: Sequence[float]) -> list[str]:
    """Returns values as text, all with the decimals that the finest needs.

    >>> shown([0.5, 0.75, 1])
    ['0.50', '0.75', '1.00']
    """
    decimals = max((len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in values), default=0)
    return [f"{value:.{decimals}f}" for value in values]


def _share(value: float, first: float, last: float) -> float:
    return (value - first) / (last - first) if last != first else 0.5


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
