"""Agents as separate processes behind sockets, and a coordinator: the same weights as the simulation, bit for bit."""

import json
from typing import Any

import pytest
from tests.transport.consortium import ALONE, MASKED, NAMES, Forked, command_line

from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

LOCAL = {"strategy": "fedavg", "rounds": 2, "local_steps": 2}
STUDIES = {
    "masked": (MASKED, {"rounds": 3}),
    "masked, counted": ({**MASKED, "num_patients": None}, {"rounds": 2}),
    "nobody": (ALONE, LOCAL),
    "a ring": (ALONE, {"strategy": "round-robin", "rounds": 4}),
}


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("masked", Forked),
        *(pytest.param(name, command_line, marks=pytest.mark.thorough) for name in STUDIES),
    ],
)
def test_three_agents_give_the_weights_of_the_simulation(consortium, without_charts, name, begin):
    between = consortium(*STUDIES[name], begin=begin)
    between.accept()
    between.start()
    record = between.run()
    between.stop()
    simulated = run_study(between.study, between.folder / "simulated", Silent())
    statement: Any = record.certificate["statement"]
    promised: Any = simulated.certificate["statement"]
    weights = [(between.folder / out / "model.safetensors").read_bytes() for out in ("run", "simulated")]
    assert weights[0] == weights[1], "identical"
    assert record.certificate["model_sha256"] == simulated.certificate["model_sha256"]
    assert statement["epsilon"] == promised["epsilon"]
    assert not statement["simulated"]
    assert set(json.loads((between.folder / "run" / "receipts.json").read_text())) == set(NAMES)
    assert "no figure of a test patient" in (between.folder / "run" / "report.html").read_text()
    for agent in NAMES:
        home = between.home(agent)
        assert not (home / "agent.sock").exists(), "it has ended by itself"
        lines = [json.loads(line) for line in (home / "agent.log").read_text().splitlines()]
        assert any("give-receipt" in line["text"] or "receipt" in line["text"] for line in lines)
        assert not any("patient-0" in json.dumps(line) for line in lines)
