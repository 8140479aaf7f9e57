"""A hospital as a value: the same replies to values and to bytes, and what it refuses of a hostile requester."""

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from tests.federation.known import state_after
from tests.fixtures_federation import STUDY, noiser_by, private_plan, without_noise
from tests.hospital.bytes_channel import BytesChannel, reply_to
from tests.hospital.masked_rounds import (
    CLASSES,
    MaskedFederation,
    announce,
    counted_plan,
    ends_the_run,
    masked_plan,
)

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent
from wardround.accounting.terms import Trust
from wardround.errors import FederationError
from wardround.federation.aggregators import PlainSum
from wardround.federation.channel import InProcessChannel
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.receipts import check_receipt
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.one_shot import OneShot
from wardround.federation.strategies.selective import Selective
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable
from wardround.federation.wire.replies import decode_reply
from wardround.federation.wire.requests import encode_request
from wardround.hospital.agent import Agent
from wardround.hospital.hospital import Hospital
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plans.kinds import NoisedHead
from wardround.privacy.plans.plan import Plan
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.simulation.availability import Availability, UnreliableChannel
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

CALL = Call(STUDY)
REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
PROTOCOL = Failure(FailureCode.PROTOCOL, Stage.ADMISSION)
FIT = HeadFit(0.05, 1.0, 4.0)


def hospitals_of(federation):
    return {name: Hospital(agent, CLASSES) for name, agent in federation.agents.items()}


def by_values(hospitals):
    """The hospitals' own replies as values, one by one."""
    return InProcessChannel(
        tuple(hospitals), lambda requests: {n: hospitals[n].reply(request) for n, request in requests.items()}
    )


def ledgers(federation):
    return {
        name: [(entry.event, entry.purpose, entry.release_id) for entry in agent.ledger.entries()]
        for name, agent in federation.agents.items()
    }


# Values and bytes ----------------------------------------------------------------------------------------------------


def fedsgd(num_patients=12, **changes):
    return replace(FedSGD(CALL, PlainSum(), 0.4, 0.6, 0.5, num_patients), **changes)


def local(**changes):
    return replace(LocalTraining(CALL, 2, 0.4, 0.6, 0.5, 12), **changes)


NORM = AdaptiveNorm()
RUNS = {
    "fedsgd": (private_plan(), fedsgd()),
    "fedsgd after a count": (private_plan(num_patients=None), fedsgd(None)),
    "fedsgd under an adaptive norm": (private_plan(rule=NORM), fedsgd(clipping_norm=0.5, adaptive=NORM)),
    "fedsgd under correlated noise": (private_plan(correlation=Correlation(5, 2, 2, 0.9)), fedsgd()),
    "fedsgd without noise": (without_noise(private_plan(sampling_prob=0.5)), fedsgd()),
    "local steps": (private_plan(), FedAvg(local(keep_velocity=True), PlainSum(), Timetable(3))),
    "local steps by class": (
        private_plan(num_patients=None),
        FedAvg(local(num_patients=None, repair=Repair.WEIGHTED_LOSS), PlainSum(), Timetable(3)),
    ),
    "selective": (
        private_plan(),
        Selective(local(), Timetable(3, Order.FIXED), 0.5, 0.2, False, 0.0, 0.02, 0.9),
    ),
    "a head": (
        Plan((NoisedHead(OutputPerturbation(FIT, 1.0), noiser_by(Trust.NOBODY, 3)),), 1e-5),
        OneShot(CALL, PlainSum(), FIT),
    ),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_by_values_and_by_bytes_a_run_is_the_same_bit_for_bit(make_federation, name):
    plan, strategy = RUNS[name]
    rounds = 1 if name == "a head" else 3
    states, charged = [], []
    for channel_of in (by_values, BytesChannel):
        federation = make_federation(plan=plan)
        federation.channel = channel_of(hospitals_of(federation))
        states.append(state_after(strategy, federation, rounds))
        charged.append(ledgers(federation))
    assert set(states[0]) == set(states[1])
    for key, values in states[0].items():
        np.testing.assert_array_equal(values, states[1][key], strict=True)
    assert charged[0] == charged[1]
    assert all(charged[0].values())

    batched = make_federation(plan=plan)
    for key, values in state_after(strategy, batched, rounds).items():
        # Common batches add in another order: a few roundings of float32.
        np.testing.assert_allclose(values, states[0][key], rtol=1e-4, atol=1e-6)
    assert ledgers(batched) == charged[0]


@pytest.fixture
def make_masked(make_federation, tmp_path):
    def make(folder="notes", *, plan=None, seed=5, epsilon_limit=np.inf):
        (tmp_path / folder).mkdir(exist_ok=True)
        plan = plan or masked_plan()
        federation = make_federation(hospitals=plan.hospitals, plan=plan, seed=seed, epsilon_limit=epsilon_limit)
        return MaskedFederation(federation, tmp_path / folder)

    return make


def masked_run(masked, channel):
    strategy = FedSGD(Call(STUDY, allowed_missing=1), masked.aggregator, 0.4, 0.9, 0.5, None)
    masked.federation.channel = channel
    state = state_after(strategy, masked.federation, 3)
    masked.aggregator.close(channel, 60.0)
    return state


def test_by_values_and_by_bytes_a_masked_run_is_the_same_bit_for_bit(make_masked):
    """The count before round 1 and three rounds: weights, charges, and what the witnesses showed."""
    values, wire = make_masked("values", plan=counted_plan()), make_masked("bytes", plan=counted_plan())
    states = [masked_run(values, values.channel), masked_run(wire, BytesChannel(wire.hospitals))]
    for key, found in states[0].items():
        np.testing.assert_array_equal(found, states[1][key], strict=True)
    assert not np.array_equal(states[0]["weights"], values.federation.weights)
    assert ledgers(values.federation) == ledgers(wire.federation)
    assert {len(entries) for entries in ledgers(wire.federation).values()} == {4}
    assert values.aggregator.witnesses == wire.aggregator.witnesses
    for name, party in values.parties.items():
        assert party.notes.witness == wire.parties[name].notes.witness


# Exchanges -----------------------------------------------------------------------------------------------------------

ROUND = [Announce, Confirm, Upload]


def test_a_masked_round_takes_three_exchanges_and_the_end_one(make_masked):
    masked = make_masked()
    channel = BytesChannel(masked.hospitals)
    masked.collect(masked.request(1), channel)
    assert channel.exchanges == [SayHello, *ROUND]
    for round in (2, 3):
        channel.exchanges.clear()
        masked.collect(masked.request(round), channel)
        assert channel.exchanges == ROUND
    channel.exchanges.clear()
    masked.aggregator.close(channel, 60.0)
    masked.aggregator.close(channel, 60.0)
    assert channel.exchanges == [Receive], "what was taken in is not sent again"
    for party in masked.parties.values():
        seen = masked.aggregator.witnesses
        assert party.notes.witness == seen[1].plus(seen[2]).plus(seen[3])


class Watching:
    """Another channel, which remembers the requests of every exchange."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []
        self.hospitals = inner.hospitals

    def ask(self, requests, deadline_s):
        self.asked.append(requests)
        return self.inner.ask(requests, deadline_s)


def test_the_sum_of_a_round_is_handed_out_with_the_next_announcement(make_masked):
    masked = make_masked()
    channel = Watching(masked.channel)
    masked.collect(masked.request(1), channel)
    assert {request.work.received for request in channel.asked[1].values()} == {None}
    masked.collect(masked.request(2), channel)
    [total] = {request.work.received for request in channel.asked[4].values()}
    mechanism = masked.mechanism
    residues = np.frombuffer(total, np.dtype(mechanism.ring.dtype).newbyteorder("<")).astype(mechanism.ring.dtype)
    opened = mechanism.decode(mechanism.lifted(residues))
    again = make_masked("again").ask(1).update
    np.testing.assert_array_equal(opened[: again.size].astype(np.float32), again)


class Away(Availability):
    """The first hospital is away in round 2."""

    absent = np.array([[0] * 5, [1, 0, 0, 0, 0], [0] * 5], dtype=bool)
    late = np.zeros((3, 5), dtype=bool)


@pytest.mark.parametrize("back", [True, False], ids=["in round 3", "at the end"])
def test_a_hospital_that_was_away_takes_in_the_sum_of_the_round_before(make_masked, back):
    """Else it would not notice that a round that it took part in lacked noise."""
    masked = make_masked()
    channel, seen = UnreliableChannel(masked.channel, Away(5, 3)), masked.aggregator.witnesses
    for round in (1, 2, 3) if back else (1, 2):
        masked.collect(masked.request(round), channel)
    masked.aggregator.close(channel, 60.0)
    away, there = (masked.parties[name].notes.witness for name in ("hospital-1", "hospital-2"))
    last = [seen[3]] if back else []
    assert away == sum_of_all([seen[1], *last])
    assert there == sum_of_all([seen[1], seen[2], *last])


def sum_of_all(witnesses):
    return reduce(lambda one, other: one.plus(other), witnesses)


def test_a_sum_that_is_handed_out_twice_is_taken_in_once(make_masked):
    """As after a reply that was lost."""
    masked = make_masked()
    channel = Watching(masked.channel)
    masked.collect(masked.request(1), channel)
    masked.aggregator.close(channel, 60.0)
    received, party = channel.asked[-1], masked.parties["hospital-1"]
    _, failures = masked.channel.ask(received, 60.0)
    assert not failures
    announce(party, masked.request(2), received=received["hospital-1"].work.total)
    assert party.notes.witness == masked.aggregator.witnesses[1]


# A hostile requester -------------------------------------------------------------------------------------------------

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
def test_a_question_that_was_not_agreed_on_is_refused_and_costs_nothing(make_masked, name):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, UNASKED[name]) == hospital.reply(UNASKED[name]) == REFUSED
    is_unharmed(masked, kept)


def by_work(work):
    return type(work).name


@pytest.mark.parametrize("work", [Confirm((b"one",)), Upload((b"one",)), Receive(b"total")], ids=by_work)
def test_a_step_without_an_announcement_is_refused_and_costs_nothing(make_masked, work):
    masked = make_masked()
    kept = notes_of(masked)
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, replace(GRADIENTS, work=work)) == PROTOCOL
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


def test_an_upload_is_sent_once_and_a_sum_of_other_bytes_is_refused(make_masked):
    masked = make_masked()
    channel = Watching(BytesChannel(masked.hospitals))
    masked.collect(masked.request(1), channel)
    upload, sent = channel.asked[3], len(masked.uploads)
    for name, request in upload.items():
        assert reply_to(masked.hospitals[name], request) == PROTOCOL
    assert len(masked.uploads) == sent == 5
    for hospital in masked.hospitals.values():
        assert reply_to(hospital, replace(GRADIENTS, work=Receive(b"total"))) == PROTOCOL
    assert masked.collect(masked.request(2), channel).failures == {}


def test_a_hospital_without_masks_takes_no_masked_step(make_federation):
    federation = make_federation(plan=private_plan())
    for hospital in hospitals_of(federation).values():
        for work in (announced().work, Confirm((b"one",)), Upload((b"one",)), Receive(b"total")):
            assert reply_to(hospital, replace(GRADIENTS, work=work)) == REFUSED
    assert not any(ledgers(federation).values())


def test_an_answer_that_is_not_finite_is_not_sent_and_its_charge_stands(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan())
    answer = Agent.answer_alone
    monkeypatch.setattr(
        Agent, "answer_alone", lambda self, asked: replace(answer(self, asked), update=np.full(34, np.nan, "f4"))
    )
    [hospital, *_] = hospitals_of(federation).values()
    assert reply_to(hospital, GRADIENTS) == Failure(FailureCode.INTERNAL, Stage.TRAINING)
    assert [len(entries) for entries in ledgers(federation).values()] == [1, 0, 0]


# Ending the run ------------------------------------------------------------------------------------------------------


class Breaking:
    """Another channel, on which the second hospital fails at one kind of work."""

    def __init__(self, inner, kind, code):
        self.inner, self.kind, self.code, self.asked = inner, kind, code, []
        self.hospitals = inner.hospitals

    def ask(self, requests, deadline_s):
        kinds = {type(request.work) for request in requests.values()}
        self.asked += kinds
        replies, failures = self.inner.ask(requests, deadline_s)
        if self.kind in kinds and "hospital-2" in requests:
            replies.pop("hospital-2", None)
            failures["hospital-2"] = Failure(self.code, Stage.ADMISSION)
        return replies, failures


@pytest.mark.parametrize("kind", [Announce, Confirm, Upload])
def test_a_broken_protocol_ends_the_run_and_another_failure_the_attempt(make_masked, kind):
    masked = make_masked()
    channel = Breaking(masked.channel, kind, FailureCode.PROTOCOL)
    with pytest.raises(FederationError, match="protocol, and hospital-2 found one that does not"):
        masked.collect(masked.request(1), channel)
    assert channel.asked[-1] is kind, "nothing is asked after it"
    assert channel.asked.count(kind) == 1

    other = make_masked("other")
    total = other.collect(other.request(1), Breaking(other.channel, kind, FailureCode.INTERNAL))
    assert list(total.failures) == ["hospital-2"]
    assert total.update is not None


def test_a_broken_protocol_at_the_end_is_an_error_as_well(make_masked):
    masked = make_masked()
    channel = Breaking(masked.channel, Receive, FailureCode.PROTOCOL)
    masked.collect(masked.request(1), channel)
    with pytest.raises(FederationError, match="hospital-2 found one"):
        masked.aggregator.close(channel, 60.0)


def test_missing_noise_ends_the_run_with_the_next_announcement(make_masked, monkeypatch, caplog):
    masked = make_masked()
    with monkeypatch.context() as patch:
        patch.setattr(IntegerMechanism, "encode", lambda self, rows, random_bytes: self.grid.sum_of(rows))
        masked.collect(masked.request(1))
    with ends_the_run(caplog, "is too little"):
        masked.collect(masked.request(2))
    assert {len(entries) for entries in ledgers(masked.federation).values()} == {1}, "round 2 costs nothing"


# What it says of itself ----------------------------------------------------------------------------------------------


def test_hello_says_how_far_a_hospital_is(make_masked):
    masked = make_masked()
    hello, hospital = Request(STUDY, 0, 1, SayHello()), masked.hospitals["hospital-1"]
    before = reply_to(hospital, hello)
    assert (before.charges, before.last_attempt) == (0, (0, 0))
    assert (before.study, before.classes, before.input_shape) == (STUDY, CLASSES, (1, 4, 4))
    masked.ask(1)
    after = reply_to(hospital, hello)
    assert (after.charges, after.last_attempt) == (1, (1, 1))
    assert after.weights_sha256 == before.weights_sha256
    assert ledgers(masked.federation)["hospital-1"][1:] == [], "saying so costs nothing"


def test_a_receipt_is_signed_and_says_what_the_ledger_holds(make_masked):
    masked = make_masked(plan=counted_plan())
    for round in (0, 1, 2):
        masked.ask(round)
    for name, hospital in masked.hospitals.items():
        receipt = reply_to(hospital, Request(STUDY, 0, 1, GiveReceipt()))
        check_receipt(receipt, masked.parties[name]._identity.key.public)
        assert (receipt.hospital, receipt.study, receipt.releases, receipt.counts) == (name, STUDY, 2, 1)
        ledger = hospital.agent.ledger
        assert receipt.ledger_head == ledger.head()
        events = ComposedEvent(tuple(entry.event for entry in ledger.entries()))
        assert receipt.epsilon_spent == pytest.approx(
            epsilon_of(events, receipt.delta, hospital.agent.plan.accountant)
        )
        with pytest.raises(FederationError):
            check_receipt(replace(receipt, releases=1), masked.parties[name]._identity.key.public)


def test_a_new_coordinator_goes_on_where_the_hospitals_are(make_masked):
    masked = make_masked()
    masked.ask(1)
    masked.aggregator = MaskedAggregator(masked.agreement)
    channel = Watching(masked.channel)
    assert masked.collect(masked.request(1), channel).failures == {}
    assert {request.work.attempt for request in channel.asked[1].values()} == {2}
