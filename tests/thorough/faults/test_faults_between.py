"""The same faults between hospitals: below an agent's folder, and below the coordinator's, while a study runs.

Two agents are in threads of this process and meet no fault, nor does the coordinator where the third agent does.
"""

import itertools
import json
import os
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
from tests.thorough.faults.runs import (
    NEVER,
    ONCE,
    TERMINATED,
    charged_in,
    faults,
    ill_said,
    released_to,
    uncharged,
    wrong_at_the_end,
)
from tests.transport.consortium import ALONE, MASKED, NAMES, Consortium, study_of
from tests.transport.hosted import agent_of

from wardround.boundary.machine import machine_error
from wardround.secure_aggregation.keys.pins import Pins

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the layer is compiled with gcc"),
]

VICTIM = NAMES[1]
POINTS = 20
LOCAL = {"strategy": "fedavg", "rounds": 2, "local_steps": 2}
STUDIES: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {
    "masked": (MASKED, {"rounds": 2}, 7),
    "unseeded and masked": ({**MASKED, "spare_attempts": 2}, {"rounds": 2}, None),
    "nobody": (ALONE, LOCAL, 7),
    "unseeded": ({**ALONE, "spare_attempts": 2}, LOCAL, None),
}


class Between:
    """Homes of three hospitals, and a coordinator's folder in which everything may fail: keys, record, notes."""

    def __init__(self, machine, cache, folder, name):
        privacy, federation, seed = STUDIES[name]
        study = study_of(cache, privacy, federation, seed=seed)
        folder.mkdir()
        self.machine, self.is_seeded = machine, seed is not None
        self.homes = Consortium(folder, study)
        self.homes.accept()
        self.folder = folder / "coordinator"
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "keys").mkdir()
        self.homes.coordinator.write(self.folder / "keys" / "identity.pem")
        Pins(self.homes.keys).write(self.folder / "keys" / "pins.toml")
        (self.folder / "study.toml").write_text(study.to_toml())
        self.out = self.folder / "run"

    def hosting(self, *without):
        """The agents of the others."""
        stack = ExitStack()
        for name in NAMES:
            if name not in without:
                stack.enter_context(agent_of(self.homes.home(name)))
        return stack

    def coordinate(self, **fault):
        sockets = [f"--hospital={name}={self.homes.home(name) / 'agent.sock'}" for name in NAMES]
        return self.machine.command(
            self.folder, "coordinate", self.folder / "study.toml", *sockets, "--home", self.folder / "keys",
            "--out", self.out, "--patience", 0.3, **fault,
        )  # fmt: skip

    def agent(self, **fault):
        """Starts the victim's agent; returns its process, once it waits or has ended."""
        home = self.homes.home(VICTIM)
        pid = self.machine.command(home, "agent", "--home", home, background=True, **fault)["pid"]
        while not (home / "agent.sock").exists() and is_running(pid):
            time.sleep(0.01)
        return pid

    def end(self, pid):
        """Ends an agent as an operating system does."""
        if is_running(pid):
            os.kill(pid, signal.SIGTERM)
        return self.machine.ended(pid)

    def charged(self):
        return {
            name: rounds
            for hospital in NAMES
            for name, rounds in charged_in(self.homes.home(hospital) / "ledger.sqlite").items()
        }

    def weights(self):
        return (self.out / "model.safetensors").read_bytes()

    def wrong(self):
        yield from uncharged(released_to(self.folder, self.is_seeded), self.charged())

    def wrong_at_the_end(self, whole):
        yield from wrong_at_the_end(self, whole, "--pins", self.folder / "keys")


def is_running(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def make(machine, cache, tmp_path):
    numbers = itertools.count()
    return lambda name: Between(machine, cache, tmp_path / f"{next(numbers)}", name)


def whole_of(make, name):
    """A run that met no fault, and the operations of the victim's agent and of the coordinator."""
    whole = make(name)
    with whole.hosting(VICTIM):
        pid = whole.agent(at=NEVER, kind=ONCE)
        coordinated = whole.coordinate(at=NEVER, kind=ONCE)
        agent = whole.end(pid)
    assert (coordinated["code"], agent["code"]) == (0, 0), (coordinated["said"], agent["said"])
    assert not list(whole.wrong_at_the_end(whole))
    return whole, agent["count"], coordinated["count"]


def goes_on(between, whole):
    """Yields what is wrong when all agents are there and the same command is given again."""
    with between.hosting():
        ended = between.coordinate()
    yield from [f"it does not go on: {ended['said']}"] if ended["code"] else between.wrong_at_the_end(whole)


def ill_answered(between, agent, coordinated, fault):
    """Yields what is wrong in the words of an agent that met a fault, and of the coordinator that it did not answer."""
    home = between.homes.home(VICTIM)
    said = [line for line in agent["said"].splitlines() if line.startswith("wardround: ")]
    if "Traceback" in agent["said"] or agent["code"] not in (0, 2):
        yield f"code {agent['code']}: {agent['said'][-2000:]}"
        return
    found = [line for line in coordinated["said"].splitlines() if line.startswith("wardround: ")]
    if coordinated["code"] == 0 and agent["code"] == 0:
        return  # tried again, or not needed
    if coordinated["code"] not in (0, 2) or "Traceback" in coordinated["said"]:
        yield f"the coordinator ends with {coordinated['code']}: {coordinated['said'][-2000:]}"
    elif coordinated["code"] == 2 and (len(found) != 1 or VICTIM not in found[0]):
        yield f"the coordinator does not name the hospital: {found}"
    log = home / "agent.log"
    codes = set()
    for line in log.read_text().splitlines() if log.exists() else []:
        with suppress(json.JSONDecodeError):  # the fault may have met the line itself
            codes.add(json.loads(line).get("error", {}).get("code"))
    cause = machine_error(OSError(fault["error"], ""), "a file")
    assert cause is not None
    causes = [os.strerror(fault["error"]), *(["Input/output error", "SQLite"] if fault["kind"] == ONCE else [])]
    # SQLite does not say why a disk refuses: see `ill_said`.
    known = {cause.code, *(["machine-disk"] if fault["kind"] == ONCE else [])}
    if not (codes & known or any(cause in line for cause in causes for line in said)):
        yield f"not the cause {fault}: {agent['code']}, {said}, {codes}; {found}"


@pytest.mark.parametrize("name", STUDIES)
def test_a_fault_anywhere_at_an_agent_is_one_sentence_and_the_run_goes_on(make, name):
    whole, operations, _ = whole_of(make, name)
    assert operations > 100
    wrong: list[object] = []
    for fault in faults(POINTS, operations, np.random.default_rng(1)):
        between = make(name)
        with between.hosting(VICTIM):
            pid = between.agent(**fault)
            coordinated = between.coordinate()
            agent = between.end(pid)
        found = [*ill_answered(between, agent, coordinated, fault), *between.wrong(), *goes_on(between, whole)]
        wrong += [(fault, each) for each in found]
    assert wrong == []


@pytest.mark.parametrize("name", STUDIES)
def test_a_fault_anywhere_at_the_coordinator_is_one_sentence_and_the_run_goes_on(make, name):
    whole, _, operations = whole_of(make, name)
    assert operations > 100
    wrong: list[object] = []
    for fault in faults(POINTS, operations, np.random.default_rng(1)):
        between = make(name)
        with between.hosting():
            ended = between.coordinate(**fault)
        found = [*ill_said(ended, fault, between.folder), *between.wrong(), *goes_on(between, whole)]
        wrong += [(fault, each) for each in found]
    assert wrong == []


@pytest.mark.parametrize("name", ["masked", "unseeded"])
def test_an_agent_and_a_coordinator_that_are_told_to_end_end_by_themselves_and_the_run_goes_on(make, name):
    whole, at_agent, at_coordinator = whole_of(make, name)
    generator, wrong = np.random.default_rng(2), list[object]()
    for number in range(12):
        between = make(name)
        operations = at_coordinator if number % 2 else at_agent
        fault = {"at": int(generator.integers(1, operations)), "kind": TERMINATED}
        with between.hosting(VICTIM):
            pid = between.agent(**({} if number % 2 else fault))
            coordinated = between.coordinate(**(fault if number % 2 else {}))
            agent = between.end(pid)
        codes = (128 + signal.SIGTERM, 0, 2) if number % 2 else (0, 2)
        said = agent["said"] + coordinated["said"]
        if (
            agent["code"] not in (0, 128 + signal.SIGTERM)
            or coordinated["code"] not in codes
            or "Traceback" in said
        ):
            wrong.append((fault, agent, coordinated))
        if coordinated["code"] > 2 and "the same command" not in coordinated["said"]:
            wrong.append((fault, coordinated["said"]))
        wrong += [(fault, each) for each in (*between.wrong(), *goes_on(between, whole))]
    assert wrong == []
