"""The steps of a threshold sum: what a hospital adds to, opens and refuses. Run in the clear and over OpenFHE."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tests.reproduce.encrypted_sum.schemes import InTheClear, with_openfhe
from tests.secure_aggregation.round.rounds import Round, entropy_of, make_round

from wardround.errors import FederationError
from wardround.noisers import NoiseShares
from wardround.reproduce.encrypted_sum.threshold import (
    FIRST,
    Signed,
    ThresholdHospital,
    joint_key,
    threshold_total,
)
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST, Ring
from wardround.secure_aggregation.round.masked_sum import MaskedSum

LENGTH = 12


@dataclass
class Attempt:
    told: Round
    scheme: Any
    hospitals: list[ThresholdHospital]
    links: list[Signed]

    @property
    def transcript(self):
        return self.told.transcript

    @property
    def key(self):
        return joint_key(self.transcript, self.links)

    def uploads(self):
        vectors = [np.full(LENGTH, n + 1, np.uint64) for n in range(len(self.hospitals))]
        return [one.upload(vector) for one, vector in zip(self.hospitals, vectors, strict=True)]

    def signed(self, kind, parts, follows, place):
        """A message of whoever has that hospital's signing key."""
        return Signed.by(self.told.identities[place], kind, parts, follows, self.transcript)

    def total(self, uploads, openings):
        return threshold_total(self.transcript, self.key[1], uploads, openings, self.scheme)


@pytest.fixture(params=[lambda: InTheClear, with_openfhe], ids=["clear", "openfhe"])
def begin(request):
    scheme_of = request.param()

    def start(count=3, *, agreed=True, **changes):
        told, scheme = make_round(count, **{"length": LENGTH, "ring": WIDEST} | changes), scheme_of(count)
        hospitals = [ThresholdHospital(told.agreed, identity, scheme) for identity in told.identities]
        links: list[Signed] = []
        for hospital in hospitals:
            links.append(hospital.link(links))
        for hospital in hospitals:
            if agreed:
                hospital.agree(links)
        return Attempt(told, scheme, hospitals, links)

    return start


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_total_is_the_sum_of_the_numbers_exactly(begin, count):
    attempt = begin(count)
    vectors = np.random.default_rng(0).integers(-(2**36), 2**36, (count, LENGTH)).astype(np.uint64)
    uploads = [one.upload(vector) for one, vector in zip(attempt.hospitals, vectors, strict=True)]
    openings = [hospital.opening(uploads[::-1]) for hospital in attempt.hospitals]
    total = attempt.total(uploads, openings[::-1])
    assert total.dtype == np.dtype("<u8")
    np.testing.assert_array_equal(total, sum(vectors))


def test_noised_vectors_give_the_total_that_masks_give(begin):
    terms = IntegerMechanism(0.5, 1.0, dimension=300, shares=NoiseShares(3))
    samples = [np.random.default_rng(n).normal(size=(n, 300)) for n in range(3)]  # one of them empty
    noised = [terms.in_ring(terms.encode(sample, entropy_of(f"noise {n}"))) for n, sample in enumerate(samples)]
    attempt = begin(length=300, mechanism=terms.parameters)
    masks = MaskedSum(attempt.transcript)
    uploads = [one.upload(vector) for one, vector in zip(attempt.hospitals, noised, strict=True)]
    for n in range(3):
        masks.add(attempt.told.upload(n, noised[n]))
    opened = attempt.total(uploads, [hospital.opening(uploads) for hospital in attempt.hospitals])
    np.testing.assert_array_equal(opened, masks.total())
    noise = sum(discrete_gaussian(300, terms.share_std, entropy_of(f"noise {n}")) for n in range(3))
    np.testing.assert_array_equal(terms.lifted(opened), terms.grid.sum_of(np.concatenate(samples)) + noise)


def test_a_hospital_opens_the_sum_of_all_uploads_and_nothing_else(begin):
    attempt = begin()
    uploads, hospital = attempt.uploads(), attempt.hospitals[0]
    refused = {
        "hospital 02 did not": uploads[:2],
        "hospital 01, hospital 02 did not": uploads[:1],
        "did twice": [*uploads, uploads[1]],
        "rests on others": [*uploads[:2], begin().hospitals[2].upload(np.zeros(LENGTH, np.uint64))],
        "another transcript": [*uploads[:2], begin(attempt=2).uploads()[2]],
        "must be one of the round's": [*uploads, begin(4, attempt=3).uploads()[3]],
    }
    for why, given in refused.items():
        with pytest.raises(FederationError, match=why):
            hospital.opening(given)
    hospital.opening(uploads)
    with pytest.raises(FederationError, match="must be used once only"):
        hospital.opening(uploads)


def test_a_hospital_opens_nothing_in_which_its_own_upload_is_another(begin):
    attempt = begin()
    uploads = attempt.uploads()
    ciphertexts = attempt.scheme.encrypt(attempt.key[0], np.zeros(LENGTH, np.int64))
    replaced = attempt.signed("upload", ciphertexts, uploads[1].follows, place=1)
    with pytest.raises(FederationError, match="contain what hospital 01 sent"):
        attempt.hospitals[1].opening([uploads[0], replaced, uploads[2]])


def test_nothing_is_sent_or_opened_before_the_joint_key_is_whole(begin):
    attempt = begin(agreed=False)
    for use in (lambda one: one.upload(np.zeros(LENGTH, np.uint64)), lambda one: one.opening([])):
        with pytest.raises(FederationError, match="must have agreed to a joint key"):
            use(attempt.hospitals[0])
    with pytest.raises(FederationError, match="and hospital 02 did not"):
        attempt.hospitals[0].agree(attempt.links[:2])


def test_a_chain_that_was_changed_is_refused_by_every_hospital(begin):
    attempt = begin(agreed=False)
    first, second, third = attempt.links
    another = attempt.signed("key", attempt.scheme.new_part(None)[0:1], FIRST, 0)
    refused = {
        "rests on others": [another, second, third],
        "changed on the way": [first, second, replace(third, parts=[third.parts[0] + b"\0"])],
        "must be that of hospital 01": [first, attempt.signed("key", [b"key"], first.digest, 2), third],
        "got 4": [first, second, third, third],
    }
    for n, hospital in enumerate(attempt.hospitals):
        for why, links in refused.items():
            with pytest.raises(FederationError, match=why):
                hospital.agree(links)
        own = attempt.signed("key", [b"another"], attempt.links[n - 1].digest if n else FIRST, n)
        rest = [own]
        for place in range(n + 1, 3):
            rest.append(attempt.signed("key", [b"key"], rest[-1].digest, place))
        with pytest.raises(FederationError, match=f"must contain what hospital 0{n} added"):
            hospital.agree([*attempt.links[:n], *rest])
        hospital.agree(attempt.links)
        with pytest.raises(FederationError, match="must be used once only"):
            hospital.agree(attempt.links)


def test_a_secret_is_added_once_and_in_its_place(begin):
    attempt = begin(agreed=False)
    with pytest.raises(FederationError, match="after 1 others, got 2"):
        attempt.hospitals[1].link(attempt.links[:2])
    with pytest.raises(FederationError, match="must be used once only"):
        attempt.hospitals[1].link(attempt.links[:1])


def test_a_vector_is_hidden_once_and_must_fit(begin):
    hospital = begin().hospitals[0]
    for vector in (np.zeros(LENGTH - 1, np.uint64), np.zeros(LENGTH, np.uint32)):
        with pytest.raises(ValueError, match=f"\\({LENGTH},\\)"):
            hospital.upload(vector)
    hospital.upload(np.zeros(LENGTH, np.uint64))
    with pytest.raises(FederationError, match="must be used once only"):
        hospital.upload(np.zeros(LENGTH, np.uint64))


def test_a_sum_needs_one_opening_of_every_hospital_for_these_uploads(begin):
    attempt = begin()
    uploads = attempt.uploads()
    openings = [hospital.opening(uploads) for hospital in attempt.hospitals]
    one = openings[2]
    refused = {
        "hospital 02 did not": openings[:2],
        "01, hospital 02 did not": [openings[0], openings[0]],
        "did twice": [*openings, openings[0]],
        "changed on the way": [*openings[:2], replace(one, parts=[one.parts[0] + b"\0"])],
        "rests on others": [*openings[:2], attempt.signed("opening", one.parts, bytes(32), 2)],
        "1 parts, got 2": [*openings[:2], attempt.signed("opening", [*one.parts] * 2, one.follows, 2)],
        "1 of kind key": [*openings[:2], attempt.signed("key", one.parts, one.follows, 2)],
        "must be readable": [*openings[:2], attempt.signed("opening", [b"no"], one.follows, 2)],
    }
    for why, given in refused.items():
        with pytest.raises(FederationError, match=why):
            attempt.total(uploads, given)
    np.testing.assert_array_equal(attempt.total(uploads, openings), np.full(LENGTH, 6, np.uint64))


def test_a_secret_that_is_not_in_the_key_is_found_in_the_sum(begin):
    attempt = begin()
    uploads, scheme = attempt.uploads(), attempt.scheme
    openings = [hospital.opening(uploads) for hospital in attempt.hospitals]
    _, stranger = scheme.new_part(attempt.key[0])
    parts = scheme.partial(scheme.added([], uploads[0].parts), stranger, leads=False)
    wrong = attempt.signed("opening", parts, openings[2].follows, 2)
    with pytest.raises(FederationError, match="must belong to the joint key"):
        attempt.total(uploads, [*openings[:2], wrong])


def test_every_field_of_a_message_is_signed(begin):
    attempt = begin()
    message = attempt.uploads()[1]
    others: dict[str, Any] = {
        "kind": "key", "transcript": bytes(32), "follows": bytes(32), "parts": [b"other"], "signature": bytes(64),
    }  # fmt: skip
    for name, value in others.items():
        changed = replace(message, **{name: value})
        with pytest.raises(FederationError, match="must carry its signature"):
            changed.check("upload", 1, attempt.transcript, message.follows)
    with pytest.raises(FederationError, match="must carry its signature"):
        replace(message, hospital="hospital 02").check("upload", 1, attempt.transcript, message.follows)
    one, other = (attempt.signed("key", parts, FIRST, 0) for parts in ([b"ab", b"c"], [b"a", b"bc"]))
    assert one.digest != other.digest, "bytes cannot move from one part to the next"


def test_the_scheme_reads_nothing_that_is_not_signed(begin, monkeypatch):
    attempt = begin()
    uploads = attempt.uploads()
    read: list[object] = []
    monkeypatch.setattr(attempt.scheme, "added", lambda *given: read.append(given))
    changed = replace(uploads[0], parts=[uploads[0].parts[0][:-1] + b"\0\0"])
    for use in (attempt.hospitals[1].opening, lambda given: attempt.total(given, [])):
        with pytest.raises(FederationError, match="changed on the way"):
            use([uploads[1], uploads[2], changed])
    assert read == []


def test_a_signed_message_that_cannot_be_read_opens_nothing(begin):
    attempt = begin()
    uploads = attempt.uploads()
    unreadable = attempt.signed("upload", [b"no"], uploads[0].follows, 0)
    with pytest.raises(FederationError, match="must be readable"):
        attempt.hospitals[1].opening([unreadable, *uploads[1:]])
    attempt.hospitals[1].opening(uploads)
    told = make_round(length=LENGTH, ring=WIDEST)
    link = Signed.by(told.identities[0], "key", [b"no"], FIRST, told.transcript)
    with pytest.raises(FederationError, match="must be readable"):
        ThresholdHospital(told.agreed, told.identities[1], attempt.scheme).link([link])


def test_numbers_of_the_small_ring_are_refused():
    told = make_round(length=LENGTH, ring=Ring(32))
    with pytest.raises(FederationError, match=r"in the ring 2\^64, got 2\^32"):
        ThresholdHospital(told.agreed, told.identities[0], None)  # type: ignore[arg-type]
