"""Rings of any number of bits: the smallest that holds a sum, and that low bits add up by themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.ring import Ring

BITS = range(16, 65)


def whole_words(ring, count, seed):
    return np.frombuffer(np.random.default_rng(seed).bytes(count * ring.dtype.itemsize), ring.dtype)


@pytest.mark.parametrize(
    ("largest", "bits"),
    [
        (0, 16), (2**15 - 1, 16), (2**15, 17), (2**30 - 1, 31), (2**30 - 0.5, 31), (2.0**30, 32), (2**31 - 1, 32),
        (2**31, 33), (2**62 - 1, 63), (2**63 - 1, 64),
    ],
)  # fmt: skip
def test_the_ring_is_the_smallest_that_holds_the_sum(largest, bits):
    assert Ring.for_sums_up_to(largest) == Ring(bits)


@pytest.mark.parametrize("largest", [2**63, 2.0**63, math.inf, math.nan, -1])
def test_a_sum_that_no_ring_holds_is_refused(largest):
    with pytest.raises(FederationError, match=r"must stay below 2\^63"):
        Ring.for_sums_up_to(largest)


@pytest.mark.parametrize("bits", [-1, 0, 15, 65, 31.0, "32", True])
def test_there_is_no_other_ring(bits):
    with pytest.raises(FederationError, match=r"must"):
        Ring(bits)


def test_every_whole_number_of_the_centred_half_is_lifted_to_itself_whatever_stands_above_it():
    for bits in BITS:
        ring, half = Ring(bits), 2 ** (bits - 1)
        numbers = [-half, -half + 1, -1, 0, 1, half - 1]
        words = np.array([number % 2**ring.word_bits for number in numbers], ring.dtype)
        assert ring.centred(words).tolist() == numbers
        above = whole_words(ring, len(numbers), bits) - ring.lowest(whole_words(ring, len(numbers), bits))
        assert ring.centred(ring.lowest(words) + above).tolist() == numbers
        assert ring.centred(words).dtype == np.int64


@given(bits=st.sampled_from(BITS), count=st.integers(2, 20), seed=st.integers(0, 999))
def test_the_low_bits_of_a_sum_of_words_are_the_sum_of_their_low_bits(bits, count, seed):
    ring = Ring(bits)
    words = [whole_words(ring, 5, seed + n) for n in range(count)]
    low = [[int(x) % 2**bits for x in one] for one in words]
    expected = [sum(column) % 2**bits for column in zip(*low, strict=True)]
    assert ring.lowest(np.sum(words, axis=0, dtype=ring.dtype)).tolist() == expected
    assert ring.lowest(words[0] - words[1]).tolist() == [(a - b) % 2**bits for a, b in zip(*low[:2], strict=True)]
