"""Agents and coordinators that are killed, between rounds and within them: the run completes, and is the same run.

Noise of a seeded study is the same whenever a round is repeated, so its weights say whether anything was lost.
"""

import itertools
import json
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
from tests.transport.consortium import ALONE, MASKED, NAMES

from wardround.coordinator.observer import Silent
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.hospital.kept.replies import Replies
from wardround.simulation.run import run_study
from wardround.work import Announce, Confirm, Finish, LocalUpdate, Upload

pytestmark = pytest.mark.thorough

STUDIES = {
    "masked": (MASKED, {"rounds": 3}),
    "nobody": (ALONE, {"strategy": "fedavg", "rounds": 3, "local_steps": 2}),
}
STEPS = [("masked", Announce), ("masked", Confirm), ("masked", Upload), ("nobody", LocalUpdate)]
VICTIM = NAMES[1]


def end_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


class Watched:
    """A channel that calls `struck` once, before or after an exchange of the second round."""

    def __init__(self, inner, kind, struck, *, after=False):
        self.inner, self.kind, self.struck, self.after = inner, kind, struck, after

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        request = next(iter(requests.values()))
        strikes = self.struck is not None and isinstance(request.work, self.kind) and request.round == 2
        struck, self.struck = (self.struck, None) if strikes else (None, self.struck)
        if struck is not None and not self.after:
            struck()
        found = self.inner.ask(requests, deadline_s)
        if struck is not None and self.after:
            struck()
        return found


def simulated(between):
    run_study(between.study, between.folder / "simulated", Silent())
    return (between.folder / "simulated" / "model.safetensors").read_bytes()


def check(between, record):
    """Weights of the simulation, and every round charged once to every hospital."""
    assert (between.folder / "run" / "model.safetensors").read_bytes() == simulated(between)
    assert record.certificate["rounds"] == between.study.rounds
    receipts = between.receipts()
    steps = between.study.local_steps
    assert {receipt["releases"] for receipt in receipts.values()} == {between.study.rounds * steps}
    between.stop()


@pytest.mark.parametrize("away", [False, True], ids=["started again at once", "away when it is asked"])
@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_an_agent_is_killed_before_a_step(consortium, without_charts, name, kind, away):
    between = consortium(*STUDIES[name])
    between.accept()
    between.start()

    def strike():
        between.kill(VICTIM)
        if away:
            threading.Timer(0.5, between.start, [VICTIM]).start()
        else:
            between.start(VICTIM)

    check(between, between.run(lambda channel: Watched(channel, kind, strike)))


@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_an_agent_is_killed_after_a_step(consortium, without_charts, name, kind):
    between = consortium(*STUDIES[name])
    between.accept()
    between.start()

    def strike():
        between.kill(VICTIM)
        between.start(VICTIM)

    check(between, between.run(lambda channel: Watched(channel, kind, strike, after=True)))


def dying(method, *, before):
    """Kills its process at the second call of a method."""
    calls = []

    def call(*arguments, **options):
        calls.append(1)
        if before and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*arguments, **options)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def run_with_a_death(between, *, before):
    """Returns the record of a run in which an agent dies once, before or after it keeps a reply, and comes back."""
    between.accept()

    def first():
        Replies.keep = dying(Replies.keep, before=before)  # type: ignore[method-assign]  # in the agent's process

    between.start(*(agent for agent in NAMES if agent != VICTIM))
    between.start(VICTIM, first=first)

    def watch():
        assert between.ended(VICTIM) == -signal.SIGKILL
        between.start(VICTIM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    record = between.run()
    watcher.join()
    return record


@pytest.mark.parametrize("before", [True, False], ids=["charged, its reply not kept", "its reply kept, not sent"])
@pytest.mark.parametrize("name", STUDIES)
def test_an_agent_is_killed_after_its_charge(consortium, without_charts, monkeypatch, name, before):
    between = consortium(*STUDIES[name])
    check(between, run_with_a_death(between, before=before))


def die_coordinating(between, kind, *, after):
    """Begins a run in a process that is killed before or after a step."""
    between.accept()
    between.start()
    child = os.fork()
    if child == 0:
        try:
            between.run(lambda channel: Watched(channel, kind, end_this_process, after=after))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_a_coordinator_is_killed_at_a_step_and_goes_on(consortium, without_charts, name, kind, after):
    between = consortium(*STUDIES[name])
    die_coordinating(between, kind, after=after)
    assert not (between.folder / "run" / "certificate.json").exists()
    check(between, between.run())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_a_coordinator_that_goes_on_costs_no_further_attempt(consortium, without_charts, name, kind, after):
    """Without a seed, and without a spare attempt: what hospitals had sent in the round under way they send again."""
    privacy, federation = STUDIES[name]
    between = consortium(privacy, federation, seed=None)
    die_coordinating(between, kind, after=after)
    asked: list[type] = []
    record = between.run(lambda channel: Listed(channel, asked))
    assert record.certificate["stopped"] is None
    assert {receipt["releases"] for receipt in between.receipts().values()} == {
        between.study.rounds * between.study.local_steps
    }
    if kind is Upload:
        assert asked.index(Upload) < asked.index(Announce), "the noted attempt first"
    assert not (between.folder / "run" / "attempt.json").exists()
    between.stop()


class Listed:
    """A channel that lists the work that is asked for."""

    def __init__(self, inner, asked):
        self.inner, self.asked = inner, asked

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        self.asked.append(type(next(iter(requests.values())).work))
        return self.inner.ask(requests, deadline_s)


@pytest.mark.parametrize("spare", [0, 1])
def test_what_was_charged_and_lost_is_paid_for_or_ends_the_run(consortium, without_charts, spare):
    """Without a seed a further attempt is a further release: the study pays for it beforehand, or stops."""
    between = consortium({**MASKED, "spare_attempts": spare}, {"rounds": 3}, seed=None)
    record = run_with_a_death(between, before=True)
    receipts = between.receipts()
    if spare:
        assert record.certificate["stopped"] is None
        assert {receipt["releases"] for receipt in receipts.values()} == {4}, "the lost upload counts"
        assert record.certificate["statement"]["releases"] == 4
    else:
        assert record.certificate["stopped"] is not None
        assert record.certificate["rounds"] == 1
        assert {receipt["releases"] for receipt in receipts.values()} == {2}
    between.stop()


def test_a_run_that_has_ended_is_only_reported_again(consortium, without_charts):
    between = consortium(*STUDIES["masked"])
    between.accept()
    between.start()
    first = between.run()
    between.stop()
    Path(between.folder / "run" / "report.html").unlink()
    assert between.run().certificate == first.certificate
    assert (between.folder / "run" / "report.html").exists()
    assert not between.agents, "all have taken the model: none is asked again"


@pytest.mark.parametrize("name", STUDIES)
def test_a_coordinator_is_killed_after_every_exchange_and_goes_on(consortium, without_charts, name):
    """After the first exchange, then after the second of the run that goes on, and so forth until one is whole."""
    between = consortium(*STUDIES[name])
    between.accept()
    between.start()
    for number in itertools.count(1):
        child = os.fork()
        if child == 0:
            try:
                between.run(partial(Counted, number=number))
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 3
    for agent in NAMES:
        assert (between.home(agent) / "finished" / between.study.digest / "certificate.json").exists()
    check(between, between.run())


def test_a_hospital_that_was_away_at_the_end_gets_the_model_with_the_same_command(consortium, without_charts):
    between = consortium(*STUDIES["nobody"])
    between.accept()
    between.start()
    first = between.run(lambda channel: Away(channel, VICTIM))
    taken = between.folder / "run" / "handed_out.json"
    assert json.loads(taken.read_text()) == [name for name in NAMES if name != VICTIM]
    kept = between.home(VICTIM) / "finished"
    assert not kept.exists()
    assert between.run().certificate == first.certificate
    assert json.loads(taken.read_text()) == list(NAMES)
    assert (kept / between.study.digest / "model.safetensors").exists()
    between.stop()


class Counted:
    """A channel that ends its process after so many exchanges."""

    def __init__(self, inner, number):
        self.inner, self.left = inner, number

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        found = self.inner.ask(requests, deadline_s)
        self.left -= 1
        if not self.left:
            end_this_process()
        return found


class Away:
    """A channel that does not reach one hospital at the end."""

    def __init__(self, inner, name):
        self.inner, self.name = inner, name

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        if not isinstance(next(iter(requests.values())).work, Finish):
            return self.inner.ask(requests, deadline_s)
        replies, failures = self.inner.ask({n: r for n, r in requests.items() if n != self.name}, deadline_s)
        return replies, failures | {self.name: Failure(FailureCode.GONE, Stage.TRANSPORT)}
