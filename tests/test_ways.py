"""The ways of a study and of its plan through the rooms: how often either is handed back to a room above."""

import sys
from collections import Counter
from functools import cache

from tests.test_architecture import ARROWS

from wardround.config import Study
from wardround.coordinator.observer import Silent
from wardround.privacy.plans.plan import Plan
from wardround.simulation.run import run_study


@cache
def height(room):
    """How many arrows lead down from a room, at most."""
    below = {target.partition(".")[0] for target in ARROWS[room]}
    return 1 + max((height(target) for target in below), default=-1)


def room_of(frame):
    """The room of a frame; None outside the package."""
    _, found, inside = frame.f_code.co_filename.partition("/src/wardround/")
    return inside.partition("/")[0].removesuffix(".py") if found else None


def test_study_and_plan_go_up_twice_at_most(tiny_study, tmp_path):
    """Counts what functions return to a room above; the arrows let none call one."""
    climbs: Counter[type] = Counter()

    def note(frame, event, returned):
        if event != "return" or type(returned) not in (Study, Plan):
            return
        room, caller = room_of(frame), frame.f_back
        while caller is not None and room_of(caller) is None:
            caller = caller.f_back
        if room is not None and caller is not None:
            climbs[type(returned)] += height(room_of(caller)) > height(room)

    study = tiny_study(federation={"rounds": 1, "evaluate_every": 1})
    sys.setprofile(note)
    try:
        run_study(study, tmp_path / "run", Silent())
    finally:
        sys.setprofile(None)
    assert climbs[Study] <= 2
    assert 1 <= climbs[Plan] <= 2, "it is made in a room below, so its way is seen"
