"""Faults planted in the code that a run uses: `wardround audit STUDY` exits with 3, and with 0 without the fault."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.audit.test_mechanism import exact_count, unclipped
from tests.audit.test_procedure import by_position

from wardround.audit.findings import CLEAN, CONTRADICTION
from wardround.hospital.agent import Agent
from wardround.privacy.plans.costs import event_of

NAMES = ("hospital-1", "hospital-2", "hospital-3")


class Still:
    """A stream without noise."""

    def add_normal(self, values, std):
        pass


def no_noise_at_one_hospital(patch):
    def stream(agent, purpose, request):
        return Still() if purpose == "noise" and agent.name == NAMES[0] else drawn(agent, purpose, request)

    drawn = Agent._stream
    patch.setattr(Agent, "_stream", stream)


def no_clip(patch):
    patch.setattr("wardround.training.batch_sums.clipped_sums_by_group", unclipped())


def no_noise_under_masks(patch):
    patch.setattr(
        "wardround.secure_aggregation.integers.mechanism.discrete_gaussian",
        lambda count, std, source: np.zeros(count, dtype=np.int64),
    )


def one_round_claimed(patch):
    patch.setattr("wardround.privacy.plans.plan.event_of", lambda part, releases: event_of(part, min(releases, 1)))


def others_move(patch):
    patch.setattr("wardround.simulation.materials.split_patients", by_position)


@dataclass(frozen=True)
class Fault:
    plant: Callable[[Any], None]
    seen: str
    privacy: dict[str, object] = field(default_factory=dict)
    rounds: int = 1
    options: tuple[str, ...] = ()


FAULTS = (
    Fault(exact_count, "the count of patients, two worlds", {"num_patients": None, "trust": "nobody"}),
    Fault(exact_count, "the count of patients, two worlds", {"num_patients": None, "sum": "simulated"}),
    Fault(no_noise_at_one_hospital, "one patient, two worlds", {"trust": "nobody"}),
    Fault(no_clip, "virtual patients in one run", {"sum": "simulated"}),
    Fault(no_noise_under_masks, "virtual patients in one run", {"sum": "masked"}),
    Fault(no_noise_under_masks, "ended the run themselves", {"num_patients": None, "sum": "masked"}),
    Fault(one_round_claimed, "accounting, events charged", {"sum": "simulated"}, 8),
    Fault(others_move, "another place or label", {"sum": "simulated"}, 1, ("--procedure",)),
)  # fmt: skip


@pytest.fixture
def audited(study_file, wardround):
    def run(fault):
        privacy = {
            "epsilon": None, "noise_multiplier": 3.0, "delta": 1e-5, "num_patients": 300, "sum": None,
        } | fault.privacy  # fmt: skip
        study = study_file(
            hospitals={"count": len(NAMES)}, privacy=privacy,
            federation={"rounds": fault.rounds, "evaluate_every": fault.rounds, "learning_rate": 1.0},
        )  # fmt: skip
        said = wardround("audit", study, "--runs", 60, "--json", *fault.options)
        return said.code, json.loads(said.out)

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_a_planted_fault_ends_the_command_with_a_contradiction(audited, monkeypatch, fault):
    code, found = audited(fault)
    assert (code, found["verdict"]) == (0, CLEAN)
    fault.plant(monkeypatch)
    code, found = audited(fault)
    assert (code, found["verdict"]) == (3, CONTRADICTION)
    assert any(fault.seen in sentence for sentence in found["contradictions"]), found["contradictions"]
