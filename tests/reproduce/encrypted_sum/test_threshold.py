"""What a hospital adds to, opens and refuses under threshold encryption."""

from dataclasses import dataclass

import numpy as np
import pytest
from tests.secure_aggregation.round.rounds import Round, entropy_of, make_round

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import Bfv
from wardround.reproduce.encrypted_sum.joint_key import FIRST
from wardround.reproduce.encrypted_sum.signed_parts import Kind, SignedParts
from wardround.reproduce.encrypted_sum.threshold import ThresholdAddend, ThresholdTotal
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.grid import Grid
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST, Ring
from wardround.secure_aggregation.round.masked_sum import MaskedSum

LENGTH = 12


@dataclass
class Attempt:
    told: Round
    addends: list[ThresholdAddend]
    links: list[bytes]

    @property
    def transcript(self):
        return self.told.transcript

    def total(self):
        return ThresholdTotal(self.transcript, self.links)

    def uploads(self):
        return [addend.upload(np.full(LENGTH, n + 1, np.uint64)) for n, addend in enumerate(self.addends)]


def begin(count=3, *, agreed=True, **changes):
    pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")
    told = make_round(count, **{"length": LENGTH, "ring": WIDEST} | changes)
    addends = [ThresholdAddend(told.agreed, identity) for identity in told.identities]
    links: list[bytes] = []
    for addend in addends:
        links.append(addend.key(links))
    for addend in addends:
        if agreed:
            addend.agree(links)
    return Attempt(told, addends, links)


def test_noised_vectors_give_the_total_that_masks_give():
    terms = IntegerMechanism(0.5, 1.0, dimension=300, hospitals=3)
    samples = [np.random.default_rng(n).normal(size=(n, 300)) for n in range(3)]  # one of them empty
    noised = [terms.in_ring(terms.encode(sample, entropy_of(f"noise {n}"))) for n, sample in enumerate(samples)]
    attempt = begin(length=300, mechanism=terms.parameters)
    total, masks = attempt.total(), MaskedSum(attempt.transcript)
    uploads = [addend.upload(vector) for addend, vector in zip(attempt.addends, noised, strict=True)]
    for n, upload in enumerate(uploads):
        total.add(upload)
        masks.add(attempt.told.upload(n, noised[n]))
    opened = total.total([addend.opening(uploads) for addend in attempt.addends])
    np.testing.assert_array_equal(opened, masks.total())
    noise = sum(discrete_gaussian(300, terms.share_std, entropy_of(f"noise {n}")) for n in range(3))
    assert isinstance(terms.grid, Grid)
    np.testing.assert_array_equal(terms.lifted(opened), terms.grid.sum_of(np.concatenate(samples)) + noise)


def test_a_hospital_opens_the_sum_of_all_uploads_and_nothing_else():
    attempt = begin()
    uploads, addend = attempt.uploads(), attempt.addends[0]
    refused = {
        "hospital 02 did not": uploads[:2],
        "hospital 01, hospital 02 did not": uploads[:1],
        "did twice": [uploads[0], uploads[1], uploads[1]],
        "rests on others": [*uploads[:2], begin(agreed=True).addends[2].upload(np.zeros(LENGTH, np.uint64))],
        "another transcript": [*uploads[:2], begin(attempt=2).uploads()[2]],
        "must be whole": [*uploads[:2], b""],
        "must be one of the round's": [*uploads, begin(4, attempt=3).uploads()[3]],
    }
    for why, given in refused.items():
        with pytest.raises(FederationError, match=why):
            addend.opening(given)
    addend.opening(uploads)
    with pytest.raises(FederationError, match="must be used once only"):
        addend.opening(uploads)


def test_a_hospital_opens_nothing_in_which_its_own_upload_is_another():
    attempt = begin()
    uploads = attempt.uploads()
    sent = SignedParts.from_bytes(uploads[1], Kind.UPLOAD, 1, 10**6)
    ciphertexts = Bfv(3).encrypt(joint_public(attempt), np.zeros(LENGTH, np.int64))
    replaced = signed(attempt, Kind.UPLOAD, ciphertexts, sent.follows, place=1)  # by whoever has its signing key
    with pytest.raises(FederationError, match="contain what hospital 01 sent"):
        attempt.addends[1].opening([uploads[0], replaced, uploads[2]])


def joint_public(attempt):
    return SignedParts.from_bytes(attempt.links[-1], Kind.KEY, 1, 10**6).parts[0]


def signed(attempt, kind, parts, follows, place):
    identity = attempt.told.identities[place]
    return SignedParts.signed(kind, parts, follows, attempt.transcript, identity).to_bytes()


def test_nothing_is_sent_or_opened_before_the_joint_key_is_whole():
    attempt = begin(agreed=False)
    for use in (lambda one: one.upload(np.zeros(LENGTH, np.uint64)), lambda one: one.opening([])):
        with pytest.raises(FederationError, match="must have agreed to a joint key"):
            use(attempt.addends[0])
    with pytest.raises(FederationError, match="and hospital 02 did not"):
        attempt.addends[0].agree(attempt.links[:2])


def test_a_chain_that_was_changed_is_refused_by_every_hospital():
    attempt, other = begin(agreed=False), begin(agreed=False)
    first, second, third = attempt.links
    refused = {
        "rests on others": [other.links[0], second, third],
        "changed on the way": [first, second, third[:-1] + bytes([third[-1] ^ 1])],
        "must be that of hospital 01": [first, signed(attempt, Kind.KEY, [b"key"], _digest(first), 2), third],
        "must be whole": [first, second, b""],
        "got 4": [first, second, third, third],
    }
    for addend in attempt.addends:
        for why, links in refused.items():
            with pytest.raises(FederationError, match=why):
                addend.agree(links)
        with pytest.raises(FederationError, match=r"must contain what hospital 0\d added"):
            addend.agree(other.links)
        addend.agree(attempt.links)
        with pytest.raises(FederationError, match="must be used once only"):
            addend.agree(attempt.links)


def _digest(link):
    return SignedParts.from_bytes(link, Kind.KEY, 1, 10**6).digest


def test_a_secret_is_added_once_and_in_its_place():
    attempt = begin(agreed=False)
    with pytest.raises(FederationError, match="after 1 other hospitals, got the keys of 2"):
        attempt.addends[1].key(attempt.links[:2])
    with pytest.raises(FederationError, match="must be used once only"):
        attempt.addends[1].key(attempt.links[:1])


def test_a_sum_needs_one_opening_of_every_hospital_for_these_uploads():
    attempt = begin()
    uploads, total = attempt.uploads(), attempt.total()
    for upload in uploads:
        total.add(upload)
    openings = [addend.opening(uploads) for addend in attempt.addends]
    one = SignedParts.from_bytes(openings[2], Kind.OPENING, 1, 10**6)
    refused = {
        "2 openings, without hospital 02": openings[:2],
        "3 openings, without hospital 02": [*openings[:2], openings[1]],
        "4 openings, without nobody": [*openings, openings[0]],
        "changed on the way": [*openings[:2], openings[2][:-1] + bytes([openings[2][-1] ^ 1])],
        "rests on others": [*openings[:2], signed(attempt, Kind.OPENING, one.parts, bytes(32), 2)],
        "parts of one decryption": [*openings[:2], signed(attempt, Kind.OPENING, [b"no"], one.follows, 2)],
    }
    for why, given in refused.items():
        with pytest.raises(FederationError, match=why):
            total.total(given)
    np.testing.assert_array_equal(total.total(openings), np.full(LENGTH, 6, np.uint64))


def test_a_secret_that_is_not_in_the_key_is_found_in_the_sum():
    attempt = begin()
    uploads, total, bfv = attempt.uploads(), attempt.total(), Bfv(3)
    for upload in uploads:
        total.add(upload)
    openings = [addend.opening(uploads) for addend in attempt.addends]
    honest = SignedParts.from_bytes(openings[2], Kind.OPENING, 1, 10**6)
    _, stranger = bfv.new_part(joint_public(attempt))
    blocks = bfv.added([], SignedParts.from_bytes(uploads[0], Kind.UPLOAD, 1, 10**6).parts)
    wrong = signed(attempt, Kind.OPENING, bfv.partial(blocks, stranger, False), honest.follows, 2)
    with pytest.raises(FederationError, match="must belong to the joint key"):
        total.total([*openings[:2], wrong])


def test_openfhe_reads_nothing_that_is_not_signed(monkeypatch):
    attempt = begin()
    uploads, total = attempt.uploads(), attempt.total()
    read: list[str] = []
    monkeypatch.setattr(Bfv, "_read", lambda self, kind, *rest: read.append(kind))
    for place in (-1, 200, len(uploads[0]) // 2):
        changed = bytearray(uploads[0])
        changed[place] ^= 1
        with pytest.raises(FederationError):
            total.add(bytes(changed))
        with pytest.raises(FederationError):
            attempt.addends[1].opening([bytes(changed)])
    assert read == []


def test_a_signed_upload_that_openfhe_cannot_read_changes_nothing():
    attempt = begin()
    uploads, total = attempt.uploads(), attempt.total()
    follows = SignedParts.from_bytes(uploads[0], Kind.UPLOAD, 1, 10**6).follows
    total.add(uploads[1])
    with pytest.raises(FederationError, match="must be readable by this version of OpenFHE"):
        total.add(signed(attempt, Kind.UPLOAD, [b"no"], follows, 0))
    assert total.missing == ("hospital 00", "hospital 02")
    with pytest.raises(FederationError, match="key of hospital 00 must be readable"):
        begin_second_after(b"no")


def begin_second_after(public):
    told = make_round(length=LENGTH, ring=WIDEST)
    link = SignedParts.signed(Kind.KEY, [public], FIRST, told.transcript, told.identities[0]).to_bytes()
    ThresholdAddend(told.agreed, told.identities[1]).key([link])


def test_numbers_of_the_small_ring_are_refused():
    told = make_round(length=LENGTH, ring=Ring(32))
    with pytest.raises(FederationError, match=r"in the ring 2\^64, got 2\^32"):
        ThresholdAddend(told.agreed, told.identities[0])
