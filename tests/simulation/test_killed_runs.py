"""Runs in processes that are killed at any moment go on, bit for bit, and are charged once."""

import os
import signal
import time

import pytest
from tests.simulation.killed import begun, killed_after, lines_in
from tests.simulation.runs import charges, read_json, run_study, what_counts

ROUNDS = 150


@pytest.fixture
def long_study(study_file):
    def write(**sections):
        return study_file(federation={"rounds": ROUNDS, "evaluate_every": ROUNDS}, **sections)

    return write


@pytest.fixture
def whole(tiny_study, tmp_path):
    run_study(tiny_study(federation={"rounds": ROUNDS, "evaluate_every": ROUNDS}), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.thorough
def test_a_killed_run_resumes_bit_for_bit_and_was_charged_once(long_study, whole, tmp_path, wardround):
    out = tmp_path / "killed"
    process = begun("run", long_study(), "--out", out)
    assert killed_after(process, out, 5), "it was killed in the middle"
    assert lines_in(out / "rounds.jsonl") < ROUNDS

    assert wardround("resume", out).code == 0

    assert what_counts(out) == what_counts(whole)
    assert charges(out / "ledger.sqlite") == charges(whole / "ledger.sqlite")


@pytest.mark.slow
def test_a_run_killed_at_many_moments_resumes_bit_for_bit(long_study, whole, tmp_path, wardround):
    out = tmp_path / "killed"
    assert killed_after(begun("run", long_study(), "--out", out), out, 1)
    for lines in (2, 23, 57, 101):
        assert killed_after(begun("resume", out), out, lines)
    assert wardround("resume", out).code == 0
    assert what_counts(out) == what_counts(whole)
    assert charges(out / "ledger.sqlite") == charges(whole / "ledger.sqlite")


@pytest.mark.slow
def test_a_run_killed_at_any_time_of_its_life_can_be_begun_or_resumed(long_study, whole, tmp_path, wardround):
    path = long_study()
    for number, wait_s in enumerate((0.3, 1.0, 1.6, 1.9, 2.2, 2.5)):
        out = tmp_path / f"killed-{number}"
        process = begun("run", path, "--out", out)
        time.sleep(wait_s)
        process.kill()
        process.wait()
        again = ("resume", out) if (out / "study.toml").exists() else ("run", path, "--out", out)
        assert wardround(*again).code == 0
        assert what_counts(out) == what_counts(whole)


@pytest.mark.slow
def test_an_unseeded_run_that_is_killed_never_overspends(long_study, tmp_path, wardround):
    out = tmp_path / "killed"
    assert killed_after(begun("run", long_study(study={"seed": None}), "--out", out), out, 30)
    before = charges(out / "ledger.sqlite")
    assert wardround("resume", out).code == 0
    certificate = read_json(out / "certificate.json")
    assert certificate["rounds"] >= ROUNDS - 1
    for name, entries in charges(out / "ledger.sqlite").items():
        assert entries[: len(before[name])] == before[name], "a resume resets no ledger"
        assert len(entries) >= 1 + certificate["rounds"]
        assert certificate["ledgers"][name]["epsilon_spent"] <= 8


@pytest.mark.slow
def test_a_second_process_on_the_same_folder_is_refused(long_study, tmp_path, wardround):
    path, out = long_study(), tmp_path / "run"
    process = begun("run", path, "--out", out)
    try:
        while process.poll() is None and lines_in(out / "rounds.jsonl") < 2:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGSTOP)
        for command in (("resume", out), ("run", path, "--out", out, "--fresh")):
            ended = wardround(*command)
            assert ended.code == 2
            # The second sentence where the first process was stopped within a charge.
            assert "another one does" in ended.err or "another process is writing to it" in ended.err
        assert lines_in(out / "rounds.jsonl") >= 2
    finally:
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait() == 0
