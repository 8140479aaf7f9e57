"""A hospital that leaves for good: a study that foresees it ends without it, and promises no less than was charged."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.hospital.bytes_channel import BytesChannel
from tests.hospital.deployed import NAMES, make_folders, open_from, study_of

from wardround.accounting.events import to_json
from wardround.agreed.plans import plan_of
from wardround.coordinator.certificate import all_were_present
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.errors import FederationError, RecordError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.wording import statement_of
from wardround.records.signer import RECORD, sha256_of_bytes, signed_again
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run
from wardround.types import HospitalName
from wardround.watching.live import Live
from wardround.watching.views import coordinator_view
from wardround.work import Announce, Upload

FOUR = tuple(map(HospitalName, (*NAMES, "west")))
PRIVACY = {
    "plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "sum": "masked", "colluders": 1, "accountant": "rdp"
}  # fmt: skip


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
        asked = next(iter(requests.values()))
        self.is_gone = self.is_gone or (asked.round == self.round and isinstance(asked.work, Announce))
        if not self.is_gone:
            return self.inner.ask(requests, deadline_s)
        there = {name: request for name, request in requests.items() if name != self.name}
        replies, failures = self.inner.ask(there, deadline_s) if there else ({}, {})
        gone = Failure(FailureCode.GONE, Stage.TRANSPORT)
        return replies, failures | {name: gone for name in requests if name == self.name}


def run(tmp_path, dropouts, *, spare=0, patients=48, left=2):
    paths, keys = make_folders(tmp_path, FOUR)
    privacy = PRIVACY | {"num_patients": patients, "dropouts": dropouts, "spare_attempts": spare}
    study = study_of(
        privacy, {"rounds": 2, "evaluate_every": 1}, hospitals={"count": 4, "names": list(FOUR)}, seed=None
    )
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in FOUR}
        channel = Leaving(BytesChannel(hospitals), "west", left)
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


def test_counts_do_not_stand_for_sums_of_the_one_who_left(tmp_path, without_charts):
    """A certificate of as many releases, most of them cheap counts, signed by the coordinator itself, is refused."""
    study, record = run(tmp_path, 1, spare=4, patients=None)
    plan, path = plan_of(study), tmp_path / "run"
    [found] = [line for line in verify_run(path, own_pin(), key=own_key()).unchecked if "west" in line]
    assert "without a receipt" in found
    releases, counts = study.rounds, plan.counts + 4
    statement = statement_of(plan, releases=releases, counts=counts, simulated=False, seeded=False)
    stated: Any = record.certificate["statement"]
    assert (statement.releases, statement.epsilon < stated["epsilon"]) == (stated["releases"], True)
    present = all_were_present(study, plan, record.rounds)
    certificate = record.certificate | {
        "statement": statement.to_json(),
        "sentence": statement.sentence(),
        "short": statement.short(),
        "event": to_json(plan.event_after(releases, counts)),
        "insiders": [row.to_json() for row in insiders_of(plan, releases, counts, all_present=present)],
    }
    content = json.dumps(certificate).encode()
    (path / "certificate.json").write_bytes(content)
    signed = json.loads((path / RECORD).read_text())
    files = signed["files"] | {"certificate.json": sha256_of_bytes(content)}
    (path / RECORD).write_bytes(signed_again(signed, files, own_key()))
    with pytest.raises(RecordError, match="without a receipt") as raised:
        verify_run(path, own_pin(), key=own_key())
    assert raised.value.code == "record-certificate"


class Killed(BaseException):
    """The end of a coordinator's process."""


@dataclass
class Ending(Leaving):
    """A channel whose coordinator is killed: when `name` alone has uploaded, or at `round`."""

    uploads: bool = False

    def ask(self, requests, deadline_s):
        asked = next(iter(requests.values()))
        if self.uploads and isinstance(asked.work, Upload):
            self.inner.ask({self.name: requests[self.name]}, deadline_s)
            raise Killed
        if asked.round == self.round:
            raise Killed
        return self.inner.ask(requests, deadline_s)


@pytest.mark.thorough
def test_epsilon_never_falls_when_the_one_who_was_charged_most_leaves_a_run_that_goes_on(tmp_path, without_charts):
    """West was charged for three attempts at round 1, the others for one; then it is away, and the coordinator new."""
    paths, keys = make_folders(tmp_path, FOUR)
    privacy = PRIVACY | {"num_patients": 48, "dropouts": 1, "spare_attempts": 2}
    study = study_of(
        privacy, {"rounds": 2, "evaluate_every": 1}, hospitals={"count": 4, "names": list(FOUR)}, seed=None
    )
    folder, seen = tmp_path / "run", []
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in FOUR}
        channel = BytesChannel(hospitals)

        def run_over(channel):
            live = Live(folder, study.study.name, study.digest, study.rounds, tuple(map(HospitalName, FOUR)))
            seen.append(coordinator_view(folder).epsilon_spent)
            return coordinate(study, channel, keys, own_key(), folder, live)

        for ending in (Ending(channel, "west", 9, uploads=True),) * 2:
            with pytest.raises(Killed):
                run_over(ending)
            (folder / "attempt.json").unlink()  # lost with the machine: a further attempt is begun
        with pytest.raises(Killed):
            run_over(Ending(channel, "west", 2))
        record = run_over(Leaving(channel, "west", 0, is_gone=True))
    assert seen == [None, None, None, pytest.approx(plan_of(study).epsilon_after(3))]
    certificate: Any = record.certificate
    said = [line["epsilon"] for line in record.rounds] + [coordinator_view(folder).epsilon_spent]
    assert said == [seen[-1]] * 3
    assert certificate["statement"]["epsilon"] >= seen[-1]


@pytest.mark.thorough
def test_a_hospital_missing_from_the_count_is_not_taken_for_present(tmp_path, without_charts):
    study, record = run(tmp_path, 1, spare=4, patients=None, left=0)
    assert record.rounds[0]["missing"] == ["west"]
    assert not all_were_present(study, plan_of(study), record.rounds)
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).signed.is_finished


@pytest.mark.thorough
def test_a_study_that_foresees_none_stops_and_says_who_is_away(tmp_path, without_charts):
    with pytest.raises(FederationError, match="west: gone"):
        run(tmp_path, 0)
