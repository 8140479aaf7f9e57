"""What a hospital says of itself: its hello and its receipt."""

from dataclasses import replace

import pytest
from tests.charges import charges_of
from tests.fixtures_federation import STUDY
from tests.hospital.bytes_channel import reply_to
from tests.hospital.masked_rounds import (
    CLASSES,
    Watching,
    counted_plan,
    ledgers,
)

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent
from wardround.errors import FederationError
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Request
from wardround.federation.receipts import check_receipt
from wardround.hospital.known_ledgers import sealed_head
from wardround.work import (
    GiveReceipt,
    SayHello,
)


def test_hello_says_how_far_a_hospital_is(make_masked):
    masked = make_masked()
    hello, hospital = Request(STUDY, 0, 1, SayHello()), masked.hospitals["hospital-1"]
    before = reply_to(hospital, hello)
    assert before.last_attempt == (0, 0)
    assert (before.study, before.classes, before.input_shape) == (STUDY, CLASSES, (1, 4, 4))
    masked.ask(1)
    after = reply_to(hospital, hello)
    assert after.last_attempt == (1, 1)
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
        account = hospital.agent.account
        entries, head = account.position()
        assert receipt.ledger_head == sealed_head(head, hospital.identity)
        heads = {account.head_after(number) for number in range(entries + 1)}
        assert head in heads
        assert receipt.ledger_head not in heads, "a head is a hash over who was in the run: two cases can be tried"
        events = ComposedEvent(tuple(charge.event for charge in charges_of(account)))
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
