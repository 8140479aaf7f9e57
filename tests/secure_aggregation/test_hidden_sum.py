"""What every way of adding hidden vectors up must do: one suite, run over masks and over threshold encryption."""

from dataclasses import dataclass

import numpy as np
import pytest
from tests.secure_aggregation.rounds import make_round

from wardround.errors import FederationError
from wardround.secure_aggregation.hidden_sum import HiddenAddend, HiddenSum, MaskedAddend, MaskedTotal
from wardround.secure_aggregation.ring import WIDEST
from wardround.secure_aggregation.threshold import ThresholdAddend, ThresholdTotal

LENGTH = 40


@dataclass
class Attempt:
    addends: list[HiddenAddend]
    total: HiddenSum


def masked(count, **changes):
    told = make_round(count, ring=WIDEST, length=LENGTH, **changes)
    addends = [MaskedAddend(key, told.agreed, one) for key, one in zip(told.keys, told.identities, strict=True)]
    return Attempt([*addends], MaskedTotal(told.transcript))


def threshold(count, **changes):
    told = make_round(count, ring=WIDEST, length=LENGTH, **changes)
    addends = [ThresholdAddend(told.agreed, identity) for identity in told.identities]
    links: list[bytes] = []
    for addend in addends:
        links.append(addend.key(links))
    for addend in addends:
        addend.agree(links)
    return Attempt([*addends], ThresholdTotal(told.transcript, links))


@pytest.fixture(params=[masked, threshold], ids=["masks", "threshold"])
def begin(request):
    if request.param is threshold:
        pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")
    return request.param


def numbers(count, seed=0):
    """Whole numbers of both signs, in the ring."""
    drawn = np.random.default_rng(seed).integers(-(2**36), 2**36, (count, LENGTH))
    return list(drawn.astype(np.uint64))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_total_is_the_sum_of_the_numbers_exactly(begin, count):
    attempt, vectors = begin(count), numbers(count)
    uploads = [addend.upload(vector) for addend, vector in zip(attempt.addends, vectors, strict=True)]
    for upload in reversed(uploads):
        attempt.total.add(upload)
    total = attempt.total.total([addend.opening(uploads) for addend in attempt.addends])
    assert total.dtype == np.dtype("<u8")
    np.testing.assert_array_equal(total, sum(vectors))


def test_nothing_is_opened_with_an_upload_missing(begin):
    attempt = begin(3)
    uploads = [addend.upload(vector) for addend, vector in zip(attempt.addends[:2], numbers(2), strict=True)]
    for upload in uploads:
        attempt.total.add(upload)
    assert attempt.total.missing == ("hospital 02",)
    openings = []
    for addend in attempt.addends[:2]:  # either it gives nothing at all, or it refuses
        try:
            openings.append(addend.opening(uploads))
        except FederationError:
            openings.append(b"")
    assert not any(openings)
    with pytest.raises(FederationError, match="hospital 02 did not; nothing can be opened"):
        attempt.total.total(openings)


def test_a_vector_is_hidden_once(begin):
    addend = begin(3).addends[0]
    addend.upload(numbers(1)[0])
    with pytest.raises(FederationError, match="must be used once only"):
        addend.upload(numbers(1)[0])


@pytest.mark.parametrize("vector", [np.zeros(LENGTH - 1, np.uint64), np.zeros(LENGTH, np.uint32)])
def test_a_vector_of_another_length_or_ring_is_refused_and_costs_nothing(begin, vector):
    addend = begin(3).addends[1]
    with pytest.raises(ValueError, match=f"\\({LENGTH},\\)"):
        addend.upload(vector)


def test_an_upload_that_was_changed_stands_twice_or_is_of_another_attempt_is_not_added(begin):
    attempt, other = begin(3), begin(3, seed=1, attempt=2)
    uploads = [addend.upload(vector) for addend, vector in zip(attempt.addends, numbers(3), strict=True)]
    attempt.total.add(uploads[0])
    changed = uploads[1][:-1] + bytes([uploads[1][-1] ^ 1])
    refused = {
        "changed on the way": changed,
        "whole": uploads[1][:-1],
        "did twice": uploads[0],
        "another transcript": other.addends[1].upload(numbers(1)[0]),
    }
    for why, content in refused.items():
        with pytest.raises(FederationError, match=why):
            attempt.total.add(content)
    assert attempt.total.missing == ("hospital 01", "hospital 02")
    for upload in uploads[1:]:
        attempt.total.add(upload)
    total = attempt.total.total([addend.opening(uploads) for addend in attempt.addends])
    np.testing.assert_array_equal(total, sum(numbers(3)))


def test_a_sum_under_masks_is_given_nothing_to_open_it_with():
    attempt = masked(3)
    for addend, vector in zip(attempt.addends, numbers(3), strict=True):
        attempt.total.add(addend.upload(vector))
    with pytest.raises(FederationError, match="must open by itself"):
        attempt.total.total([b"", b"part", b""])
