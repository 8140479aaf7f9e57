"""Several runs at once: each is the run it would be alone, and none is lost when another fails or all are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError, StudyError, WardroundError
from wardround.records.folder import RunRecord
from wardround.records.reading import read_json
from wardround.simulation.run import run_study
from wardround.simulation.sweeps import many
from wardround.simulation.sweeps.many import finish_many, run_many


class Watching(Silent):
    def __init__(self):
        self.ended = []

    def progress(self, done, total, detail=""):
        if detail:
            self.ended.append((done, total, detail))


@pytest.fixture
def no_process(monkeypatch):
    """Fails the test if a process is started or pictures are read."""

    def refuse(*arguments, **options):
        raise AssertionError("nothing was to be started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(many, "read_images", refuse)


@pytest.mark.thorough
def test_a_run_in_a_process_of_its_own_is_the_run_alone_and_a_failure_loses_no_other(
    tiny_study, finished, tmp_path
):
    studies = {
        "broken": tiny_study(model={"name": "unet"}),
        "whole": tiny_study(),
        "absent": tiny_study(data={"layout": "folder", "path": str(tmp_path / "nowhere")}),
        "homeless": tiny_study(privacy={"ledger": str(tmp_path / "no-folder" / "ledger.sqlite")}),
    }
    watching = Watching()
    with pytest.raises(WardroundError) as failed:
        run_many(studies, tmp_path / "out", watching)
    assert "3 of 4 did not" in str(failed.value)
    assert "broken: model.name must be one of" in str(failed.value)
    assert "nowhere" in str(failed.value)
    assert "must lie in a folder that exists" in str(failed.value), "what only the run itself finds, in its words"
    assert {(total, detail) for _, total, detail in watching.ended} == {(2, "whole done"), (2, "homeless failed")}
    alone, here = (read_json(path / "certificate.json") for path in (finished, tmp_path / "out" / "whole"))
    assert here["model_sha256"] == alone["model_sha256"]
    assert here["statement"] == alone["statement"]


def test_what_is_finished_is_read_and_not_run_again(tiny_study, finished, tmp_path, no_process):
    shutil.copytree(finished, tmp_path / "b")
    shutil.copytree(finished, tmp_path / "a")
    records = run_many({"b": tiny_study(), "a": tiny_study()}, tmp_path, Silent())
    assert list(records) == ["b", "a"]
    assert records["a"].certificate == read_json(finished / "certificate.json")


def test_a_folder_with_a_run_of_another_study_is_refused_before_anything_starts(
    tiny_study, finished, tmp_path, no_process
):
    shutil.copytree(finished, tmp_path / "taken")
    with pytest.raises(RecordError, match="is of another one"):
        run_many({"new": tiny_study(), "taken": tiny_study(privacy={"epsilon": 2.0})}, tmp_path, Silent())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/root"])
def test_a_name_that_leads_elsewhere_is_refused(tiny_study, tmp_path, no_process, name):
    with pytest.raises(StudyError, match="plain folder name"):
        run_many({name: tiny_study()}, tmp_path, Silent())


@pytest.mark.parametrize(
    ("cores", "free", "runs", "memory", "threads", "asked", "expected"),
    [
        (8, None, 3, [], [], None, 3),
        (8, None, 30, [], [], None, 8),
        (8, None, 30, [], [2, 4], None, 2),
        (8, 10, 30, [3, 1], [], None, 3),
        (8, 10, 30, [3, 1], [], 2, 2),
        (2, 10, 30, [300], [16], None, 1),
    ],
)
def test_runs_at_once_fit_cores_and_memory(monkeypatch, cores, free, runs, memory, threads, asked, expected):
    monkeypatch.setattr(many, "cores", lambda: cores)
    monkeypatch.setattr(many, "free_memory", lambda: free)
    assert many.workers_for(runs, memory, threads, asked) == expected


def test_workers_times_threads_is_at_most_the_cores(monkeypatch, tiny_study, tmp_path):
    started = []
    monkeypatch.setattr(many, "cores", lambda: 7)
    monkeypatch.setattr(many, "memory_of", lambda study: 1)
    monkeypatch.setattr(many, "read_images", lambda study, observer: None)

    def ended(jobs, workers, observer):
        started.append((jobs, workers))
        yield from ()

    monkeypatch.setattr(many, "_ended", ended)
    monkeypatch.setattr(RunRecord, "read", lambda path: path)
    studies = {str(n): tiny_study(performance={"threads": None}, study={"seed": n}) for n in range(3)}
    run_many(studies, tmp_path, Silent())
    [(jobs, workers)] = started
    assert workers == 3
    assert {job.threads for job in jobs} == {2}
    for job in jobs:
        assert "threads" not in job.study.read_text(), "a seed takes one, whatever its share of the cores"


def test_memory_is_what_the_system_says():
    free = many.free_memory()
    assert free is None or free > 10_000_000
    assert 1 <= many.cores() <= (os.cpu_count() or 1)


@pytest.mark.slow
def test_killed_at_any_moment_everything_goes_on_and_ends_as_if_nothing_had_happened(tiny, cache, tmp_path):
    """The parent is killed with SIGKILL: its children end by themselves, and a second call resumes their runs."""
    studies = {
        name: parse_study(tiny(study={"seed": seed}, federation={"rounds": 100, "evaluate_every": 100}))
        for name, seed in (("a", 1), ("b", 2))
    }
    for name, study in studies.items():
        (tmp_path / f"{name}.study").write_text(study.to_toml())
    script = (
        "import sys; from pathlib import Path\n"
        "from wardround.config import read_study; from wardround.simulation.sweeps.many import run_many\n"
        "from wardround.coordinator.observer import Silent\n"
        f"root = Path({str(tmp_path)!r})\n"
        "run_many({n: read_study(root / f'{n}.study') for n in 'ab'}, root / 'out', Silent(), workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    begun = tmp_path / "out" / "a" / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while not begun.exists() and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert begun.exists()
    assert not (tmp_path / "out" / "a" / "certificate.json").exists()
    while time.monotonic() < deadline:
        found = finish_many(studies, tmp_path / "out", Silent())
        if not found.failures:
            break
        assert all("One process at a time" in why for why in found.failures.values())  # one has not noticed yet
        time.sleep(0.2)
    for name, study in studies.items():
        alone = run_study(study, tmp_path / "alone" / name, Silent())
        assert found.records[name].certificate["model_sha256"] == alone.certificate["model_sha256"]
        assert found.records[name].certificate["statement"] == alone.certificate["statement"]


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_it_started(tiny_study, tmp_path, monkeypatch):
    started = []
    popen, sleep, interrupted = subprocess.Popen, time.sleep, [False]

    def remember(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupt(seconds):
        if (tmp_path / "a" / "rounds.jsonl").exists() and not interrupted[0]:
            interrupted[0] = True
            raise KeyboardInterrupt
        sleep(0.01)

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_many({"a": tiny_study(federation={"rounds": 2000})}, tmp_path, Silent())
    assert [process.poll() is not None for process in started] == [True]
    assert not (tmp_path / "a" / "certificate.json").exists()
    assert json.loads((tmp_path / "a" / "environment.json").read_text())["threads"] == 1
