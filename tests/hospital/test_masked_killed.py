"""Dying at every step of a masked round: nothing leaves uncharged, and the round is completed."""

from contextlib import contextmanager

import numpy as np
import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.hospital.masked_rounds import decoded, expected_total

from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.upload import Upload

STEPS = {
    "announced": ("party", "announce"),
    "confirmed": ("party", "confirm"),
    "before the charge": ("before", "admit"),
    "after the charge": ("party", "admit"),
    "before the upload": ("before", "upload"),
    "after sending": ("party", "upload"),
    "after all have sent": ("total", ""),
    "during the sum": ("add", ""),
    "while receiving": ("before", "receive"),
}


class Killed(BaseException):
    """Nothing catches it."""


@contextmanager
def killed_at(masked, step, monkeypatch):
    """What is done within dies at the third call of a step, with other hospitals before and behind."""
    kind, name = STEPS[step]
    left = [1 if kind == "total" else 3]

    def dying(method, *, before):
        def call(*arguments):
            left[0] -= 1
            if before and left[0] == 0:
                raise Killed
            result = method(*arguments)
            if left[0] == 0:
                raise Killed
            return result

        return call

    if kind in ("party", "before"):
        for party in masked.parties.values():
            setattr(party, name, dying(getattr(party, name), before=kind == "before"))
    with monkeypatch.context() as patch:
        if kind in ("add", "total"):
            patch.setattr(MaskedSum, kind, dying(getattr(MaskedSum, kind), before=True))
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("seed", family([None, 5]), ids=["in earnest", "seeded"])
@pytest.mark.parametrize("step", family(STEPS, keep=list(STEPS)[::3]))
def test_killed_at_any_step_nothing_left_uncharged_and_the_round_is_completed(
    make_masked, monkeypatch, step, seed
):
    masked = make_masked(seed=seed)
    masked.ask(1)
    before = {name: masked.charges(name) for name in masked.channel.hospitals}
    sent = len(masked.uploads)
    with killed_at(masked, step, monkeypatch):
        masked.ask(2)
    for name, _ in masked.uploads[sent:]:
        on_disk = charges_in(masked.federation.ledgers[name].path)[name]
        assert len(on_disk) == before[name] + 1, "it left before it was charged"

    again = make_masked(federation=masked.federation)  # hospitals that were restarted read their notes
    left = {name for name, _ in masked.uploads[sent:]}
    total = again.ask(2)
    expected = expected_total(again, again.request(2), again.channel.hospitals)
    if seed is not None:
        np.testing.assert_array_equal(total.update, decoded(again, expected))
        assert {again.charges(name) for name in again.channel.hospitals} == {2}, "a repetition is the same release"
    else:
        assert all(again.charges(name) >= before[name] + 1 + (name in left) for name in again.channel.hospitals)
    transcripts = {Upload.from_bytes(content).transcript for _, content in masked.uploads[sent:] + again.uploads}
    assert len(transcripts) == 1 + bool(left), "a repeated attempt has masks of its own"


def test_killed_while_the_sum_before_is_taken_in(make_masked, monkeypatch):
    masked = make_masked(seed=None)
    masked.collect(masked.request(1))
    sent = len(masked.uploads)
    with killed_at(masked, "while receiving", monkeypatch):
        masked.collect(masked.request(2))
    assert len(masked.uploads) == sent
    again = make_masked(federation=masked.federation)
    assert again.ask(2).failures == {}
    assert {again.charges(name) for name in again.channel.hospitals} == {2}


@pytest.mark.parametrize("step", ["confirm", "admit"])
def test_a_hospital_that_is_started_again_within_an_attempt_is_in_the_next_one(make_masked, step):
    """It knows of no attempt any more; the same hospitals begin another, whose seeded release is the same."""
    masked = make_masked(seed=5)
    masked.ask(1)
    name = masked.channel.hospitals[1]
    party = masked.parties[name]
    method = getattr(party, step)

    def restarted(*arguments):
        setattr(party, step, method)
        party._attempt = None
        return method(*arguments)

    setattr(party, step, restarted)
    total = masked.ask(2)
    assert total.failures == {}
    expected = expected_total(masked, masked.request(2), masked.channel.hospitals)
    np.testing.assert_array_equal(total.update, decoded(masked, expected))
    assert {masked.charges(name) for name in masked.channel.hospitals} == {2}


def test_a_hospital_that_is_always_started_again_is_missing(make_masked):
    masked = make_masked(seed=5)
    name = masked.channel.hospitals[1]
    party = masked.parties[name]
    method = party.confirm

    def restarted(*arguments):
        party._attempt = None
        return method(*arguments)

    party.confirm = restarted
    assert set(masked.ask(1).failures) == {name}
