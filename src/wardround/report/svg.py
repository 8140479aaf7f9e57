"""A matplotlib figure as SVG that lives inside a page: no ids, no links, the page's own fonts and colours."""

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Versions of matplotlib differ: the family is a property of its own, or the end of `font`.
_FAMILY = re.compile(r"(font-family:|font:[^;]*?\d(?:\.\d+)?px)[^;]*")

# Stand-ins that the drawing code uses and the style sheet defines, so that a chart follows light, dark and print.
INK, MUTED, RULE, PAPER = "#101011", "#606162", "#d0d1d2", "#fefdfc"
PRIVATE, OPEN, BAND = "#0072b2", "#d55e00", "#cfe3f1"
SERIES = ("#0072b1", "#e69f01", "#009e74", "#cc79a8", "#56b4ea", "#7a6a01")
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--card", PRIVATE: "--private", OPEN: "--open",
    BAND: "--band",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}  # fmt: skip


def inline_svg(figure: Figure, label: str, css_class: str) -> str:
    """Returns the figure as an `<svg>` element for an HTML page.

    Nothing in it refers to anything, inside or outside: markers that matplotlib defines once and reuses are
    copied, clipping is left out (the charts draw inside their axes), metadata and its addresses are dropped. A screen
    reader says the label instead.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    shapes = {e.get("id"): e for e in root.iter(f"{_SVG}path") if e.get("id")}
    _clean(root, shapes)
    view_box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": view_box, "role": "img", "aria-label": label, "class": css_class})
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _clean(element: ElementTree.Element, shapes: dict[str | None, ElementTree.Element]) -> None:
    for child in list(element):
        if child.tag in (f"{_SVG}metadata", f"{_SVG}defs"):
            element.remove(child)
        elif child.tag == f"{_SVG}use":
            _copy_shape(child, shapes)
        else:
            _clean(child, shapes)
    element.tag = element.tag.removeprefix(_SVG)
    for name in ("id", "clip-path"):
        element.attrib.pop(name, None)
    if "style" in element.attrib:
        element.set("style", _themed(element.attrib["style"]))
    element.tail = None


def _copy_shape(use: ElementTree.Element, shapes: dict[str | None, ElementTree.Element]) -> None:
    shape = shapes[use.attrib.pop(_LINK).removeprefix("#")]
    x, y = use.attrib.pop("x", "0"), use.attrib.pop("y", "0")
    use.tag, use.tail = "path", None
    use.set("d", shape.get("d", ""))
    use.set("transform", f"translate({x} {y})")
    own, shared = use.get("style", ""), shape.get("style", "")
    use.set("style", _themed(f"{shared}; {own}" if own and shared else own or shared))


def _themed(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return _FAMILY.sub(r"\1 var(--font)", style)
