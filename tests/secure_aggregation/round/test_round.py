"""A whole round over messages: who is let in, what is compared, and what a sum needs."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests.secure_aggregation.round.rounds import (
    IN_RINGS,
    agreed_on,
    entropy_of,
    make_identities,
    make_round,
    make_terms,
    pins_of,
)

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round.cohort import CohortRule, check_follows
from wardround.secure_aggregation.round.confirmation import Agreed, confirm
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.round_key import Announcement, RoundKey
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark, Summed, Terms
from wardround.secure_aggregation.round.upload import Upload, size_of_upload


@dataclass(frozen=True)
class Mechanism:
    parameters: dict[str, float]


def refuses_signature(round, **changes):
    changed = replace(round.announcements[1], **changes)
    announcements = [round.announcements[0], changed, round.announcements[2]]
    with pytest.raises(FederationError, match="announcement of hospital 01 must carry its signature"):
        round.rule.form(round.transcript.terms, announcements, round.announcements[0])


def with_another_ledger(transcript):
    *others, last = transcript.members
    return replace(transcript, members=(*others, replace(last, ledger=LedgerMark(2, "d" * 64))))


def vectors_of(round, seed=0):
    terms, draw = round.transcript.terms, np.random.default_rng(seed)
    return [draw.integers(0, 2**12, terms.length).astype(terms.ring.dtype) for _ in round.keys]


@IN_RINGS
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_sum_over_the_wire_is_the_sum(ring, count):
    round = make_round(count, ring=ring)
    vectors = vectors_of(round)
    Agreed(round.transcript, tuple(confirm(round.transcript, identity) for identity in round.identities))
    total = MaskedSum(round.transcript)
    for n in reversed(range(count)):
        content = round.upload(n, vectors[n]).to_bytes()
        assert len(content) == size_of_upload(
            round.transcript.terms.length, round.transcript.terms.ring, f"hospital {n:02d}"
        )
        total.add(Upload.from_bytes(content))
    np.testing.assert_array_equal(total.total(), sum(vectors))


def test_the_round_of_the_page_gives_the_sum():
    page = Path(__file__).resolve().parents[3] / "docs" / "secure-aggregation-masks.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    identities = make_identities(3)
    names = globals() | {
        "Terms": Terms, "Summed": Summed,
        "identities": identities, "pins": pins_of(identities), "run": "run-1", "study": "a" * 64, "model": "b" * 64,
        "ledger": LedgerMark(0, NO_ENTRY), "mechanism": Mechanism({"noise_multiplier": 1.0}), "length": 4,
        "ring": Ring(32),
        "code_version": "0",
        "vectors": [np.full(4, 2**31 + n, np.uint32) for n in range(3)], "system_entropy": entropy_of("page"),
    }  # fmt: skip
    exec(code, names)  # the page is ours
    np.testing.assert_array_equal(names["summed"], np.full(4, 2**31 + 3, np.uint32))


def test_every_hospital_forms_the_same_transcript():
    round = make_round(4)
    for n in range(4):
        shuffled = [round.announcements[(n + m) % 4] for m in range(4)]
        assert round.rule.form(round.transcript.terms, shuffled, round.announcements[n]) == round.transcript


@pytest.mark.parametrize("present", [1, 2])
def test_a_cohort_below_the_hospital_s_minimum_is_refused(present):
    round = make_round(3)
    rule = CohortRule(round.rule.pins, minimum=3)
    terms = replace(round.transcript.terms, hospitals=present)
    with pytest.raises(FederationError, match=f"at least 3 hospitals here, got {present}; nothing is sent"):
        rule.form(terms, round.announcements[:present], round.announcements[0])


@pytest.mark.parametrize("minimum", [-1, 0, 1])
def test_no_hospital_can_demand_to_be_alone(minimum):
    with pytest.raises(FederationError, match="smallest cohort must be at least 2"):
        CohortRule(Pins(), minimum=minimum)


def test_three_hospitals_are_demanded_when_nothing_is_said():
    assert CohortRule(Pins()).minimum == 3


def test_a_cohort_of_another_size_than_the_noise_is_for_is_refused():
    round = make_round(4)
    with pytest.raises(FederationError, match="must have the 4 hospitals that its noise is sized for, got 3"):
        round.rule.form(round.transcript.terms, round.announcements[:3], round.announcements[0])


def test_a_hospital_that_is_not_pinned_is_refused():
    round = make_round(3)
    rule = CohortRule(pins_of(round.identities[:2]))
    with pytest.raises(FederationError, match="'hospital 02' must be pinned here"):
        rule.form(round.transcript.terms, round.announcements, round.announcements[0])


def test_another_key_under_a_pinned_name_is_refused():
    round = make_round(3)
    impostor = Identity("hospital 02", SigningKey.new(entropy_of("impostor")))
    announced = RoundKey(
        impostor, round.transcript.terms, LedgerMark(0, NO_ENTRY), entropy_of("impostor")
    ).announcement
    with pytest.raises(FederationError, match="hospital 02 must announce itself with the key that is pinned"):
        round.rule.form(round.transcript.terms, [*round.announcements[:2], announced], round.announcements[0])


def test_one_s_own_name_with_another_key_among_the_pins_is_refused():
    round = make_round(3)
    pins = Pins({**round.rule.pins.keys, "hospital 00": bytes([7] * 32)})
    with pytest.raises(FederationError, match="hospital 00 must keep the key that is pinned"):
        CohortRule(pins).form(round.transcript.terms, round.announcements, round.announcements[0])


@pytest.mark.parametrize(
    "change",
    [
        {"round_key": bytes(range(32))},
        {"ledger": LedgerMark(1, "e" * 64)},
        {"ledger": LedgerMark(2, f"{1:064x}")},
        {"seen": ()},
    ],
)
def test_an_announcement_that_was_changed_on_the_way_is_refused(change):
    round = make_round(3)
    refuses_signature(round, member=replace(round.announcements[1].member, **change))


def test_a_broken_signature_is_refused():
    round = make_round(3)
    broken = bytearray(round.announcements[1].signature)
    broken[5] ^= 1
    refuses_signature(round, signature=bytes(broken))


@pytest.mark.parametrize("earlier", [{"round": 1}, {"attempt": 1}, {"model": "ee" * 32}, {"run": "run-0"}])
def test_a_round_key_of_another_round_is_refused_when_it_is_replayed(earlier):
    now = {"round": 2, "attempt": 2}
    round, before = make_round(3, **now), make_round(3, **(now | earlier))
    replayed = [*round.announcements[:2], before.announcements[2]]
    with pytest.raises(FederationError, match="hospital 02 must announce a key for this round's terms"):
        round.rule.form(round.transcript.terms, replayed, round.announcements[0])
    relabelled = replace(before.announcements[2], terms=round.transcript.terms.digest)
    with pytest.raises(FederationError, match="hospital 02 must carry its signature"):
        round.rule.form(round.transcript.terms, [*replayed[:2], relabelled], round.announcements[0])


def test_a_hospital_that_was_left_out_or_replaced_refuses():
    round = make_round(4)
    again = RoundKey(
        round.identities[0], round.transcript.terms, LedgerMark(7, "f" * 64), entropy_of("again")
    ).announcement
    for announcements in (round.announcements[1:], [again, *round.announcements[1:]]):
        terms = replace(round.transcript.terms, hospitals=len(announcements))
        with pytest.raises(FederationError, match="must contain hospital 00 as it announced itself"):
            round.rule.form(terms, announcements, round.announcements[0])


def test_a_hospital_that_is_announced_twice_is_refused():
    round = make_round(3)
    again = RoundKey(
        round.identities[2], round.transcript.terms, LedgerMark(7, "f" * 64), entropy_of("again")
    ).announcement
    terms = replace(round.transcript.terms, hospitals=3)
    with pytest.raises(FederationError, match=r"stands twice \(hospital 02, hospital 02"):
        round.rule.form(terms, [round.announcements[0], round.announcements[2], again], round.announcements[0])


def test_a_round_key_may_not_serve_two_hospitals():
    identities = make_identities(3)
    terms = make_terms()
    keys = [RoundKey(identity, terms, LedgerMark(0, NO_ENTRY), entropy_of("the same")) for identity in identities]
    announcements = [key.announcement for key in keys]
    with pytest.raises(FederationError, match="its own round key"):
        CohortRule(pins_of(identities)).form(terms, announcements, announcements[0])


@pytest.mark.parametrize(("number", "attempt"), [(1, 9), (3, 1), (3, 2)])
def test_an_attempt_that_was_made_is_not_made_again(number, attempt):
    with pytest.raises(FederationError, match="must come after round 3, attempt 2"):
        check_follows(make_terms(round=number, attempt=attempt), (3, 2))


@pytest.mark.parametrize(("number", "attempt", "last"), [(1, 1, None), (3, 3, (3, 2)), (4, 1, (3, 2))])
def test_a_new_attempt_may_be_made(number, attempt, last):
    check_follows(make_terms(round=number, attempt=attempt), last)


def test_a_hospital_that_was_told_something_else_is_found_before_anything_is_sent():
    round = make_round(3)
    other = with_another_ledger(round.transcript)
    told = [round.transcript, other, round.transcript]
    said = [confirm(transcript, identity) for transcript, identity in zip(told, round.identities, strict=True)]
    with pytest.raises(FederationError, match="hospital 01 must have been told the same"):
        Agreed(round.transcript, tuple(said))
    with pytest.raises(FederationError, match="hospital 00 must have been told the same"):
        Agreed(other, tuple(said))


def test_a_confirmation_cannot_be_forged_left_out_or_repeated():
    round = make_round(3)
    said = [confirm(round.transcript, identity) for identity in round.identities]
    forged = replace(said[1], signature=said[0].signature)
    with pytest.raises(FederationError, match="confirmation of hospital 01 must carry its signature"):
        Agreed(round.transcript, (said[0], forged, said[2]))
    for wrong in (said[:2], [*said, said[0]], [said[0], said[0], said[2]], []):
        with pytest.raises(FederationError, match="must confirm it once"):
            Agreed(round.transcript, tuple(wrong))


def test_what_was_agreed_on_cannot_be_had_without_the_confirmations_of_all():
    round = make_round(3)
    other = replace(round.transcript, terms=replace(round.transcript.terms, attempt=2))
    said = tuple(confirm(round.transcript, identity) for identity in round.identities)
    assert Agreed(round.transcript, said) == round.agreed
    for made in (lambda: Agreed(round.transcript, said[:2]), lambda: replace(round.agreed, confirmations=())):
        with pytest.raises(FederationError, match="must confirm it once"):
            made()
    with pytest.raises(FederationError, match="must have been told the same"):
        replace(round.agreed, transcript=other)


@pytest.mark.parametrize("step", ["masks", "upload"])
def test_a_transcript_that_nobody_confirmed_gives_neither_masks_nor_an_upload(step):
    round = make_round(3)
    masked = round.keys[1].masks(round.agreed).hide(vectors_of(round)[1])
    steps = {
        "masks": lambda: round.keys[0].masks(round.transcript),
        "upload": lambda: Upload.signed(masked, round.transcript, round.identities[1]),
    }
    with pytest.raises(AttributeError):
        steps[step]()


def test_without_one_hospital_nothing_is_opened_and_the_others_begin_again():
    round = make_round(4)
    vectors = vectors_of(round)
    total = MaskedSum(round.transcript)
    for n in (0, 1, 3):
        total.add(round.upload(n, vectors[n]))
    assert total.missing == ("hospital 02",)
    with pytest.raises(FederationError, match="hospital 02 did not; nothing can be opened"):
        total.total()

    terms = replace(round.transcript.terms, attempt=2, hospitals=3)
    left = [n for n in range(4) if n != 2]
    keys = {
        n: RoundKey(round.identities[n], terms, LedgerMark(8, "a" * 64), entropy_of(f"second {n}")) for n in left
    }
    announcements = [key.announcement for key in keys.values()]
    transcript = round.rule.form(terms, announcements, announcements[0])
    second, agreed = MaskedSum(transcript), agreed_on(transcript, round.identities)
    for n in left:
        second.add(Upload.signed(keys[n].masks(agreed).hide(vectors[n]), agreed, round.identities[n]))
    np.testing.assert_array_equal(second.total(), vectors[0] + vectors[1] + vectors[3])


def test_an_upload_counts_once():
    round = make_round(3)
    upload = round.upload(0, vectors_of(round)[0])
    total = MaskedSum(round.transcript)
    total.add(upload)
    with pytest.raises(FederationError, match="hospital 00 must upload once"):
        total.add(upload)


def test_masks_that_do_not_cancel_are_found_in_the_sum():
    round = make_round(3)
    other = with_another_ledger(round.transcript)
    told = [round.transcript, other, round.transcript]
    total = MaskedSum(round.transcript)
    for n, transcript in enumerate(told):  # it signs as if it agreed, so that only the masks can tell
        masked = round.keys[n].masks(agreed_on(transcript, round.identities)).hide(vectors_of(round)[n])
        total.add(Upload.signed(masked, round.agreed, round.identities[n]))
    assert not total.missing
    with pytest.raises(FederationError, match="masks of all hospitals must cancel, and do not"):
        total.total()


def test_an_upload_for_another_transcript_is_refused():
    round = make_round(3)
    other = with_another_ledger(round.transcript)
    with pytest.raises(FederationError, match="upload of hospital 00 must be masked for this round"):
        MaskedSum(round.transcript).add(round.upload(0, vectors_of(round)[0], other))


def test_an_upload_of_another_length_is_refused_before_and_after_it_is_signed():
    round = make_round(3)
    with pytest.raises(ValueError, match="masked vector of the transcript"):
        Upload.signed(np.zeros(8, np.uint32), round.agreed, round.identities[0])
    longer = replace(round.transcript, terms=replace(round.transcript.terms, length=9))
    unsigned = Upload("hospital 00", round.transcript.digest, Ring(32), 13, bytes(52), b"")
    signature = round.identities[0].key.sign("wardround/v1/upload", *unsigned._signed_fields)
    with pytest.raises(FederationError, match="must have 12 coordinates of 32 bits, got 13 of 32"):
        replace(unsigned, signature=signature).check(round.transcript)
    assert longer.digest != round.transcript.digest


def test_any_changed_byte_of_an_upload_is_refused():
    round = make_round(3)
    content = round.upload(0, vectors_of(round)[0]).to_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(FederationError, match="must"):
            MaskedSum(round.transcript).add(Upload.from_bytes(bytes(changed)))


def test_a_refused_upload_changes_nothing():
    round = make_round(3)
    vectors = vectors_of(round)
    total = MaskedSum(round.transcript)
    good = [round.upload(n, vectors[n]) for n in range(3)]
    stranger = make_round(4).upload(3, vectors[0])
    for bad in (replace(good[1], hospital="hospital 02"), replace(good[1], signature=bytes(64)), stranger):
        with pytest.raises(FederationError):
            total.add(bad)
    for upload in good:
        total.add(upload)
    np.testing.assert_array_equal(total.total(), sum(vectors))


def test_a_hospital_that_takes_no_part_is_refused():
    with pytest.raises(FederationError, match="'hospital 03' must be one of the round's hospitals"):
        MaskedSum(make_round(3).transcript).add(make_round(4).upload(3, np.zeros(8, np.uint32)))


@pytest.mark.parametrize("length", [0, 1, 50, 51, 60, 126, -1])
def test_a_truncated_upload_is_refused(length):
    round = make_round(3)
    content = round.upload(0, vectors_of(round)[0]).to_bytes()
    with pytest.raises(FederationError, match="must be whole and in the format"):
        Upload.from_bytes(content[:length])
    with pytest.raises(FederationError, match="must be whole and in the format"):
        Upload.from_bytes(content + b"\0")


def test_an_announcement_says_nothing_secret():
    key = make_round(3).keys[0]
    secret = key._secret.take().private_bytes_raw()
    assert isinstance(key.announcement, Announcement)
    assert secret.hex() not in repr(key.announcement)
    assert repr(secret) not in repr(key.announcement)
    assert secret not in key.announcement.member.round_key
