"""The scheme without hospitals: exact sums to the ends of its range, all holders or nobody."""

import math
import sys

import numpy as np
import pytest

from wardround.errors import FederationError, MissingExtra
from wardround.reproduce.encrypted_sum import bfv
from wardround.reproduce.encrypted_sum.bfv import (
    MOST_PARTIES,
    PLAIN_MODULUS,
    SLOTS,
    Bfv,
)

HALF = PLAIN_MODULUS // 2
ONE_POLYNOMIAL, TWO_POLYNOMIALS = (n * 8 * 4 * SLOTS + 4096 for n in (1, 2))  # four primes, and a heading


@pytest.fixture
def scheme():
    pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")


def keys_of(scheme):
    public, secrets = None, []
    for _ in range(scheme.parties):
        public, secret = scheme.new_part(public)
        secrets.append(secret)
    return public, secrets


def encrypted_sum(scheme, public, vectors):
    total: list[object] = []
    for vector in vectors:
        total = scheme.added(total, scheme.encrypt(public, vector))
    return total


def partials_of(scheme, total, secrets):
    return [scheme.partial(total, secret, leads=n == 0) for n, secret in enumerate(secrets)]


def is_prime(number):
    """Miller and Rabin with the first twelve primes: decided below 3.3e24 (Sorenson and Webster 2015)."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    return all(
        pow(base, odd, number) == 1 or any(pow(base, odd << shift, number) == number - 1 for shift in range(twos))
        for base in bases
    )


def test_the_plain_modulus_is_the_largest_prime_below_2_to_the_40_that_packs():
    candidates = range((2**40 // (2 * SLOTS) - 1) * 2 * SLOTS + 1, 2**39, -2 * SLOTS)
    assert next(filter(is_prime, candidates)) == PLAIN_MODULUS


def test_rounding_stays_right_at_the_most_parties():
    assert MOST_PARTIES * PLAIN_MODULUS / 2 ** (bfv._PRIME_BITS - 1) < 1 / 2


@pytest.mark.parametrize("parties", [2, 10, 20])
def test_sums_are_exact_to_both_ends_of_the_range(scheme, parties):
    scheme = Bfv(parties)
    public, secrets = keys_of(scheme)
    vectors = np.random.default_rng(parties).integers(-HALF, HALF, (parties, SLOTS + 5)) // parties
    vectors[0, :4] = HALF, -HALF, HALF, -HALF
    vectors[1:, :4] = 0
    vectors[1, 2:4] = 1, -1  # one beyond either end
    expected = vectors.sum(axis=0)
    expected[2:4] = -HALF, HALF
    opened = scheme.fuse(partials_of(scheme, encrypted_sum(scheme, public, vectors), secrets))
    np.testing.assert_array_equal(opened[: SLOTS + 5], expected)
    assert not opened[SLOTS + 5 :].any()
    assert opened.size == 2 * SLOTS


def test_with_one_holder_missing_nothing_of_the_sum_is_there(scheme):
    scheme = Bfv(3)
    public, secrets = keys_of(scheme)
    vector = np.arange(SLOTS)
    partials = partials_of(scheme, encrypted_sum(scheme, public, [vector] * 3), secrets)
    for present in ([0, 1], [0, 2], [1, 2]):
        opened = scheme.fuse([partials[n] for n in present])
        assert np.count_nonzero(opened == 3 * vector) < 3
        assert abs(opened.mean()) < 5 * PLAIN_MODULUS / math.sqrt(12 * SLOTS)
        assert opened.std() == pytest.approx(PLAIN_MODULUS / math.sqrt(12), rel=0.05)


def test_the_same_numbers_never_give_the_same_bytes(scheme):
    scheme = Bfv(2)
    public, secrets = keys_of(scheme)
    (one,), (other,) = (scheme.encrypt(public, np.zeros(1, np.int64)) for _ in range(2))
    total = scheme.added([], [one])
    (part,), (again,) = (scheme.partial(total, secrets[0], leads=True) for _ in range(2))
    for first, second in ((one, other), (part, again)):
        words = [set(np.frombuffer(content[: len(content) // 8 * 8], "<u8")) for content in (first, second)]
        assert len(words[0] & words[1]) < len(words[0]) / 20


def test_its_parameters_are_those_of_its_page_and_its_bytes_within_the_limits(scheme):
    scheme = Bfv(3)
    context = scheme._context
    assert context.GetRingDimension() == SLOTS
    assert 217.9 < math.log2(context.GetModulus()) <= 218  # 98 bits of sum, 120 of flood; the standard's most
    public, secrets = keys_of(scheme)
    (content,) = scheme.encrypt(public, np.ones(SLOTS, np.int64))
    (part,) = scheme.partial(scheme.added([], [content]), secrets[0], leads=True)
    for found, most in (
        (public, TWO_POLYNOMIALS),
        (content, TWO_POLYNOMIALS),
        (part, ONE_POLYNOMIAL),
    ):
        assert 0.98 * most < len(found) < most


@pytest.mark.parametrize("parties", [0, 1, MOST_PARTIES + 1])
def test_too_few_or_too_many_are_refused(parties):
    with pytest.raises(FederationError, match=f"must have 2 to 100 hospitals, got {parties}"):
        Bfv(parties)


def test_without_openfhe_one_sentence_says_what_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openfhe", None)
    with pytest.raises(MissingExtra) as caught:
        Bfv(3)
    text = str(caught.value)
    assert text.count(". ") == 0
    for needed in ("OpenFHE", "CPython 3.10 on Ubuntu only", "from source", "masks"):
        assert needed in text
