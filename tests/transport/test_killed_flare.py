"""The courier's processes are killed at every step of a round: the run completes, is the same run, and nothing is left.

The engine's parents are started again by the courier, its jobs by the coordinator's side of it, the courier by its own
supervisor (here: the test).
"""

import os
import signal
import threading

import psutil
import pytest
from tests.transport.consortium import MASKED, NAMES
from tests.transport.test_killed import simulated

from wardround.work import Announce, Confirm, Upload

pytestmark = pytest.mark.thorough

VICTIM = NAMES[1]
POINTS = [(2, Announce, "before"), (3, Confirm, "during"), (4, Upload, "during"), (5, Upload, "after")]


class Struck:
    """A channel that calls `strike` at each point of a run, once."""

    def __init__(self, inner, strike):
        self.inner, self.strike, self.points = inner, strike, list(POINTS)

    def at(self, index):
        """The same channel, with one point alone."""
        self.points = [POINTS[index]]
        return self

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        request = next(iter(requests.values()))
        due = [p for p in self.points[:1] if p[0] == request.round and isinstance(request.work, p[1])]
        self.points = self.points[len(due) :]
        moment = due[0][2] if due else None
        if moment == "before":
            self.strike()
        timer = threading.Timer(0.01, self.strike)
        if moment == "during":
            timer.start()
        found = self.inner.ask(requests, deadline_s)
        if moment == "during":
            timer.join()
        if moment == "after":
            self.strike()
        return found


def check(between, record, flare):
    assert (between.folder / "run" / "model.safetensors").read_bytes() == simulated(between), "identical"
    assert record.certificate["stopped"] is None
    assert {receipt["releases"] for receipt in between.receipts().values()} == {between.study.rounds}
    between.stop()
    flare.wait()  # one parent and one job each, and no orphan


@pytest.fixture
def between(flare, consortium, without_charts):
    flare.wait()
    found = consortium(MASKED, {"rounds": 6})
    flare.lead_to(found.home)
    found.accept()
    found.start()
    return found


@pytest.mark.parametrize("which", ["job", "parent"])
@pytest.mark.parametrize("side", ["coordinator", VICTIM])
def test_a_process_of_the_engine_is_killed(between, flare, side, which):
    strikes = []

    def strike():
        flare.wait()  # where it was killed before, it is there again
        flare.kill(side, which)
        strikes.append(which)

    record = between.run(lambda channel: Struck(channel, strike), over=flare.socket_of)
    assert len(strikes) == len(POINTS)
    check(between, record, flare)


@pytest.mark.parametrize("side", ["coordinator", VICTIM])
def test_a_side_of_the_courier_is_killed(between, flare, side):
    def strike():
        flare.wait()
        below = flare.below(side)
        os.kill(flare.up[side].pid, signal.SIGKILL)
        flare.up[side].wait()
        _, left = psutil.wait_procs(below, timeout=30)
        assert not left, "its processes end with it"
        flare.start(side)

    record = between.run(lambda channel: Struck(channel, strike), over=flare.socket_of)
    check(between, record, flare)


def test_an_agent_behind_the_courier_is_killed(between, flare):
    def strike():
        between.kill(VICTIM)
        between.start(VICTIM)

    record = between.run(lambda channel: Struck(channel, strike), over=flare.socket_of)
    check(between, record, flare)


def test_a_coordinator_before_the_courier_is_killed(between, flare):
    for point in range(len(POINTS)):
        child = os.fork()
        if child == 0:
            try:
                between.run(
                    lambda channel, point=point: Struck(channel, lambda: os.kill(os.getpid(), signal.SIGKILL)).at(
                        point
                    ),
                    over=flare.socket_of,
                )
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    check(between, between.run(over=flare.socket_of), flare)
