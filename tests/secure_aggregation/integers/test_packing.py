"""Packed coordinates are one little-endian number, whatever the bits and however many there are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secure_aggregation.round.rounds import make_round

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.packing import check_packed, pack, packed_bytes, unpack
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.upload import Upload, size_of_upload

BITS = range(16, 65)


def whole_words(ring, count, seed=0):
    return np.frombuffer(np.random.default_rng(seed).bytes(count * ring.dtype.itemsize), ring.dtype)


def as_one_number(words, bits):
    """The sum of x 2^(b i), in Python's own whole numbers."""
    number = sum((int(x) % 2**bits) << (bits * place) for place, x in enumerate(words))
    return number.to_bytes(-(-len(words) * bits // 8), "little")


def test_packed_coordinates_are_one_number_and_come_back():
    for bits in BITS:
        ring = Ring(bits)
        for count in (1, 2, 3, 31, 33, 63, 65, 127, 129, 257):
            words = whole_words(ring, count, bits)
            packed = pack(words, ring)
            assert bytes(packed) == as_one_number(words, bits)
            assert len(packed) == packed_bytes(count, ring)
            found = unpack(packed, count, ring)
            assert found.dtype == ring.dtype
            np.testing.assert_array_equal(found, ring.lowest(words))


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from(BITS), count=st.integers(1, 300_000), seed=st.integers(0, 99))
def test_they_come_back_however_many_there_are(bits, count, seed):
    ring = Ring(bits)
    words = whole_words(ring, count, seed)
    packed = pack(words, ring)
    np.testing.assert_array_equal(unpack(packed, count, ring), ring.lowest(words))
    lone = int.from_bytes(bytes(packed[: bits * 8]), "little")  # the first 64 coordinates
    assert [lone >> (bits * n) & (2**bits - 1) for n in range(min(count, 64))] == ring.lowest(words[:64]).tolist()


@pytest.mark.parametrize(("bits", "dtype"), [(32, "<u4"), (64, "<u8")])
def test_of_whole_words_they_are_the_words(bits, dtype):
    words = whole_words(Ring(bits), 100_001)
    assert words.dtype == dtype
    assert bytes(pack(words, Ring(bits))) == words.tobytes()


@pytest.mark.parametrize("bits", [17, 31, 40, 63])
def test_what_lies_otherwise_in_memory_is_packed_alike(bits):
    ring = Ring(bits)
    words = whole_words(ring, 2_001)
    shifted = np.frombuffer(b"\0" + words.tobytes(), np.uint8)[1:].view(ring.dtype)
    assert pack(np.repeat(words, 2)[::2], ring) == pack(shifted, ring) == pack(words, ring)
    content = pack(words, ring).tobytes()
    np.testing.assert_array_equal(unpack(memoryview(b"name" + content)[4:], 2_001, ring), ring.lowest(words))


def test_any_bit_behind_the_last_coordinate_is_refused():
    for bits in [bits for bits in BITS if bits * 5 % 8]:
        ring = Ring(bits)
        content = bytearray(pack(whole_words(ring, 5), ring))
        for bit in range(bits * 5 % 8, 8):
            content[-1] |= 1 << bit
            for check in (unpack, check_packed):
                with pytest.raises(
                    FederationError, match=rf"5 coordinates of {bits} bits must be {len(content)} bytes"
                ):
                    check(bytes(content), 5, ring)
            content[-1] &= ~(1 << bit) & 255
        check_packed(bytes(content), 5, ring)


@pytest.mark.parametrize("bits", [16, 17, 31, 40, 64])
def test_a_byte_too_few_or_too_many_is_refused(bits):
    for change in (-1, 1):
        ring = Ring(bits)
        content = bytes(packed_bytes(5, ring) + change)
        with pytest.raises(FederationError, match="ask for the same bytes again"):
            unpack(content, 5, ring)


def test_a_length_that_nothing_has_takes_no_memory():
    with pytest.raises(FederationError, match="coordinates of 31 bits must be"):
        unpack(b"\0" * 100, 2**63, Ring(31))


def sent(bits=31):
    round = make_round(3, ring=Ring(bits), length=6)
    return round, round.upload(0, np.arange(6).astype(Ring(bits).dtype)).to_bytes()


BITS_AT, COORDINATES_AT = 40, 41


def malformed(what, content):
    changed = bytearray(content)
    if what == "too short":
        return content[:-1]
    if what == "too long":
        return content + b"\0"
    if what == "padding":
        changed[-1] |= 0x80
    elif what == "another ring":
        changed[BITS_AT] = 32
    elif what == "no ring":
        changed[BITS_AT] = 8
    elif what == "one coordinate more":
        changed[COORDINATES_AT + 7] += 1
    elif what == "more coordinates than there are bytes in the world":
        changed[COORDINATES_AT] = 255
    return bytes(changed)


@pytest.mark.parametrize(
    "what",
    [
        "too short", "too long", "padding", "another ring", "no ring", "one coordinate more",
        "more coordinates than there are bytes in the world",
    ],
)  # fmt: skip
def test_a_malformed_upload_is_refused_in_one_sentence(what):
    round, content = sent()
    assert len(content) == size_of_upload(
        round.transcript.terms.length, round.transcript.terms.ring, "hospital 00"
    )
    assert 11 * 31 % 8, "there is padding"
    MaskedSum(round.transcript).add(Upload.from_bytes(content))
    with pytest.raises(FederationError, match="must be whole and in the format") as refused:
        Upload.from_bytes(malformed(what, content))
    assert str(refused.value).count(". ") == 0


def test_padding_that_was_signed_is_refused_and_changes_nothing():
    round, content = sent()
    good = Upload.from_bytes(content)
    payload = bytearray(good.payload)
    payload[-1] |= 0x80
    head = good.hospital, good.transcript, good.ring, good.coordinates, bytes(payload)
    signature = round.identities[0].key.sign("wardround/v1/upload", *Upload(*head, b"")._signed_fields)
    total = MaskedSum(round.transcript)
    with pytest.raises(FederationError, match="whose last 3 bits are 0"):
        total.add(Upload(*head, signature))
    total.add(good)


def test_an_upload_of_another_ring_is_refused_though_it_was_signed():
    round, content = sent()
    good = Upload.from_bytes(content)
    head = good.hospital, good.transcript, Ring(30), good.coordinates, pack(good.residues, Ring(30))
    signature = round.identities[0].key.sign("wardround/v1/upload", *Upload(*head, b"")._signed_fields)
    with pytest.raises(FederationError, match="must have 11 coordinates of 31 bits, got 11 of 30"):
        MaskedSum(round.transcript).add(Upload(*head, signature))


def test_nothing_of_a_masked_word_above_its_low_bits_is_sent_or_signed():
    round = make_round(3, ring=Ring(20))
    masked = round.keys[0].masks(round.agreed).hide(np.zeros(8, np.uint32))
    assert (masked >> 20).any()
    sent, low = (Upload.signed(words, round.agreed, round.identities[0]) for words in (masked, masked % 2**20))
    assert sent.to_bytes() == low.to_bytes()
