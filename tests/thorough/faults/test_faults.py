"""Faults at every stage of runs and commands: one sentence with the cause, nothing half-written, and the run goes on.

A preloaded library (`layer.c`) fails one file operation below a run's folders, or all from then on, or cuts a write in
the middle, or ends the process there. Every fault is tried on a run of its own.
"""

import itertools
import shutil
import signal

import numpy as np
import pytest
from tests.thorough.faults.runs import (
    CAUSES,
    FROM_THEN_ON,
    HALF_A_WRITE,
    KILLED,
    NEVER,
    ONCE,
    TERMINATED,
    Run,
    faults,
    ill_said,
)

from wardround.config import parse_study

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the layer is compiled with gcc"),
]

MASKED = {"sum": "masked", "num_patients": 32}
SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "seeded": {},
    "unseeded": {"study": {"seed": None}, "privacy": {"epsilon_limit": 100.0}},
    "seeded and masked": {"privacy": MASKED},
    "unseeded and masked": {"study": {"seed": None}, "privacy": {**MASKED, "epsilon_limit": 100.0}},
}
POINTS = 40
"""Faults of each kind of run; with those of commands there are more than 200."""


@pytest.fixture
def make(machine, tiny, tmp_path):
    numbers = itertools.count()

    def make(setting):
        folder = tmp_path / f"run-{next(numbers)}"
        raw = tiny(**SETTINGS[setting], performance={"cache": str(folder / "cache")})
        run = Run(machine, raw, folder)
        run.write(parse_study(raw).to_toml())
        return run

    return make


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_fault_anywhere_in_a_run_is_one_sentence_and_the_run_goes_on(make, setting):
    whole = make(setting)
    counted = whole.start(at=NEVER, kind=ONCE)
    assert counted["code"] == 0, counted["said"]
    assert counted["count"] > 300
    wrong = list(whole.wrong_at_the_end(whole))
    for fault in faults(POINTS, counted["count"], np.random.default_rng(1)):
        run = make(setting)
        found = list(ill_said(run.start(**fault), fault, run.folder))
        found += run.wrong()
        ended = run.go_on()
        found += [f"it does not go on: {ended['said']}"] if ended["code"] else run.wrong_at_the_end(whole)
        wrong += [(fault, each) for each in found]
        shutil.rmtree(run.folder)
    assert wrong == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_chain_of_kills_and_faults_ends_in_the_run_that_met_none(make, setting):
    whole, run = make(setting), make(setting)
    assert whole.start()["code"] == 0
    generator, wrong = np.random.default_rng(2), []
    codes = {KILLED: {-signal.SIGKILL}, TERMINATED: {128 + signal.SIGTERM, -signal.SIGTERM}}
    for kind, error in itertools.islice(zip(
        itertools.cycle((KILLED, FROM_THEN_ON, TERMINATED, ONCE, HALF_A_WRITE)), itertools.cycle(CAUSES), strict=False
    ), 30):  # fmt: skip
        fault = {"at": int(generator.integers(1, 150)), "kind": kind, "error": error}
        ended = run.go_on(**fault)
        wrong += [(fault, each) for each in run.wrong()]
        if ended["code"] == 0:
            continue
        if kind not in codes:
            wrong += [(fault, each) for each in ill_said(ended, fault, run.folder)]
        elif ended["code"] not in codes[kind]:
            wrong.append((fault, ended["said"]))
    ended = run.go_on()
    assert ended["code"] == 0, ended["said"]
    assert [*wrong, *run.wrong_at_the_end(whole)] == []


COMMANDS = {
    "report": lambda run: ("report", run.out),
    "verify": lambda run: ("verify", run.out),
    "ledger show": lambda run: ("ledger", "show", "--ledger", run.out / "ledger.sqlite"),
    "ledger verify": lambda run: ("ledger", "verify", "--ledger", run.out / "ledger.sqlite"),
    "ledger set-limit": lambda run: (
        "ledger", "set-limit", "9", "--delta", "1e-3", "--by", "ada", "--reason", "a test", "--ledger",
        run.out / "ledger.sqlite",
    ),
    "keys pin": lambda run: ("keys", "pin", run.folder / "pins.toml", "north", "11" * 32),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_fault_anywhere_in_a_command_is_one_sentence(make, machine, command):
    run = make("seeded")
    assert run.start()["code"] == 0
    kept = run.folder.with_name("kept")
    shutil.copytree(run.folder, kept)

    def again():
        shutil.rmtree(run.folder)
        shutil.copytree(kept, run.folder)

    wrong, arguments = [], COMMANDS[command](run)
    counted = machine.command(run.folder, *arguments, at=NEVER, kind=ONCE, reads=True)
    assert counted["code"] == 0, counted["said"]
    for fault in faults(min(12, counted["count"]), counted["count"], np.random.default_rng(3)):
        again()
        fault |= {"reads": True}
        wrong += [
            (fault, each) for each in ill_said(machine.command(run.folder, *arguments, **fault), fault, run.folder)
        ]
        ended = machine.command(run.folder, *arguments)
        wrong += [(fault, ended["said"])] if ended["code"] else []
    assert wrong == []


@pytest.mark.parametrize("years", [-70, -10, 100])
def test_a_clock_that_jumps_changes_nothing(make, years):
    whole, run = make("seeded"), make("seeded")
    assert whole.start()["code"] == 0
    assert run.start(at=250, kind=KILLED)["code"] == -signal.SIGKILL
    ended = run.go_on(clock=years * 31_556_952)
    assert ended["code"] == 0, ended["said"]
    assert [*run.wrong_at_the_end(whole)] == []


@pytest.mark.parametrize("megabytes", [1, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("setting", ["seeded", "seeded and masked"])
def test_memory_that_is_used_up_is_one_sentence_and_the_run_goes_on(make, setting, megabytes):
    whole, run = make(setting), make(setting)
    assert whole.start()["code"] == 0
    ended = run.start(memory=megabytes * 1_000_000)
    assert ended["code"] in (0, 2), ended["said"]
    assert "Traceback" not in ended["said"]
    assert ended["code"] == 0 or "memory" in ended["said"].splitlines()[-1]
    assert run.go_on()["code"] == 0
    assert [*run.wrong_at_the_end(whole)] == []
