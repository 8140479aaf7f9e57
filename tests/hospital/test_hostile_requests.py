"""What a hospital refuses of a hostile requester: with a code, at no charge, and the next honest round works."""

from dataclasses import replace

import numpy as np
import pytest
from tests.fixtures_federation import STUDY, private_plan
from tests.hospital.bytes_channel import BytesChannel, reply_to
from tests.hospital.masked_rounds import (
    Watching,
    hospitals_of,
    ledgers,
)

from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.agent import Agent
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    FittedHead,
    GiveReceipt,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Receive,
    SayHello,
    Selection,
    SelectiveUpdate,
    Upload,
)

REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
PROTOCOL = Failure(FailureCode.PROTOCOL, Stage.ADMISSION)
NO_ATTEMPT = Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)
FIT = HeadFit(0.05, 1.0, 4.0)
WEIGHTS = np.zeros(34, dtype=np.float32)
STEPS = LocalSteps(1, 0.1, 0.0, 2.0)
GRADIENTS = Request(STUDY, 1, 1, GradientSum(WEIGHTS))


def announced(**changes):
    return replace(GRADIENTS, work=Announce(GradientSum(WEIGHTS), 1, 5), **changes)


def flipped(content, position):
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


HONEST = encode_request(announced())
MALFORMED = {
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "no header": HONEST[:16],
    "cut": HONEST[:-1],
    "longer": HONEST + b"\0",
    "another magic": flipped(HONEST, 0),
    "another version": flipped(HONEST, 10),
    "a broken header": flipped(HONEST, 20),
    "weights of another network": encode_request(
        replace(GRADIENTS, work=Announce(GradientSum(np.zeros(35, np.float32)), 1, 5))
    ),
    "no weights": encode_request(replace(GRADIENTS, work=Announce(GradientSum(WEIGHTS[:0]), 1, 5))),
    "weights that are none": HONEST[:-4] + np.float32(np.nan).tobytes(),
}
UNASKED = {
    "another study": announced(study="another"),
    "hello of another study": Request("another", 0, 1, SayHello()),
    "receipt of another study": Request("another", 0, 1, GiveReceipt()),
    "a round after the last": announced(round=6),
    "gradients before round 1": announced(round=0),
    "a count in round 1": replace(GRADIENTS, work=Announce(CountPatients(), 1, 5)),
    "a count that is not planned": replace(GRADIENTS, round=0, work=Announce(CountPatients(), 1, 5)),
    "gradients without masks": GRADIENTS,
    "a count without masks": replace(GRADIENTS, round=0, work=CountPatients()),
    "class counts": replace(GRADIENTS, round=0, work=CountClasses()),
    "local steps": replace(GRADIENTS, work=LocalUpdate(WEIGHTS, STEPS)),
    "selective": replace(
        GRADIENTS, work=SelectiveUpdate(WEIGHTS, STEPS, Selection(np.arange(34), 1.0, False, 0.0, 1.0))
    ),
    "a head": replace(GRADIENTS, work=FittedHead(FIT)),
    "a norm that was not planned": replace(GRADIENTS, work=Announce(GradientSum(WEIGHTS, 0.1), 1, 5)),
    "an upload of another study": Request("another", 1, 1, Upload((b"one",))),
}


def is_unharmed(masked, kept):
    """Nothing is charged or noted, and the next honest round works."""
    assert ledgers(masked.federation) == {name: [] for name in masked.parties}
    assert {name: party.notes for name, party in masked.parties.items()} == kept
    assert not masked.uploads
    total = masked.ask(1)
    assert (total.update is not None, total.failures) == (True, {})
    assert {len(entries) for entries in ledgers(masked.federation).values()} == {1}


def notes_of(masked):
    return {name: party.notes for name, party in masked.parties.items()}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_a_message_that_is_none_is_refused_and_costs_nothing(make_masked, name):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        assert decode_reply(hospital.answer(MALFORMED[name]), hospital.limits) == REFUSED
    is_unharmed(masked, kept)


@pytest.mark.parametrize("name", list(UNASKED))
def test_a_question_not_agreed_on_is_refused_and_costs_nothing(make_masked, name):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, UNASKED[name]) == hospital.reply(UNASKED[name]) == REFUSED
    is_unharmed(masked, kept)


def by_work(work):
    return type(work).name


@pytest.mark.parametrize("work", [Confirm((b"one",)), Upload((b"one",)), Receive(b"total")], ids=by_work)
def test_a_step_without_announcement_is_refused_at_no_cost(make_masked, work):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, replace(GRADIENTS, work=work)) == NO_ATTEMPT
    is_unharmed(masked, kept)


@pytest.mark.parametrize(
    "works",
    [
        [Confirm((b"one", b"two"))],
        [Upload((b"one",))],
        [Receive(b"total")],
        [Confirm((b"one",)), Upload((b"one",)), Receive(b"total")],
        [announced(attempt=2).work, Upload((b"one",))],
    ],
    ids=lambda works: "+".join(map(by_work, works)),
)
def test_steps_that_nobody_signed_are_refused_and_cost_nothing(make_masked, works):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        reply_to(hospital, announced())
        for work in works:
            reply = reply_to(hospital, replace(GRADIENTS, work=work))
            assert isinstance(reply, Failure) != isinstance(work, Announce)
    is_unharmed(masked, kept)


@pytest.mark.parametrize("seed", [None, 5], ids=["in earnest", "seeded"])
def test_an_upload_is_sent_once_and_another_sum_is_refused(make_masked, seed):
    masked = make_masked(seed=seed)
    channel = Watching(BytesChannel(masked.hospitals))
    masked.collect(masked.request(1), channel)
    upload, sent = channel.asked[3], len(masked.uploads)
    for name, request in upload.items():
        assert reply_to(masked.hospitals[name], request) == PROTOCOL
    assert len(masked.uploads) == sent == 5
    assert {len(entries) for entries in ledgers(masked.federation).values()} == {1}, (
        "what is not sent costs nothing"
    )
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, replace(GRADIENTS, work=Receive(b"total"))) == PROTOCOL
    assert masked.collect(masked.request(2), channel).failures == {}


def test_a_hospital_without_masks_takes_no_masked_step(make_federation):
    federation = make_federation(plan=private_plan())
    for hospital in hospitals_of(federation).values():
        for work in (announced().work, Confirm((b"one",)), Upload((b"one",)), Receive(b"total")):
            assert reply_to(hospital, replace(GRADIENTS, work=work)) == REFUSED
    assert not any(ledgers(federation).values())


def test_an_answer_that_is_not_finite_is_charged_and_not_sent(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan())
    answer = Agent.answer_alone
    monkeypatch.setattr(
        Agent, "answer_alone", lambda self, asked: replace(answer(self, asked), update=np.full(34, np.nan, "f4"))
    )
    [hospital, *_] = hospitals_of(federation).values()
    assert reply_to(hospital, GRADIENTS) == Failure(FailureCode.INTERNAL, Stage.TRAINING)
    assert [len(entries) for entries in ledgers(federation).values()] == [1, 0, 0]
