"""Drawings of an audit: an attack's statistic in two worlds, and the threshold between them."""

import numpy as np

from wardround.audit.schemes import Found
from wardround.report.canvas import INK, OPEN, PRIVATE, RULE, WIDE, Axes, Chart, Drawing, both

_BINS = 48
_REACH = 0.005
"""Share of the runs at each end that is drawn in the outermost bar."""


def worlds_chart(found: Found) -> Chart:
    """Returns the chosen statistic of the counted runs, in both worlds."""
    label = (
        f"Above the threshold: {found.false_positives} of {found.counted} runs without the patient, "
        f"{found.counted - found.false_negatives} of {found.counted} with."
    )
    return both(lambda width: _draw(found, width), label)


def _draw(found: Found, width: int) -> Drawing:
    drawing = Drawing(width, 190)
    together = np.concatenate([found.without, found.within, [found.threshold]])
    low, high = np.quantile(together, [_REACH, 1 - _REACH]).tolist()
    low, high = (low, high) if high > low else (low - 1, low + 1)
    edges = np.linspace(low, high, _BINS + 1)
    worlds = [np.histogram(np.clip(one, low, high), edges)[0] for one in (found.without, found.within)]
    tallest = max(float(heights.max()) for heights in worlds) * 1.05
    axes = Axes.within(drawing, 12, 30, 12, 30, (low, high), (0.0, tallest))
    axes.across(0, RULE, dash="")
    for heights, colour in zip(worlds, (PRIVATE, OPEN), strict=True):
        tops = [axes.at(x, y) for y, *ends in zip(heights, edges[:-1], edges[1:], strict=True) for x in ends]
        outline = [axes.at(low, 0), *tops, axes.at(high, 0)]
        drawing.path(outline, colour, 1.5, fill=f"color-mix(in srgb, {colour} 35%, transparent)", closed=True)
    at = min(max(found.threshold, low), high)
    axes.along(at, INK)
    left, top, right, bottom = axes.box
    drawing.text("without the patient", (left, top - 14), colour=PRIVATE, bold=True)
    drawing.text("with the patient", (right, top - 14), colour=OPEN, bold=True, anchor="end")
    drawing.text("guessed out", (left, bottom + 14))
    drawing.text("guessed in", (right, bottom + 14), anchor="end")
    if width >= WIDE and 0.15 < (at - low) / (high - low) < 0.85:  # beside the two other words
        drawing.text("threshold", (axes.at(at, 0)[0], bottom + 14), anchor="middle")
    return drawing
