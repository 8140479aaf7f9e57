"""The charts of a comparison: names of any length stay in the picture, and no baseline runs through one."""

from types import SimpleNamespace
from typing import Any

import pytest

from wardround.report.canvas import NARROW, WIDE
from wardround.report.comparison import Spread
from wardround.report.comparison_charts import _draw_spread
from wardround.report.svg import MUTED

LONG = "privacy.plan = dp-sgd, privacy.epsilon = 4, federation.rounds = 100, model.name = small_cnn, seed = 3, and more"


def overview(*labels: str) -> Any:
    rows = [
        SimpleNamespace(
            label=label, name=label, scores={"auroc": Spread((0.8, 0.82))}, guarantee=SimpleNamespace(holds=True)
        )
        for label in labels
    ]
    baseline = SimpleNamespace(name="picture size alone", key="auroc", spread=Spread((0.58,)))
    headline = SimpleNamespace(key="auroc", title="AUROC")
    return SimpleNamespace(headline=headline, best=labels[0], rows=rows, baselines=(baseline,))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_stay_in_the_picture_and_apart_from_the_baselines(width):
    found = overview(LONG, "short", "W" * 200)
    figure = _draw_spread(found, found.rows, width)
    figure.draw_without_rendering()
    [axes] = figure.axes
    names = [text.get_window_extent() for text in axes.texts if text.get_text()[0].isalpha()]
    dashed = [line.get_window_extent() for line in axes.lines if line.get_color() == MUTED]
    assert (len(names), len(dashed)) == (3, 6), "the baseline and chance, in each row"
    assert all(name.x1 <= figure.bbox.width for name in names)
    assert not any(name.y0 < line.y1 and line.y0 < name.y1 for name in names for line in dashed)
