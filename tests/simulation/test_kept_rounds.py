"""The released vectors of every round, kept: the same files whether or not a run was interrupted, and nothing else."""

import copy
from typing import Any

import pytest
from safetensors.numpy import load_file
from tests.cases import family
from tests.simulation.runs import InterruptingRound, interrupted, resume_run, run_study, what_counts
from tests.simulation.test_resume import LONG, SETTINGS

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import average_last_of, strategy_of
from wardround.coordinator.observer import Silent
from wardround.coordinator.rounds import Position, Schedule, run_rounds
from wardround.federation.aggregators import PlainSum
from wardround.federation.strategy import Call
from wardround.records.arrays import arrays_from_file
from wardround.simulation import run as simulation
from wardround.simulation.materials import gather

STATE = {
    "weights": "of the model",
    "velocity": "of the server, from released sums, or the mean of velocities whose every step was noised",
    "first_moment": "of the server, from released updates",
    "second_moment": "of the server, from released updates",
    "num_patients": "public, or counted with noise",
    "class_counts": "counted with noise",
    "clipping_norm": "from released sums",
    "sum_norm": "of a released sum",
    "left_out": "released sums of all hospitals but one",
    "contributions": "from released sums",
    "variates": "from released updates",
    "given": "rounds of a public timetable",
    "model": "of an earlier round",
    "counter": "of released updates",
}
"""All that a strategy may remember. Replicas and notes of noise are the hospitals' own."""


def keeping(tiny_study, setting, keep="every-round"):
    return tiny_study(**copy.deepcopy(SETTINGS[setting]), performance={"keep": keep})


def kept(folder):
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


def family_of_settings(*keep):
    cases = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SETTINGS]
    return family(cases, keep=keep)


@pytest.mark.thorough
@pytest.mark.parametrize("setting", family_of_settings("fedsgd", "selective"))
def test_a_resumed_run_keeps_the_same_rounds(tiny_study, tmp_path, setting):
    study = keeping(tiny_study, setting)
    run_study(study, tmp_path / "whole")
    whole = kept(tmp_path / "whole")
    assert sorted(whole) == [f"round-{round:06d}.safetensors" for round in range(study.rounds + 1)]
    for round in range(1, study.rounds + 1):
        out = tmp_path / f"stopped-{round}"
        interrupted(study, out, InterruptingRound(round))
        assert set(kept(out)) < set(whole)
        resume_run(out)
        assert kept(out) == whole, f"round {round}"


def test_what_is_kept_changes_nothing_else(tiny_study, tmp_path):
    runs = {keep: keeping(tiny_study, "fedsgd", keep) for keep in ("last", "every-round")}
    assert len({study.digest for study in runs.values()}) == 1
    for keep, study in runs.items():
        run_study(study, tmp_path / keep)
    assert what_counts(tmp_path / "last") == what_counts(tmp_path / "every-round")
    assert kept(tmp_path / "last").items() <= kept(tmp_path / "every-round").items()
    assert len(kept(tmp_path / "last")) <= 2


def test_damaged_newest_checkpoints_are_written_again(tiny_study, tmp_path):
    study = keeping(tiny_study, "fedsgd")
    run_study(study, tmp_path / "whole")
    out = tmp_path / "run"
    interrupted(study, out, InterruptingRound(4))
    for path in sorted((out / "checkpoints").iterdir())[-2:]:
        path.write_bytes(path.read_bytes()[:-4])
    resume_run(out)
    assert kept(out) == kept(tmp_path / "whole")


def test_a_fresh_run_keeps_no_round_of_the_one_before(tiny_study, tmp_path):
    run_study(keeping(tiny_study, "fedsgd"), tmp_path / "run")
    study = tiny_study(federation={"rounds": 2}, performance={"keep": "every-round"})
    simulation.run_study(study, tmp_path / "run", Silent(), fresh=True)
    assert len(kept(tmp_path / "run")) == 3


class Memory(dict[int, Any]):
    """A journal that holds the arrays of every round."""

    def write_checkpoint(self, round, arrays):
        self[round] = {key: value.copy() for key, value in arrays.items()}

    def append_round(self, entry):
        pass


class Nobody:
    """A channel that reaches no hospital."""

    def __init__(self, hospitals):
        self.hospitals = hospitals

    def ask(self, requests, deadline_s):
        raise AssertionError("no hospital is asked")


def answers_of_a_run(study, out, monkeypatch):
    """What the strategy of a run was given, in order, and the names of those it asked first."""
    given, asked = [], []

    def recording(original):
        def ask(self, channel, *arguments):
            asked.append(channel.hospitals)
            answer = original(self, channel, *arguments)
            given.append(copy.deepcopy(answer))
            return answer

        return ask

    with monkeypatch.context() as patch:
        for name in ("ask", "ask_sum"):
            patch.setattr(Call, name, recording(getattr(Call, name)))
        run_study(study, out)
    return given, tuple(dict.fromkeys(name for hospitals in asked for name in hospitals))


@pytest.mark.thorough
@pytest.mark.parametrize("setting", family_of_settings("sampled", "fedavg", "selective", "correlated"))
def test_every_kept_vector_follows_from_what_the_strategy_was_given(tiny_study, tmp_path, monkeypatch, setting):
    """Recomputes each round's file without a hospital: from noised sums, or noised answers, and public settings."""
    study, plan = keeping(tiny_study, setting), plan_of(keeping(tiny_study, setting))
    given, hospitals = answers_of_a_run(study, tmp_path / "run", monkeypatch)
    for name in ("ask", "ask_sum"):
        monkeypatch.setattr(Call, name, lambda *_: given.pop(0))
    strategy, channel = strategy_of(study, plan, PlainSum(), classes=2), Nobody(hospitals)
    memory = Memory()
    position = Position(0, strategy.init(gather(study, Silent()).workbench.initial_weights, channel))
    memory.write_checkpoint(0, position.to_arrays())
    schedule = Schedule(study.rounds, 1, average_last_of(study))
    run_rounds(strategy, channel, schedule, position, memory, lambda *_: {})
    assert given == []
    for round, arrays in memory.items():
        found = arrays_from_file(tmp_path / "run" / "checkpoints" / f"round-{round:06d}.safetensors")
        assert {key: value.tobytes() for key, value in found.items()} == {
            key: value.tobytes() for key, value in arrays.items()
        }, f"round {round}"
        for key in found:
            kind, _, name = key.partition(":")
            parts = [part for part in name.split("/") if not part.isdigit() and part not in hospitals]
            assert (kind, len(parts)) in {("mean", 0), ("mean", 1), ("state", 1)}
            assert kind == "mean" or parts[0] in STATE


@pytest.mark.parametrize("setting", family(["selective", "correlated"]))
def test_no_note_of_a_hospital_is_kept(tiny_study, tmp_path, setting):
    study = keeping(tiny_study, setting)
    interrupted(study, tmp_path / "run", InterruptingRound(study.rounds))
    notes = [
        array.tobytes()
        for path in (tmp_path / "run" / "hospitals").rglob("*.safetensors")
        for array in load_file(path).values()
        if array.size > 1
    ]
    assert notes, "hospitals do remember something"
    vectors = {
        array.tobytes()
        for path in (tmp_path / "run" / "checkpoints").iterdir()
        for array in arrays_from_file(path).values()
    }
    assert not vectors & set(notes)
