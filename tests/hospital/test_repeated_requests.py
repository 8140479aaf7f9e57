"""Requests that come again, and hospitals that stop between charge and reply: one content an attempt, one reply."""

from contextlib import ExitStack

import numpy as np
import pytest
from tests.hospital.deployed import make_folders
from tests.hospital.outside import (
    WEIGHTS,
    Outside,
)

from wardround.errors import LedgerError
from wardround.federation.messages import Answer, Failure, FailureCode, Stage
from wardround.federation.wire.tables import encode_request
from wardround.hospital.kept.replies import Replies
from wardround.ledger.account import Account
from wardround.work import (
    CountPatients,
    GradientSum,
)

OTHER_CONTENT = Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)
NO_SPARE = Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)
OTHER = GradientSum(-WEIGHTS)


@pytest.fixture
def fresh(tmp_path):
    """A factory of a hospital with a folder of its own."""
    with ExitStack() as stack:

        def make(name="gradients", **privacy):
            out = Outside(make_folders(tmp_path)[0]["north"], name, **privacy)
            stack.callback(out.stack.close)
            return out

        yield make


@pytest.mark.parametrize("name", ["gradients", "local", "selective"])
def test_a_repeated_request_has_the_same_bytes_at_no_charge_after_a_restart_as_well(fresh, name):
    out = fresh(name)
    message = encode_request(out.request())
    reply = out.hospital.answer(message)
    for _ in range(2):
        assert out.hospital.answer(message) == reply
        out.start()
    assert out.hospital.answer(message) == reply
    assert out.charges() == 1
    out.round += 1
    out.works()


def test_an_attempt_has_one_content_and_attempts_ascend(fresh):
    out = fresh(spare_attempts=1)
    first = out.ask(out.request(attempt=2))
    for attempt, work in ((2, OTHER), (1, None), (1, OTHER)):
        assert out.ask(out.request(work, attempt=attempt)) == OTHER_CONTENT
        out.start()
    assert out.charges() == 1
    second = out.ask(out.request(OTHER, attempt=3))
    assert isinstance(second, Answer)
    assert not np.array_equal(first.update, second.update)
    assert out.charges() == 2
    out.round += 1
    out.works()


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_attempts_beyond_the_spare_ones_are_refused_and_the_next_round_works(fresh, spare):
    out = fresh(spare_attempts=spare)
    replies = [out.ask(out.request(attempt=attempt)) for attempt in range(1, 5)]
    assert [isinstance(reply, Answer) for reply in replies] == [attempt <= spare for attempt in range(4)]
    assert set(replies[spare + 1 :]) == {NO_SPARE}
    assert out.charges() == 1 + spare
    out.round += 1
    out.works()
    assert out.ask(out.request(round=out.round, attempt=9)) == NO_SPARE, "they are of the study, not of a round"


class Killed(BaseException):
    """The process ends here."""


def killed_at(out, monkeypatch, place, when):
    """Asks an honest request of a hospital that is killed before or after a step, and starts it again."""
    owner, step = place
    original = getattr(owner, step)

    def dying(self, *args, **keywords):
        if when == "after":
            original(self, *args, **keywords)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dying)
        with pytest.raises(Killed):
            out.ask(out.request())
    out.start()


def test_a_hospital_killed_before_its_charge_answers_when_it_is_asked_again(fresh, monkeypatch):
    out = fresh()
    killed_at(out, monkeypatch, (Account, "charge"), "before")
    assert out.ask(out.request(OTHER)) == OTHER_CONTENT, "what the attempt asks for is on disk before its charge"
    assert out.charges() == 0
    out.works()


@pytest.mark.parametrize("spare", [0, 1])
def test_a_charge_without_a_kept_reply_is_an_attempt_and_the_next_one_is_charged(fresh, monkeypatch, spare):
    out = fresh(spare_attempts=spare)
    killed_at(out, monkeypatch, (Replies, "keep"), "before")
    assert out.charges() == 1
    again = out.ask(out.request())
    assert isinstance(again, Answer) if spare else again == NO_SPARE
    assert out.charges() == 1 + spare
    out.round += 1
    out.works()


def test_a_hospital_killed_before_it_sends_sends_what_it_kept(fresh, monkeypatch):
    out = fresh()
    killed_at(out, monkeypatch, (Replies, "keep"), "after")
    assert isinstance(out.ask(out.request()), Answer)
    assert out.charges() == 1


def test_a_ledger_that_cannot_be_read_after_the_charge_keeps_the_answer_here(fresh, monkeypatch):
    """Another process may hold the file: the hospital goes on, and the next attempt is charged."""
    out = fresh(spare_attempts=1)

    def held(self):
        raise LedgerError("Ledger must be free, and another process holds it.")

    with monkeypatch.context() as patch:
        patch.setattr(Account, "position", held)
        assert out.ask(out.request()) == Failure(FailureCode.INTERNAL, Stage.TRAINING)
    assert out.charges() == 1
    assert isinstance(out.ask(out.request(attempt=2)), Answer)
    assert out.charges() == 2


def test_only_the_last_reply_is_kept(fresh):
    out = fresh(spare_attempts=1)
    out.works()
    out.works()
    assert isinstance(out.ask(out.request(round=1)), Answer), "it is gone, so this is an attempt that is charged"
    assert out.charges() == 3
    assert out.ask(out.request(round=2)) == NO_SPARE


@pytest.mark.parametrize("name", ["gradients", "local", "updates", "counted"])
def test_all_that_a_hospital_can_be_charged_for_stays_within_the_promise(fresh, name):
    """Every round and every spare attempt, of a count where there is one: the promise covers what the ledger holds."""
    out = fresh(name, spare_attempts=2, noise_multiplier=None, epsilon=3.0)
    study = out.study.model_copy(update={"federation": out.study.federation.model_copy(update={"rounds": 3})})
    out.study = study
    out.start()
    if name == "counted":
        for attempt in (1, 2, 3, 4):
            out.ask(out.request(CountPatients(), round=0, attempt=attempt))
    for round in (1, 2, 3, 4):
        for attempt in (1, 2, 3, 4):
            out.ask(out.request(round=round, attempt=attempt))
    account, plan = out.hospital.agent.account, out.hospital.agent.plan
    assert out.charges() == 3 + 2 + (name == "counted")
    assert account.spent() <= plan.epsilon <= 3.0
    assert plan.epsilon > 2.9
