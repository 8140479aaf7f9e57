"""A hospital that leaves for good: a study that foresees it ends without it, and promises no less than was charged."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.hospital.bytes_channel import BytesChannel
from tests.hospital.deployed import NAMES, make_folders, open_from, study_of

from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.errors import FederationError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run

FOUR = (*NAMES, "west")
PRIVACY = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "sum": "masked", "colluders": 1}


@dataclass
class Leaving:
    """A channel that a hospital leaves with a round's first exchange."""

    inner: Any
    name: str
    round: int
    is_gone: bool = False

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        self.is_gone = self.is_gone or next(iter(requests.values())).round == self.round
        if not self.is_gone:
            return self.inner.ask(requests, deadline_s)
        there = {name: request for name, request in requests.items() if name != self.name}
        replies, failures = self.inner.ask(there, deadline_s) if there else ({}, {})
        gone = Failure(FailureCode.GONE, Stage.TRANSPORT)
        return replies, failures | {name: gone for name in requests if name == self.name}


def run(tmp_path, dropouts, *, spare=0):
    paths, keys = make_folders(tmp_path, FOUR)
    privacy = PRIVACY | {"num_patients": 48, "dropouts": dropouts, "spare_attempts": spare}
    study = study_of(
        privacy, {"rounds": 3, "evaluate_every": 1}, hospitals={"count": 4, "names": list(FOUR)}, seed=None
    )
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in FOUR}
        channel = Leaving(BytesChannel(hospitals), "west", 2)
        return study, coordinate(study, channel, keys, own_key(), tmp_path / "run", Silent())


@pytest.mark.thorough
def test_a_study_that_foresees_a_dropout_ends_without_the_hospital_that_left(tmp_path, without_charts):
    study, record = run(tmp_path, 1)
    assert record.certificate["rounds"] == study.rounds
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).signed.is_finished


def test_all_that_the_one_who_left_may_be_charged_is_counted(tmp_path, without_charts):
    study, record = run(tmp_path, 1, spare=2)
    statement: Any = record.certificate["statement"]
    assert statement["releases"] == study.rounds + 2, "its receipt could say as much"
    assert any("west left" in caveat for caveat in statement["caveats"])
    assert set(record.certificate["ledgers"]) == set(NAMES)
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).signed.is_finished


@pytest.mark.thorough
def test_a_study_that_foresees_none_stops_and_says_who_is_away(tmp_path, without_charts):
    with pytest.raises(FederationError, match="west: gone"):
        run(tmp_path, 0)
