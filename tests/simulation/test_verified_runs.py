"""Honest runs hold: interrupted, resumed, finished, killed between two writes, and with a history cut short."""

from contextlib import suppress

import pytest
from tests.cases import family
from tests.simulation.killed import Killed, KilledWrite
from tests.simulation.mutations import code_of, verified
from tests.simulation.runs import InterruptingRound, interrupted, resume_run, run_study

from wardround.boundary.private import write_whole
from wardround.records import folder as records
from wardround.records.arrays import arrays_from_file, arrays_to_bytes

HONEST: dict[str, dict[str, dict[str, object]]] = {
    "seeded": {},
    "unseeded": {"study": {"seed": None}, "privacy": {"epsilon_limit": 20.0}},
    "masked": {"privacy": {"sum": "masked", "sampling_prob": 0.5}, "study": {"seed": None}},
    "public size": {"privacy": {"accountant": "pld", "num_patients": 32, "sampling_prob": 0.5}},
    "fedavg": {"federation": {"strategy": "fedavg", "local_steps": 2}, "privacy": {"trust": "nobody"}},
    "correlated": {"privacy": {"plan": "correlated-noise", "cohorts": 2}},
    "every round": {"performance": {"keep": "every-round"}},
    "not private": {"privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}},
}


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("kind", family(HONEST, keep=["unseeded"]))
def test_honest_runs_hold_when_interrupted_resumed_and_finished(tiny_study, tmp_path, kind):
    out = tmp_path / "run"
    interrupted(tiny_study(**HONEST[kind]), out, InterruptingRound(3))
    stopped = verified(out)
    assert not stopped.signed.is_finished
    assert stopped.signed.rounds == 2
    resume_run(out)
    done = verified(out)
    assert done.signed.is_finished
    assert done.unchecked == ()
    assert any("contains the line" in line for line in done.checks)


@pytest.mark.thorough
def test_a_run_that_stopped_before_its_first_round_holds(tiny_study, tmp_path, wardround):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}, federation={"rounds": 1}), out, InterruptingRound(1))
    assert verified(out).signed.rounds == 0
    assert wardround("resume", out).code == 0
    assert verified(out).signed.is_finished


def killed_at(monkeypatch, study, out, moment, *, after):
    """Runs a study until so many files were written, and stops before or after the last of them; True if it stopped."""
    killed = KilledWrite(moment, after=after)
    with monkeypatch.context() as patch:
        patch.setattr(records, "write_whole", killed.of(write_whole))
        patch.setattr(records.RunFolder, "append_round", killed.of(records.RunFolder.append_round))
        with suppress(Killed):
            run_study(study, out)
            return False
    return True


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", family(range(1, 22), keep=[9]))
def test_a_run_killed_between_two_writes_holds_and_goes_on(tiny_study, tmp_path, monkeypatch, moment, after):
    """Each file in its turn: the record, a line, a checkpoint, the model, the certificate."""
    out = tmp_path / "run"
    study = tiny_study(federation={"rounds": 2}, performance={"keep": "every-round"})
    stopped = killed_at(monkeypatch, study, out, moment, after=after)
    if not (out / "study.toml").exists():
        return
    verified(out)
    if stopped:
        resume_run(out)
    assert verified(out).signed.is_finished


def test_a_history_that_was_cut_holds_at_every_moment(tiny_study, tmp_path, monkeypatch):
    """A run that goes back to an earlier checkpoint signs the shorter history before it cuts the longer one."""
    out = tmp_path / "run"
    study = tiny_study(federation={"rounds": 3}, performance={"keep": "every-round"})
    interrupted(study, out, InterruptingRound(3))
    newest = out / "checkpoints" / "round-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])  # cut off by a power failure
    assert verified(out).signed.rounds == 2

    def killed(*_arguments, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(records.RunFolder, "write_text", killed)
        with suppress(Killed):
            resume_run(out)
    assert verified(out).signed.rounds == 1
    resume_run(out)
    assert verified(out).signed.is_finished


def test_a_planted_checkpoint_is_not_gone_on_from(tiny_study, tmp_path):
    """One that is whole and was not signed: of this run's next round, or in the place of the last one."""
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    last = out / "checkpoints" / "round-000002.safetensors"
    content = last.read_bytes()
    planted = arrays_to_bytes({name: array + 1 for name, array in arrays_from_file(last).items()})
    last.with_name("round-000003.safetensors").write_bytes(planted)
    assert code_of(resume_run, out) == "record-added-checkpoint"
    last.with_name("round-000003.safetensors").unlink()
    last.write_bytes(planted)
    assert code_of(resume_run, out) == "record-edited-checkpoint"
    last.write_bytes(content)
    resume_run(out)


def test_a_run_that_lost_every_checkpoint_begins_anew(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    verified(out)
    record = resume_run(out)
    assert [line["round"] for line in record.rounds] == [1, 2, 3, 4]
    assert verified(out).signed.is_finished
