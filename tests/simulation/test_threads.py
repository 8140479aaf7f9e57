"""Threads follow the work: those that are given, one for a seeded run, else all where they are faster."""

import json
from typing import Any

import pytest
import torch
from tests.simulation.strategies import NOT_PRIVATE

from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.per_patient.guards.company import _SEEN
from wardround.simulation import estimate, run
from wardround.simulation.forecast import seconds
from wardround.training import threads
from wardround.training.workbench import Workbench

CORES = 3
AVERAGED = {
    "model": {"name": "small_cnn"}, "privacy": NOT_PRIVATE, "federation": {"strategy": "fedavg", "local_steps": 2},
}  # fmt: skip


@pytest.fixture
def cores():
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield CORES
    torch.set_num_threads(before)


class Machine:
    """A clock that a step moves on by what it would take on that many threads."""

    def __init__(self, monkeypatch, one, several):
        self.now, self.taken, self.steps = 0.0, {1: one, CORES: several}, []
        monkeypatch.setattr("wardround.training.threads.time.perf_counter", lambda: self.now)

    def step(self):
        self.steps.append(torch.get_num_threads())
        self.now += self.taken[torch.get_num_threads()]


@pytest.mark.parametrize(
    ("one", "several", "chosen"),
    [(1e-3, 0.9e-3, CORES), (1e-3, 0.95e-3, 1), (1e-3, 8e-3, 1), (0.5, 0.27, CORES), (3.0, 1.6, CORES)],
)
def test_all_cores_are_taken_only_where_they_gain(cores, monkeypatch, one, several, chosen):
    machine = Machine(monkeypatch, one, several * 0.99)
    assert threads.faster(machine.step, cores) == chosen
    assert torch.get_num_threads() == cores
    assert len(machine.steps) == (4 if one > 1 else 8), "a long step is timed once"


def test_one_slow_moment_decides_nothing(cores, monkeypatch):
    machine = Machine(monkeypatch, 1e-3, 0.5e-3)
    step, count = machine.step, [0]

    def disturbed():
        count[0] += 1
        machine.now += 1.0 if count[0] == 4 else 0.0
        step()

    assert threads.faster(disturbed, cores) == cores


FORESEEN: dict[str, tuple[dict[str, Any], float]] = {
    "a network": ({"model": {"name": "small_cnn"}}, 1e-3),
    "a seed": ({"study": {"seed": 1}}, 2e-3),
    "a head": ({"model": {"name": "features"}}, 2e-3),
    "masks": ({"privacy": {"sum": "masked", "num_patients": 32}}, 2e-3),
    "local steps": (AVERAGED, 1e-3),
    "a number in the study": ({"model": {"name": "small_cnn"}, "performance": {"threads": 1}}, 2e-3),
}


@pytest.mark.parametrize("name", FORESEEN)
def test_a_forecast_is_of_the_threads_that_the_run_takes(tiny_study, cores, monkeypatch, name):
    """A busy machine, on which all cores wait for each other, makes a forecast no longer than one thread does."""
    sections, several = FORESEEN[name]
    whole = {"study": {"seed": None}, "performance": {"threads": None}, "federation": {"compare": []}}
    study = tiny_study(**whole | sections)
    monkeypatch.setattr("wardround.simulation.forecast.seconds.at_work_of", lambda *_: 1)

    def foreseen(taken):
        machine = Machine(monkeypatch, 2e-3, taken)
        for name in ("gradient_sums", "patient_gradients", "exact_sum"):
            monkeypatch.setattr(Workbench, name, lambda *_: [machine.step()][:0])
        return estimate.estimate(study).seconds

    assert foreseen(1.0) == pytest.approx(foreseen(2e-3))
    assert foreseen(1e-3) == pytest.approx(foreseen(2e-3) * several / 2e-3)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"study": {"seed": 1}}, 1),
        ({"study": {"seed": 1}, "performance": {"threads": 2}}, 2),
        ({"model": {"name": "small_cnn"}}, CORES),
        ({"performance": {"threads": 2}}, 2),
        ({"model": {"name": "features"}}, 1),
        ({"privacy": {"sum": "masked", "num_patients": 32}}, 1),
        (AVERAGED | {"hospitals": {"count": CORES}}, 1),
        (AVERAGED | {"hospitals": {"count": CORES - 1}}, CORES),
    ],
)
def test_a_record_has_its_threads_and_a_process_keeps_its_own(
    tiny_study, tmp_path, cores, monkeypatch, without_charts, sections, expected
):
    monkeypatch.setattr(run, "faster", lambda step, cores: cores)
    seen, inner = [], run._train

    def train(*arguments):
        seen.append(torch.get_num_threads())
        return inner(*arguments)

    monkeypatch.setattr(run, "_train", train)
    sections = {"study": {"seed": None}, "performance": {"threads": None}} | sections
    run.run_study(tiny_study(**sections), tmp_path / "run", Silent())
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == expected
    assert seen == [expected]
    assert torch.get_num_threads() == cores


def test_the_step_that_is_timed_looks_at_no_patient_and_changes_no_weight(tiny_study, monkeypatch, cores):
    from wardround.simulation.materials import gather

    study = tiny_study(study={"seed": None}, performance={"threads": None}, model={"name": "small_cnn"})
    plan, materials = plan_of(study), gather(study, Silent())
    pixels = materials.images.pixels.copy()
    before = materials.workbench.initial_weights.copy()
    monkeypatch.setattr(run, "faster", lambda step, cores: step() and cores)
    timed, inner = [], seconds.made_up_bench

    def made_up_bench(*arguments):
        timed.append(arguments[-1])
        return inner(*arguments)

    monkeypatch.setattr(run, "made_up_bench", made_up_bench)
    assert run._threads_for(study, plan, materials) == cores
    assert timed == [64], "the number of patients is not public"
    assert (materials.images.pixels == pixels).all()
    assert materials.workbench.network.trained not in _SEEN, "the first real batch is checked as the first"
    from wardround.models.vectors import to_vector

    assert (to_vector(materials.workbench.network.trained) == before).all()
