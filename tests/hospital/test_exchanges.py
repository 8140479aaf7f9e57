"""The exchanges of masked rounds: how many, what is handed out with them, and what ends the run."""

from functools import reduce

import numpy as np
import pytest
from tests.hospital.bytes_channel import BytesChannel
from tests.hospital.masked_rounds import (
    Watching,
    announce,
    ends_the_run,
    ledgers,
)

from wardround.errors import FederationError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.simulation.availability import Availability, UnreliableChannel
from wardround.work import (
    Announce,
    Confirm,
    Receive,
    SayHello,
    Upload,
)

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


def test_a_sum_is_handed_out_with_the_next_announcement(make_masked):
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
def test_a_hospital_that_was_away_takes_in_the_sum_it_missed(make_masked, back):
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


# Ending the run -----------------------------------------------------------------------------------------------------


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
def test_a_broken_protocol_ends_the_run_a_failure_the_attempt(make_masked, kind):
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
        patch.setattr(IntegerMechanism, "noised", lambda self, total_of, random_bytes: total_of())
        masked.collect(masked.request(1))
    with ends_the_run(caplog, "is too little"):
        masked.collect(masked.request(2))
    assert {len(entries) for entries in ledgers(masked.federation).values()} == {1}, "round 2 costs nothing"
