"""A process killed at any step of a masked round: nothing has left uncharged, and the run is completed all the same.

SIGKILL loses what a process has not handed to the system; what the system has not brought to the disk a power cut
loses too, and no test here can see that: `tests/ledger/test_file.py` asks SQLite whether it waits for the disk.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest
from tests.cases import family
from tests.simulation.masked.killed_rounds import DONE, STEPS, UNPAID
from tests.simulation.runs import what_counts
from tests.simulation.test_real_data import PICTURES, ROOT

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, SelfComposedEvent
from wardround.config import read_study
from wardround.ledger.entry import GENESIS

ROUNDS = 4
MASKED = {"sum": "masked", "trust": "secure-aggregation", "epsilon_limit": 50.0}
SEEDS = pytest.mark.parametrize("seed", family([7, None], keep=[None]), ids=["seeded", "in earnest"])


@pytest.fixture(scope="module")
def phantoms(tiny_study, tmp_path_factory):
    """A study of phantoms by its seed, as a file."""
    folder = tmp_path_factory.mktemp("phantoms")

    def write(seed):
        path = folder / f"{seed}.toml"
        path.write_text(tiny_study(privacy={**MASKED, "num_patients": 32}, study={"seed": seed}).to_toml())
        return path

    return write


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """A study of the chest X-rays likewise."""
    if not PICTURES.is_dir():
        pytest.skip(f"the real chest X-rays are not at {PICTURES}; set WARDROUND_DATA to their folder")
    folder = tmp_path_factory.mktemp("radiographs")

    def write(seed):
        path = folder / f"{seed}.toml"
        changed = {
            "study": {} if seed is None else {"seed": seed},
            "data": {"path": str(PICTURES), "image_size": 32},
            "privacy": {**MASKED, "num_patients": 2220},
            "federation": {"rounds": ROUNDS, "evaluate_every": ROUNDS, "compare": (), "score_rounds": 0},
            "performance": {"cache": str(folder / "cache"), "threads": 1},
        }
        path.write_text(read_study(ROOT / "examples" / "chest_xray.toml", changed).to_toml())
        return path

    return write


@pytest.fixture(scope="module")
def killed_rounds(phantoms):
    """Runs commands in processes of their own; see `tests.simulation.masked.killed_rounds`."""
    paths = [str(ROOT), str(ROOT / "src")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.simulation.masked.killed_rounds", phantoms(7)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip

    def run(*arguments, wire, log, step=None):
        command = {
            "arguments": [*map(str, arguments)],
            "wire": str(wire),
            "log": str(log),
            "step": step,
        }
        print(json.dumps(command), file=driver.stdin, flush=True)
        assert driver.stdout is not None
        return int(driver.stdout.readline())

    with driver:
        yield run
        driver.communicate()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def charged(out, scratch):
    """Hospital and round of every charge on disk, after a walk along the chain; the file itself is not opened."""
    copy = scratch / "ledger-as-it-lies"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in out.glob("ledger.sqlite*"):  # with a journal, where a transaction was cut off
        shutil.copy(path, copy)
    with closing(sqlite3.connect(copy / "ledger.sqlite")) as file:
        rows = file.execute("SELECT sequence, hash, body FROM entries ORDER BY sequence").fetchall()
    head, hospitals = GENESIS, {}
    paid: Counter[tuple[str, int]] = Counter()
    for sequence, recorded, body in rows:
        entry, head = json.loads(body), hashlib.sha256((head + body).encode()).hexdigest()
        assert recorded == head
        if entry["kind"] == "begun":
            hospitals[sequence] = entry["hospital"]
        if entry["kind"] == "charge":
            paid[hospitals[entry["begun"]], int(entry["release"].split("/")[0])] += 1
    return paid


def check_wire(wire, paid, *, seeded):
    """What has left was charged: each time, or once where all times are the same release under other masks."""
    sent = lines(wire)
    assert len({line["sha256"] for line in sent}) == len(sent), "masks are never used again"
    assert len({(line["hospital"], line["round"], line["attempt"]) for line in sent}) == len(sent)
    for place, uploads in Counter((line["hospital"], line["round"]) for line in sent).items():
        assert paid[place] >= (1 if seeded else uploads), f"{place} sent {uploads} and paid for {paid[place]}"
    return sent


class KilledRun:
    """A run, killed at one step or several, with what must hold after each kill and at its end."""

    def __init__(self, killed_rounds, study, folder, *, seeded):
        folder.mkdir()
        self.out, self.wire, self.log = folder / "run", folder / "wire.jsonl", folder / "log.txt"
        self.command, self.study, self.folder, self.seeded = killed_rounds, study, folder, seeded
        self.hospitals = [f"hospital-{number + 1}" for number in range(read_study(study).hospitals.count)]
        self.repeated = 0

    def go(self, step=None):
        begun = (self.out / "study.toml").exists()
        arguments = ("resume", self.out) if begun else ("run", self.study, "--rehearsal", "--out", self.out)
        return self.command(*arguments, wire=self.wire, log=self.log, step=step)

    def charged(self):
        return charged(self.out, self.folder) if self.out.exists() else Counter()

    def kill(self, step):
        round, before = STEPS[step][0], self.charged()
        assert self.go(step) == -signal.SIGKILL, self.log.read_text()
        paid = self.charged()
        check_wire(self.wire, paid, seeded=self.seeded)
        for name in self.hospitals:
            again = not (self.seeded and before[name, round])
            assert paid[name, round] - before[name, round] == (again and step not in UNPAID), f"{name}, {step}"
        self.repeated += not self.seeded and step not in (*UNPAID, *DONE)

    def complete(self):
        assert self.go() == 0, self.log.read_text()
        paid = self.charged()
        sent = check_wire(self.wire, paid, seeded=self.seeded)
        places = {(name, round) for name in self.hospitals for round in range(1, ROUNDS + 1)}
        assert {(line["hospital"], line["round"]) for line in sent} == set(paid) == places
        releases = ROUNDS + self.repeated
        assert {sum(paid[name, round] for round in range(1, ROUNDS + 1)) for name in self.hospitals} == {releases}

        certificate = json.loads((self.out / "certificate.json").read_text())
        statement = certificate["statement"]
        assert (certificate["rounds"], certificate["stopped"]) == (ROUNDS, None)
        assert statement["releases"] == releases
        sums = SelfComposedEvent(GaussianEvent(statement["noise_multiplier"]), releases)
        spent = epsilon_of(sums, statement["delta"], statement["accountant"])
        assert spent <= statement["epsilon"] <= spent * (1 + 1e-6)
        [printed] = re.findall(r"^epsilon = ([\d.]+) at delta", self.log.read_text(), re.MULTILINE)
        assert float(printed) >= statement["epsilon"]


def whole(killed_rounds, study, folder):
    """What counts of the run that nobody kills."""
    run = KilledRun(killed_rounds, study, folder / "whole", seeded=True)
    run.complete()
    return what_counts(run.out)


@pytest.mark.thorough
@SEEDS
def test_a_run_killed_at_any_step_is_completed_and_nothing_left_uncharged(killed_rounds, phantoms, tmp_path, seed):
    study = phantoms(seed)
    expected = None if seed is None else whole(killed_rounds, study, tmp_path)
    for number, step in enumerate(STEPS):
        run = KilledRun(killed_rounds, study, tmp_path / str(number), seeded=seed is not None)
        run.kill(step)
        run.complete()
        if seed is not None:
            assert what_counts(run.out) == expected, step


@pytest.mark.real_data
@pytest.mark.slow
@SEEDS
def test_a_run_of_radiographs_killed_at_one_step_after_another_is_completed_and_nothing_left_uncharged(
    killed_rounds, radiographs, tmp_path, seed
):
    study = radiographs(seed)
    run = KilledRun(killed_rounds, study, tmp_path / "killed", seeded=seed is not None)
    for step in STEPS:
        run.kill(step)
    run.complete()
    if seed is not None:
        assert what_counts(run.out) == whole(killed_rounds, study, tmp_path)
