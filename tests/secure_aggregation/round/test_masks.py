"""Masks cancel in the sum, and in nothing less than the sum."""

import copy
import hashlib
import hmac
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import examples
from tests.secure_aggregation.round.rounds import (
    IN_RINGS,
    agreed_on,
    entropy_of,
    make_identities,
    make_round,
    make_terms,
    uniformity,
)

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.packing import pack, unpack
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.secret import Once, system_entropy
from wardround.secure_aggregation.round.masks import CHECK_BITS, Masks, Share, check_coordinates, pair_key
from wardround.secure_aggregation.round.round_key import RoundKey
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark

LONG = 60_000  # coordinates: two chunks of words of 32 bits, four of 64
ANY_RING = st.integers(16, 64).map(Ring)
BELIEVABLE = 1e-6


def residues(ring, count, seed=0):
    """Whole words, with bits above those that count."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)
    return drawn.astype(ring.dtype)


def total(parts):
    return np.sum(np.stack(parts), axis=0, dtype=parts[0].dtype)


@examples(40)
@given(count=st.integers(2, 20), length=st.integers(1, 50), ring=ANY_RING, seed=st.integers(0, 99))
def test_masks_cancel_in_the_sum_of_all(count, length, ring, seed):
    round = make_round(count, length=length, ring=ring, seed=seed)
    vectors = [residues(ring, length, seed + n) for n in range(count)]
    masked = [key.masks(round.agreed).hide(vector) for key, vector in zip(round.keys, vectors, strict=True)]
    # What is sent of them cancels modulo 2^b: a hospital's bits above are nobody's.
    sent = [unpack(pack(one, ring), one.size, ring) for one in masked]
    np.testing.assert_array_equal(ring.lowest(total(sent)[:length]), ring.lowest(total(vectors)))
    assert not ring.lowest(total(sent)[length:]).any()


def counter_mode(key, num_bytes):
    """AES-256 of the numbers from zero, block by block: what counter mode is."""
    numbers = b"".join(n.to_bytes(16, "big") for n in range(-(-num_bytes // 16)))
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(numbers)[:num_bytes]


@IN_RINGS
def test_a_masked_vector_is_the_vector_and_the_streams_of_each_pair(ring):
    shares = [Share(bytes([n]) * 32, adds=n % 2 == 0) for n in range(5)]
    vector = residues(ring, LONG)
    expected = np.concatenate([vector, np.zeros(check_coordinates(ring), ring.dtype)])
    for share in shares:
        stream = np.frombuffer(counter_mode(share.key, expected.nbytes), ring.dtype)
        expected = expected + stream if share.adds else expected - stream
    np.testing.assert_array_equal(Masks(shares, LONG, ring).hide(vector), expected)


def test_the_key_of_a_pair_is_hkdf_of_the_secret_salted_with_the_transcript():
    secret, salt, pair = b"s" * 32, b"t" * 32, (b"a" * 32, b"b" * 32)
    size = (32).to_bytes(8, "big")
    label = b"wardround/v1/mask"
    info = b"l" + (2).to_bytes(8, "big") + b"s" + len(label).to_bytes(8, "big") + label
    info += b"l" + (2).to_bytes(8, "big") + b"b" + size + pair[0] + b"b" + size + pair[1]
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    assert pair_key(secret, salt, pair) == hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def test_one_flipped_byte_of_the_transcript_s_hash_is_another_key():
    for byte in range(32):
        salt = bytearray(b"t" * 32)
        pair = (b"a" * 32, b"b" * 32)
        before = pair_key(b"s" * 32, bytes(salt), pair)
        salt[byte] ^= 1
        assert pair_key(b"s" * 32, bytes(salt), pair) != before


@IN_RINGS
def test_one_hospital_told_of_another_transcript_makes_the_sum_uniform(ring):
    round = make_round(4, length=LONG, ring=ring)
    told = round.transcript
    elsewhere = replace(told.members[3], ledger=LedgerMark(3, "0" * 63 + "4"))  # one digit of 64
    other = replace(told, members=(*told.members[:3], elsewhere))
    vectors = [np.arange(LONG).astype(ring.dtype)] * 4
    masked = [
        key.masks(agreed_on(other if n == 1 else told, round.identities)).hide(vectors[n])
        for n, key in enumerate(round.keys)
    ]
    assert uniformity(total(masked), ring) > BELIEVABLE
    again = make_round(4, length=LONG, ring=ring)
    agreed = total([key.masks(again.agreed).hide(vectors[n]) for n, key in enumerate(again.keys)])
    assert uniformity(agreed, ring) < BELIEVABLE  # the test sees what is not uniform


@IN_RINGS
def test_what_all_but_one_sent_is_uniform_each_and_together(ring):
    for missing in range(4):
        round = make_round(4, length=LONG, ring=ring)
        vector = np.ones(LONG, ring.dtype)
        masked = [key.masks(round.agreed).hide(vector) for n, key in enumerate(round.keys) if n != missing]
        for one in masked:
            assert uniformity(one, ring) > BELIEVABLE
        assert uniformity(total(masked), ring) > BELIEVABLE
        assert uniformity(total(masked[:2]), ring) > BELIEVABLE


def blocks(masked):
    content = masked.tobytes()
    return {content[start : start + 16] for start in range(0, len(content), 16)}


def test_another_attempt_shares_no_block_with_the_first():
    vector = np.zeros(LONG, np.uint32)
    first, second = (make_round(3, length=LONG, attempt=attempt) for attempt in (1, 2))
    same = make_round(3, length=LONG, attempt=1)
    for n in range(3):
        before = blocks(first.keys[n].masks(first.agreed).hide(vector))
        assert not before & blocks(second.keys[n].masks(second.agreed).hide(vector))
        assert before == blocks(same.keys[n].masks(same.agreed).hide(vector))  # so it is the attempt that counts


def test_another_attempt_shares_no_block_even_with_the_same_round_keys():
    vector, told = np.zeros(LONG, np.uint32), make_round(3, length=LONG).transcript
    fixed = bytes(range(32))

    def masked(attempt):
        terms = replace(told.terms, attempt=attempt)
        key = RoundKey(make_identities(3)[0], terms, LedgerMark(0, NO_ENTRY), lambda num_bytes: fixed)
        transcript = replace(told, terms=terms, members=(key.announcement.member, *told.members[1:]))
        return blocks(key.masks(agreed_on(transcript, make_identities(3))).hide(vector))

    assert masked(1) == masked(1)
    assert not masked(1) & masked(2)


def test_every_pair_of_a_round_has_a_key_of_its_own_that_the_earlier_hospital_adds(monkeypatch):
    made: list[list[Share]] = []

    class Recorded(Masks):
        def __init__(self, shares, length, ring):
            made.append(list(shares))
            super().__init__(shares, length, ring)

    monkeypatch.setattr("wardround.secure_aggregation.round.round_key.Masks", Recorded)
    round = make_round(6)
    for key in round.keys:
        key.masks(round.agreed)
    assert len({share.key for shares in made for share in shares}) == 15
    for number, shares in enumerate(made):
        assert [share.adds for share in shares] == [False] * number + [True] * (5 - number)


def test_a_second_vector_is_refused():
    round = make_round()
    masks = round.keys[0].masks(round.agreed)
    masks.hide(np.zeros(8, np.uint32))
    with pytest.raises(FederationError, match="used once only"):
        masks.hide(np.ones(8, np.uint32))
    with pytest.raises(FederationError, match="round key of hospital 00 must be used once only"):
        round.keys[0].masks(round.agreed)


@pytest.mark.parametrize("vector", [np.zeros(7, np.uint32), np.zeros(8), np.zeros(8, np.uint64), np.zeros((2, 4))])
def test_what_is_no_vector_of_the_ring_is_refused_and_uses_nothing_up(vector):
    round = make_round()
    masks = round.keys[0].masks(round.agreed)
    with pytest.raises(ValueError, match="vector must be"):
        masks.hide(vector)
    masks.hide(np.zeros(8, np.uint32))


def test_a_round_key_is_for_its_own_terms_and_its_own_hospital():
    round, other = make_round(), make_round(attempt=2)
    with pytest.raises(FederationError, match="terms and with the key that hospital 00 announced"):
        round.keys[0].masks(other.agreed)
    with pytest.raises(FederationError, match="used once only"):  # refused, and gone all the same
        round.keys[0].masks(round.agreed)
    with pytest.raises(FederationError, match="terms and with the key that hospital 02 announced"):
        round.keys[2].masks(agreed_on(replace(round.transcript, terms=other.transcript.terms), round.identities))
    with pytest.raises(FederationError, match="terms and with the key that hospital 01 announced"):
        round.keys[1].masks(
            agreed_on(replace(round.transcript, members=round.transcript.members[::2]), round.identities)
        )


@pytest.mark.parametrize("order", [bytes(32), (1).to_bytes(32, "little")])
def test_a_round_key_of_small_order_is_refused(order):
    round = make_round()
    weak = replace(round.transcript.members[1], round_key=order)
    members = (round.transcript.members[0], weak, round.transcript.members[2])
    with pytest.raises(FederationError, match="hospital 01 must be one with which a secret can be shared"):
        round.keys[0].masks(agreed_on(replace(round.transcript, members=members), round.identities))


def test_a_secret_is_neither_copied_nor_pickled_nor_shown():
    secret = Once(b"hush", "A key")
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            attempt(secret)
    assert "hush" not in repr(secret)
    assert secret.take() == b"hush"


def test_a_secret_stays_in_the_process_that_made_it(monkeypatch):
    secret = Once(b"hush", "A key")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(FederationError, match="A key must be used once only"):
        secret.take()


@pytest.mark.parametrize("failure", [OSError("no device"), NotImplementedError("no source")])
def test_without_entropy_nothing_is_announced(monkeypatch, failure):
    def fail(num_bytes):
        raise failure

    monkeypatch.setattr(os, "urandom", fail)
    with pytest.raises(FederationError, match="must give random bytes"):
        RoundKey(make_identities(1)[0], make_terms(), LedgerMark(0, NO_ENTRY), system_entropy)


def test_too_little_entropy_is_none(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda num_bytes: bytes(num_bytes - 1))
    with pytest.raises(FederationError, match="must give 32 random bytes for a key, and gave 31"):
        RoundKey(make_identities(1)[0], make_terms(), LedgerMark(0, NO_ENTRY), system_entropy)


def test_two_round_keys_of_the_operating_system_differ():
    identity, terms = make_identities(1)[0], make_terms()
    new = LedgerMark(0, NO_ENTRY)
    drawn = {RoundKey(identity, terms, new, system_entropy).announcement.member.round_key for _ in range(3)}
    assert len(drawn) == 3
    assert len(entropy_of(0)(32)) == 32


def test_the_check_has_128_bits_in_any_ring_and_no_coordinate_too_many():
    for bits in range(16, 65):
        check = check_coordinates(Ring(bits))
        assert (check - 1) * bits < CHECK_BITS == 128 <= check * bits
