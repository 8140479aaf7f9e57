"""Bytes of messages: each comes back as it was, within the limits of who reads it."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from tests.cases import examples
from tests.federation.message_values import (
    CLASSES,
    FULL,
    HASH,
    LIMITS,
    MESSAGES,
    PARAMETERS,
    REPLIES,
    SELECTION,
    WEIGHTS,
    WORKS,
    example,
    members,
    replies,
    requests,
    same,
)

from wardround.accounting.events import (
    NoEvent,
)
from wardround.errors import FederationError
from wardround.federation.messages import (
    Answer,
    Failure,
    Reply,
    Request,
    Signed,
    Uploaded,
)
from wardround.federation.wire.codecs import Record
from wardround.federation.wire.limits import MOST_SIGNED_BYTES, Limits
from wardround.federation.wire.tables import (
    REPLY,
    REQUEST,
    SUMMED,
    WORK,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from wardround.work import (
    Announce,
    CountClasses,
    CountPatients,
    Evaluate,
    FittedHead,
    GradientSum,
    HeadFit,
    LocalUpdate,
    Receive,
    SelectiveUpdate,
    Summed,
    Work,
    histogram_coordinates,
)


@examples(150)
@given(requests())
def test_every_request_comes_back_as_it_was(request):
    assert same(request, decode_request(encode_request(request), LIMITS))


@examples(150)
@given(replies())
def test_every_reply_comes_back_as_it_was(reply):
    assert same(reply, decode_reply(encode_reply(reply), LIMITS))


def test_every_class_has_a_codec_and_is_drawn_here():
    """A new class in a union fails here until it has a codec and a strategy."""
    for union, codec, drawn in ((Work, WORK, WORKS), (Reply | Failure, REPLY, REPLIES)):
        assert {record.make for record in codec.records} == members(union) == set(drawn)
        assert len({record.kind for record in codec.records}) == len(codec.records)
        for record in codec.records:
            assert codec.record_of(example(drawn[record.make])) is record
    assert {record.make for record in SUMMED.records} == members(Summed)


def records_in(*records):
    for record in records:
        yield record
        yield from records_in(*(codec for codec in record.fields.values() if isinstance(codec, Record)))


RECORDS = list(records_in(REQUEST, *WORK.records, *REPLY.records))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.kind)
def test_a_codec_has_exactly_the_fields_of_its_class(record):
    assert set(record.fields) == {field.name for field in fields(record.make)}


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (CountPatients(), 1),
        (CountClasses(), CLASSES),
        (GradientSum(WEIGHTS), PARAMETERS),
        (GradientSum(WEIGHTS, 0.5), PARAMETERS + 1),
        (FittedHead(HeadFit(0.1, 1.0, None)), PARAMETERS),
        (Evaluate(WEIGHTS), histogram_coordinates(CLASSES)),
    ],
    ids=str,
)
def test_an_answer_has_the_length_that_was_asked_for(work, expected):
    for size in {*range(PARAMETERS + 3), expected - 1, expected, expected + 1}:
        content = encode_reply(Answer(np.ones(size, dtype=np.float32), NoEvent()))
        if size == expected:
            assert decode_reply(content, LIMITS.answering(work))
        else:
            with pytest.raises(FederationError):
                decode_reply(content, LIMITS.answering(work))


@pytest.mark.parametrize("size", [0, PARAMETERS - 1, PARAMETERS + 1])
def test_weights_of_another_network_are_refused(size):
    weights = np.zeros(size, dtype=np.float32)
    for work in (GradientSum(weights), LocalUpdate(weights, FULL), Announce(GradientSum(weights), 1, 3)):
        with pytest.raises(FederationError):
            decode_request(encode_request(Request("study", 1, 1, work)), LIMITS)


def test_vectors_of_different_lengths_are_refused():
    content = encode_request(Request("study", 1, 1, SelectiveUpdate(WEIGHTS[:2], FULL, SELECTION)))
    with pytest.raises(FederationError):
        decode_request(content, LIMITS)
    for size in (0, PARAMETERS - 1, PARAMETERS + 1):
        content = encode_reply(Answer(WEIGHTS, NoEvent(), np.zeros(size, dtype=np.float32)))
        with pytest.raises(FederationError):
            decode_reply(content, LIMITS)


def test_long_contents_are_refused_by_their_declared_length():
    for reply, most in (
        (Signed(bytes(MOST_SIGNED_BYTES + 1)), MOST_SIGNED_BYTES),
        (Uploaded(bytes(LIMITS.most_residue_bytes + 1), NoEvent()), LIMITS.most_residue_bytes),
        (Answer(np.zeros(PARAMETERS + 2, dtype=np.float32), NoEvent()), PARAMETERS + 1),
    ):
        with pytest.raises(FederationError, match=f"at most {most} "):
            decode_reply(encode_reply(reply), LIMITS)


def test_a_receipt_with_a_key_alone_is_refused():
    receipt = replace(MESSAGES["receipt"], signature=b"")
    with pytest.raises(FederationError):
        decode_reply(encode_reply(receipt), LIMITS)


def test_an_unknown_network_is_bounded():
    limits = Limits(most_parameters=4)
    for size in range(1, 7):
        content = encode_request(Request("study", 1, 1, GradientSum(np.zeros(size, dtype=np.float32))))
        if size <= 4:
            assert decode_request(content, limits)
        else:
            with pytest.raises(FederationError):
                decode_request(content, limits)


@pytest.mark.parametrize(
    "work",
    [
        GradientSum(np.zeros(3)),  # type: ignore[arg-type]
        GradientSum(np.zeros((1, 3), dtype=np.float32)),
        GradientSum(np.array([np.nan], dtype=np.float32)),
        GradientSum(WEIGHTS, math.inf),
        LocalUpdate(WEIGHTS, replace(FULL, steps=0)),
        LocalUpdate(WEIGHTS, replace(FULL, steps=True)),
        LocalUpdate(WEIGHTS, replace(FULL, class_weights=[1.0])),  # type: ignore[arg-type]
        Receive(bytearray(3)),  # type: ignore[arg-type]
    ],
)
def test_a_sender_is_refused_what_no_receiver_would_take(work):
    with pytest.raises(FederationError):
        encode_request(Request("study", 1, 1, work))


def test_numbers_of_other_types_are_sent_as_floats():
    other: dict[str, Any] = {"momentum": 0, "learning_rate": np.float32(0.5)}
    steps = replace(FULL, **other, correction=np.arange(10, dtype=np.float32)[::2])
    work = decode_request(encode_request(Request("study", 1, 1, LocalUpdate(WEIGHTS, steps))), LIMITS).work
    assert isinstance(work, LocalUpdate)
    assert (type(work.steps.momentum), work.steps.learning_rate) == (float, 0.5)
    assert work.steps.correction is not None
    assert work.steps.correction.tolist() == [0, 2, 4, 6, 8]


def test_a_gradient_sum_has_less_than_a_kibibyte_beside_its_numbers():
    weights = np.zeros(100_001, dtype=np.float32)
    request = Request(HASH, 2**31 - 1, 2**31 - 1, GradientSum(weights, 1.0000000000000002e-300))
    content = encode_request(request)
    assert len(content) - weights.nbytes < 1024
    work = decode_request(content, Limits.of_network(weights.size)).work
    assert isinstance(work, GradientSum)
    assert np.shares_memory(work.weights, np.frombuffer(content, dtype=np.uint8))  # read without a copy
