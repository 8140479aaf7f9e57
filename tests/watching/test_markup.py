"""The page of a view: well formed, escaped, described for a screen reader, without a request or a script."""

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from wardround.watching.markup import STYLE, html_of
from wardround.watching.views import CoordinatorView, HospitalSeen, HospitalView, RunView, StudySeen

NASTY = '"></svg><script>alert(1)</script>\x1b[2J'
RUN = RunView(
    study="lungs", stage="training", done=3, total=4, round=3, rounds=4, epsilon_spent=2.0, spent_round=3, epsilon=8.0,
    delta=1e-5, figures=(("AUROC", 0.875), ("Accuracy", 0.75)), curve=((1, 0.5), (2, 0.7), (3, 0.875)),
    measured_on="test", hospitals=3, missing=("south",), seconds_left=12.0,
)  # fmt: skip
SEEN = HospitalSeen("north", "away", "gone", 12.0, None, "upload", 3, 7, 1, 1000, 20_000, 3.5)
COORDINATOR = CoordinatorView("lungs", "training", 3, 4, False, 2.0, 3, 8.0, 1e-5, (SEEN,), {"upload": 3.5})
STUDY = StudySeen("lungs", "ab" * 32, 1.5, 3.0, 1e-5, True)
HOSPITAL = HospitalView("north", True, "2030-01-01", 3, (STUDY,), 7, 1, 10, 20_000_000, {"upload": 3.5})
NASTY_VIEWS = [
    replace(RUN, study=NASTY, stage=NASTY, figures=((NASTY, 0.875),), measured_on=NASTY, missing=(NASTY,)),
    replace(
        COORDINATOR,
        study=NASTY,
        stage=NASTY,
        hospitals=(replace(SEEN, name=NASTY, state=NASTY, code=NASTY, work=NASTY),),
        seconds_by_work={NASTY: 1.0},
    ),
    replace(
        HOSPITAL, hospital=NASTY, last=NASTY, studies=(replace(STUDY, name=NASTY),), seconds_by_work={NASTY: 1.0}
    ),
]


def main_of(view: Any) -> ElementTree.Element:
    page = html_of(view)
    return ElementTree.fromstring(re.findall(r"<main>.*</main>", page, flags=re.DOTALL)[0])


def text_of(view: Any) -> str:
    return " ".join("".join(main_of(view).itertext()).split())


def curves(view: Any) -> list[ElementTree.Element]:
    return [svg for svg in main_of(view).iter("svg") if svg.get("class") == "curve"]


@pytest.mark.parametrize("view", [RUN, COORDINATOR, HOSPITAL, *NASTY_VIEWS])
def test_the_page_asks_for_nothing_and_runs_nothing(view):
    page = html_of(view)
    outside = page.replace(STYLE, "")
    assert not re.search(r"<script|<link|<img|\s(?:src|href|style|on\w+)=|http:|https:", outside)
    assert not re.search(r"url\(|@import|http", STYLE)
    assert "\x1b" not in page
    for svg in main_of(view).iter("svg"):
        assert svg.get("role") == "img"
        assert svg.get("aria-label")


@pytest.mark.parametrize("view", NASTY_VIEWS)
def test_a_name_stays_text(view):
    page = html_of(view)
    assert "<script" not in page
    assert "alert(1)" in text_of(view)
    tags = {element.tag for element in main_of(view).iter()}
    assert not tags & {"script", "a", "img", "style"}


def test_bars_are_as_long_as_what_is_done_and_spent():
    rounds, spent = (float(rect.get("width", "nan")) for rect in main_of(RUN).iter("rect"))
    assert (rounds, spent) == (75.0, 25.0)
    over = replace(RUN, epsilon_spent=9.0, total=0, round=0, rounds=0)
    assert [float(rect.get("width", "nan")) for rect in main_of(over).iter("rect")] == [0.0, 100.0]


def test_an_epsilon_has_its_delta_and_its_unit_beside_it():
    for view in (RUN, COORDINATOR, HOSPITAL):
        found = list(re.finditer(r"epsilon \d[\d.]*", text_of(view)))
        assert found
        for match in found:
            assert re.match(r" of [\d.]+ at delta = 1e-05 for one patient", text_of(view)[match.end() :])
    assert "Nothing is promised" in text_of(replace(RUN, epsilon=math.inf))
    assert "Not computed yet" in text_of(replace(RUN, epsilon_spent=None))


def test_the_curve_has_the_looks_of_the_first_figure_and_rises_with_it():
    [curve] = curves(RUN)
    assert curve.get("aria-label") == "AUROC by round: 0.500 in round 1, 0.875 in round 3"
    [line] = curve.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert len(points) == len(RUN.curve)
    assert points == sorted(points, key=lambda point: point[0])
    assert points == sorted(points, key=lambda point: -point[1]), "up is less in SVG"
    assert curves(replace(RUN, curve=RUN.curve[:1])) == []
    assert curves(replace(RUN, figures=(), curve=())) == []
    flat = replace(RUN, curve=((1, 0.5), (2, 0.5)))
    assert len(curves(flat)) == 1


def test_who_answered_is_said_by_name():
    assert "2 of 3 hospitals, round 3" in text_of(RUN)
    assert "Away: south." in text_of(RUN)
    assert "north away (gone)" in " ".join(" ".join(main_of(COORDINATOR).itertext()).split())
