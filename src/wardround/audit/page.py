"""The pages of an audit: claims, every lower bound beside its ceiling, the verdict, and drawings of two worlds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from wardround.audit.broken import Tried
from wardround.audit.curious import THRESHOLDS
from wardround.audit.findings import CONFIDENCE, Audit, sentence_of_noise
from wardround.audit.schemes import ALPHA, Found
from wardround.audit.sights import Inversion
from wardround.images.quality.thumbnails import data_uri
from wardround.report.canvas import WIDE, Chart, both, new_axes, new_figure, write
from wardround.report.page import filled, markup_of
from wardround.report.svg import INK, OPEN, PRIVATE, RULE
from wardround.types import Pictures

_BINS = 48
_REACH = 0.005
"""Share of the runs at each end that is drawn in the outermost bar."""


def page_of(audit: Audit) -> str:
    """Returns the page of one audit. Everything that came with the study is text in it, never markup."""
    return filled(
        "wardround.audit", "audit.html.j2", a=audit, tried=(), confidence=CONFIDENCE, noise=sentence_of_noise
    )


def page_of_broken(tried: Sequence[Tried]) -> str:
    """Returns the page of the broken schemes and their repairs."""
    return filled(
        "wardround.audit",
        "audit.html.j2",
        a=None,
        tried=[(one, markup_of(worlds_chart(one.found)) if one.broken else None) for one in tried],
        confidence=1 - ALPHA,
    )


def page_of_inversion(found: Inversion) -> str:
    """Returns the page of gradient inversion. It shows patients: it is for the hospital that holds them."""
    return filled("wardround.audit", "inversion.html.j2", r=found, thresholds=THRESHOLDS, uri=_uri)


def _uri(picture: Pictures) -> str:
    """Returns a picture, (channel, height, width), of which the first or the first three channels are shown."""
    shown = picture[:3] if len(picture) >= 3 else np.repeat(picture[:1], 3, axis=0)
    return data_uri(np.ascontiguousarray(shown.transpose(1, 2, 0)))


def worlds_chart(found: Found) -> Chart:
    """Returns the chosen statistic of the counted runs, in both worlds."""
    label = (
        f"Above the threshold: {found.false_positives} of {found.counted} runs without the patient, "
        f"{found.counted - found.false_negatives} of {found.counted} with."
    )
    return both(lambda width: _draw(found, width), label)


def _draw(found: Found, width: int) -> Figure:
    figure = new_figure(width, 190)
    axes = new_axes(figure, 12, 30, 12, 30)
    together = np.concatenate([found.without, found.within, [found.threshold]])
    low, high = np.quantile(together, [_REACH, 1 - _REACH])
    low, high = (low, high) if high > low else (low - 1, low + 1)
    edges = np.linspace(low, high, _BINS + 1)
    tallest = 0.0
    for scores, colour, fill in ((found.without, PRIVATE, 0.35), (found.within, OPEN, 0.35)):
        heights = np.histogram(np.clip(scores, low, high), edges)[0]
        axes.stairs(heights, edges, fill=True, color=colour, alpha=fill)
        axes.stairs(heights, edges, color=colour, linewidth=1.5)
        tallest = max(tallest, float(heights.max()))
    at = float(np.clip(found.threshold, low, high))
    axes.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.axhline(0, color=RULE, linewidth=1)
    axes.set_ylim(0, tallest * 1.05)
    axes.set_yticks([])
    axes.set_xticks([])
    across = ("axes fraction", "axes fraction")
    write(axes, "without the patient", (0, 1), (0, 14), within=across, colour=PRIVATE, ha="left", bold=True)
    write(axes, "with the patient", (1, 1), (0, 14), within=across, colour=OPEN, ha="right", bold=True)
    write(axes, "guessed out", (0, 0), (0, -14), within=across, ha="left")
    write(axes, "guessed in", (1, 0), (0, -14), within=across, ha="right")
    if width >= WIDE and 0.15 < (at - low) / (high - low) < 0.85:  # beside the two other words
        write(axes, "threshold", (at, 0), (0, -14), within=("data", "axes fraction"), ha="center")
    return figure
