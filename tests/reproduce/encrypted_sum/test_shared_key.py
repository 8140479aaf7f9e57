"""The published scheme: exact sums, and one key that opens every upload."""

import sys

import numpy as np
import pytest

from wardround.errors import FederationError, MissingExtra
from wardround.reproduce.encrypted_sum.shared_key import (
    PLAIN_MODULUS,
    SLOTS,
    SharedKey,
    added,
    encoded,
    encrypted,
    opened,
)


@pytest.fixture(scope="module")
def key():
    pytest.importorskip("tenseal", reason="TenSEAL is not installed")
    return SharedKey.new()


def numbers(count, length=SLOTS + 5):
    half = PLAIN_MODULUS // 2
    drawn = np.random.default_rng(count).integers(-half, half + 1, (count, length)) // count
    drawn[0, :2], drawn[1:, :2] = (half, -half), 0
    return drawn


def test_the_sum_is_exact_to_both_ends_of_the_range(key):
    vectors = numbers(3)
    total = opened(key.hospitals, added(key.server, [encrypted(key.server, vector) for vector in vectors]))
    np.testing.assert_array_equal(total, vectors.sum(axis=0))


def test_the_key_of_one_hospital_opens_the_upload_of_every_other(key):
    for vector in numbers(3):
        np.testing.assert_array_equal(opened(key.hospitals, encrypted(key.server, vector)), vector)


def test_the_server_alone_opens_nothing_and_adds(key):
    upload = encrypted(key.server, numbers(1)[0])
    with pytest.raises(FederationError, match="needs the secret key"):
        opened(key.server, upload)
    assert len(added(key.server, [upload, upload])) == 2
    assert key.hospitals.hex() not in repr(key)
    assert str(key.hospitals[:8]) not in repr(key).split("server=")[0]


def test_weights_are_rounded_to_three_decimals():
    assert encoded(np.array([0.0014, -0.0016, 2.0], np.float32)).tolist() == [1, -2, 2000]


def test_without_tenseal_one_sentence_says_what_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wardround\[encrypted\]'"):
        SharedKey.new()
