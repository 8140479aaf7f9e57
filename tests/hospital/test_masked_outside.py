"""Deployed hospitals under masks, in bytes: messages that come twice, hospitals started again, attempts paid for."""

import shutil
from contextlib import ExitStack
from typing import Any

import pytest
from tests.charges import charges_of
from tests.hospital.deployed import make_folders, open_from, study_of

from wardround.coordinator.opening import open_coordinator
from wardround.errors import FederationError, LedgerError
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.work import Announce, Confirm, GradientSum, Upload

MASKED = {"plan": "dp-sgd", "noise_multiplier": 4.0, "delta": 1e-3, "sum": "masked", "num_patients": 36}
NO_ANSWER = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


class Hospitals:
    """Three deployed hospitals and their coordinator; a channel to them that sends bytes, and remembers them.

    `times`: how often each message is delivered. `lost`: the hospital and the work whose reply never comes.
    """

    def __init__(self, folders, keys, **privacy):
        self.study = study_of(MASKED | privacy, {"rounds": 4})
        self.folders = folders
        self.hospitals = tuple(self.folders)
        self.stacks, self.by_name = {name: ExitStack() for name in self.hospitals}, {}
        self.times, self.lost, self.sent = 1, None, {}
        for name in self.hospitals:
            self.start(name)
        self.keys, opening = keys, open_coordinator(self.study, self, keys)
        self.coordinator, self.weights = opening.coordinator, opening.weights

    def start(self, name):
        """Starts a hospital, again after it was stopped."""
        self.stacks[name].close()
        self.by_name[name] = self.stacks[name].enter_context(open_from(self.folders[name], self.study))

    def ask(self, requests, deadline_s):
        replies: dict[str, Any] = {}
        failures: dict[str, Any] = {}
        for name, request in requests.items():
            message = encode_request(request)
            said = {self.by_name[name].answer(message) for _ in range(self.times)}
            [only] = said
            self.sent[name, type(request.work)] = message, only
            reply = decode_reply(only, Limits())
            if self.lost == (name, type(request.work)):
                reply = NO_ANSWER
            (failures if isinstance(reply, Failure) else replies)[name] = reply
        return replies, failures

    def round(self, number):
        """The sum of a round and the failures in it."""
        request = Request(self.study.digest, number, 1, GradientSum(self.weights))
        masked: Any = self.coordinator.masked
        total = masked.collect(self, dict.fromkeys(self.hospitals, request), 60.0)
        return total.update, total.failures

    def again(self):
        """A coordinator that was started again."""
        self.coordinator = open_coordinator(self.study, self, self.keys).coordinator

    def charges(self):
        return [len(charges_of(hospital.agent.account)) for hospital in self.by_name.values()]


@pytest.fixture
def make_hospitals(tmp_path):
    folders, keys = make_folders(tmp_path)
    with ExitStack() as stack:

        def make(**privacy):
            made = Hospitals(folders, keys, **privacy)
            for each in made.stacks.values():
                stack.callback(each.close)
            return made

        yield make


def test_a_message_that_comes_twice_has_one_reply_and_one_charge(make_hospitals):
    hospitals = make_hospitals()
    hospitals.times = 2
    for number in (1, 2):
        update, failures = hospitals.round(number)
        assert update is not None, failures
    assert hospitals.charges() == [2, 2, 2]


def test_an_upload_is_sent_again_word_for_word_by_a_hospital_started_again(make_hospitals):
    hospitals = make_hospitals()
    hospitals.round(1)
    message, reply = hospitals.sent["north", Upload]
    hospitals.start("north")
    assert hospitals.by_name["north"].answer(message) == reply
    assert hospitals.charges() == [1, 1, 1]


def test_a_hospital_started_again_between_rounds_goes_on(make_hospitals):
    """The sum that it is handed first is of an attempt that it no longer knows."""
    hospitals = make_hospitals()
    hospitals.round(1)
    hospitals.start("south")
    update, failures = hospitals.round(2)
    assert update is not None, failures
    assert hospitals.charges() == [2, 2, 2]


@pytest.mark.parametrize("step", [Confirm, Upload])
def test_a_hospital_started_again_within_an_attempt_asks_for_a_new_one(make_hospitals, step):
    hospitals = make_hospitals()
    hospitals.lost = ("east", step)
    hospitals.round(1)
    message, _ = hospitals.sent["north", step]
    hospitals.start("north")
    if step is Upload:
        (hospitals.folders["north"] / "memory" / hospitals.study.digest / "answered").unlink()
        hospitals.start("north")
    reply = decode_reply(hospitals.by_name["north"].answer(message), Limits())
    assert reply == Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)


@pytest.mark.parametrize("spare", [0, 1])
def test_a_round_that_lost_a_hospital_is_begun_again_as_far_as_attempts_are_paid_for(make_hospitals, spare):
    hospitals = make_hospitals(spare_attempts=spare)
    hospitals.lost = ("east", Upload)
    assert hospitals.round(1) == (None, {"east": NO_ANSWER})
    assert hospitals.charges() == [1, 1, 1]
    hospitals.lost = None
    hospitals.again()
    update, failures = hospitals.round(1)
    if spare:
        assert update is not None, failures
        assert hospitals.charges() == [2, 2, 2]
    else:
        assert {failure.code for failure in failures.values()} == {FailureCode.REFUSED_SPARE}
        assert hospitals.charges() == [1, 1, 1], "refused before any hospital is charged"
    assert hospitals.round(2)[0] is not None
    spent = max(hospital.agent.account.spent() for hospital in hospitals.by_name.values())
    assert spent <= hospitals.coordinator.plan.epsilon


def test_spare_attempts_are_part_of_the_promise(make_hospitals):
    plan = make_hospitals(spare_attempts=2, num_patients=None).coordinator.plan
    assert (plan.releases, plan.counts) == (4 + 2, 1 + 2)
    assert plan.epsilon == plan.epsilon_after(6, 3) > plan.epsilon_after(4, 1)


def test_an_announcement_is_made_anew_by_a_hospital_started_again(make_hospitals):
    """Its key was only in the process that ended, and has hidden nothing."""
    hospitals = make_hospitals()
    hospitals.round(1)
    hospitals.lost = ("east", Announce)
    hospitals.round(2)
    message, first = hospitals.sent["north", Announce]
    hospitals.start("north")
    assert hospitals.by_name["north"].answer(message) != first
    assert hospitals.charges() == [1, 1, 1]


@pytest.mark.thorough
def test_two_studies_side_by_side_keep_notes_of_their_own(make_hospitals):
    """With one file for both, a hospital started again knew of the other study's last attempt alone."""
    one, other = make_hospitals(), make_hospitals(noise_multiplier=5.0)
    for study, number in ((one, 1), (other, 1), (one, 2), (other, 2), (other, 3)):
        update, failures = study.round(number)
        assert update is not None, failures
    for study, last in ((one, (2, 1)), (other, (3, 1))):
        study.start("north")
        assert study.by_name["north"].masked.notes.last == last
    message, _ = one.sent["north", Announce]
    reply = decode_reply(one.by_name["north"].answer(message), Limits())
    assert isinstance(reply, Failure), "the attempt was answered"
    update, failures = one.round(3)
    assert update is not None, failures


@pytest.mark.thorough
def test_a_ledger_that_was_put_back_is_found_by_the_next_study_as_well(make_hospitals):
    """By the hospital itself from its notes, and by the others where its notes were put back with it."""
    one = make_hospitals()
    one.round(1)
    south = one.folders["south"]
    for stack in one.stacks.values():
        stack.close()
    copies = {path: path.read_bytes() for path in south.glob("ledger.sqlite*")}
    for name in one.hospitals:
        one.start(name)
    one.round(2)
    one.round(3)
    for stack in one.stacks.values():
        stack.close()
    for path in south.glob("ledger.sqlite*"):
        path.unlink()
    for path, content in copies.items():
        path.write_bytes(content)
    with pytest.raises(LedgerError):
        make_hospitals(noise_multiplier=5.0)
    shutil.rmtree(south / "memory")
    other = make_hospitals(noise_multiplier=5.0)
    with pytest.raises(FederationError, match="keep to the protocol"):
        other.round(1)
    assert other.charges() == [0, 0, 0]
