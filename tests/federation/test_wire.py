"""Bytes of messages: every message comes back as it was, and no other bytes become a message."""

import json
import math
import struct
from dataclasses import fields, is_dataclass, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.errors import FederationError
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Hello,
    Receipt,
    Received,
    Reply,
    Request,
    Signed,
    Stage,
    Uploaded,
)
from wardround.federation.wire.frame import DEEPEST, MOST_HEADER_BYTES, VERSION
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.replies import REPLY, decode_reply, encode_reply
from wardround.federation.wire.requests import REQUEST, SUMMED, WORK, decode_request, encode_request
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    FittedHead,
    GiveReceipt,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Receive,
    SayHello,
    Selection,
    SelectiveUpdate,
    Summed,
    Upload,
    Work,
)

PARAMETERS, CLASSES = 5, 3
LIMITS = Limits.of_network(PARAMETERS, CLASSES)
HASH = "0123456789abcdef" * 4
PREFIX = struct.Struct("<10sHI")

# --- every message ----------------------------------------------------------------------------------------------------


def vector(size):
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return st.lists(number, min_size=size, max_size=size).map(lambda row: np.array(row, dtype=np.float32))


def number(least, most=None, **options):
    return st.floats(least, most, allow_nan=False, allow_infinity=False, **options)


POSITIVE = number(0, exclude_min=True)
FRACTION = number(0, 1, exclude_min=True)
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
BLOB = st.binary(max_size=20)
BLOBS = st.lists(BLOB, min_size=1, max_size=3).map(tuple)
COUNT = st.integers(0, 2**63 - 1)
LEAF = st.builds(GaussianEvent, POSITIVE) | st.builds(
    PoissonSampledEvent, FRACTION, st.builds(GaussianEvent, POSITIVE)
)
EVENT = st.recursive(
    LEAF | st.just(NonPrivateEvent()) | st.just(NoEvent()),
    lambda inner: (
        st.builds(SelfComposedEvent, inner, st.integers(0, 100))
        | st.builds(ComposedEvent, st.lists(inner, max_size=2).map(tuple))
    ),
    max_leaves=3,
)


def each_class(strategy):
    return st.none() | st.lists(strategy, min_size=CLASSES, max_size=CLASSES).map(tuple)


STEPS = st.builds(
    LocalSteps,
    steps=st.integers(1, 2**24),
    learning_rate=POSITIVE,
    momentum=number(0, 1, exclude_max=True),
    denominator=st.none() | POSITIVE,
    proximal=number(0),
    correction=st.none() | vector(PARAMETERS),
    velocity=st.none() | vector(PARAMETERS),
    keep_velocity=st.booleans(),
    class_weights=each_class(POSITIVE),
    class_sampling=each_class(FRACTION),
)
FIT = st.builds(HeadFit, POSITIVE, POSITIVE, st.none() | POSITIVE)


@st.composite
def selective(draw):
    chosen = sorted(draw(st.sets(st.integers(0, PARAMETERS - 1), min_size=1)))
    positions = np.array(chosen, dtype=np.int64)
    selection = Selection(positions, draw(FRACTION), draw(st.booleans()), draw(number(0)), draw(POSITIVE))
    return SelectiveUpdate(draw(vector(len(chosen))), draw(STEPS), selection)


GRADIENT_SUM = st.builds(GradientSum, weights=vector(PARAMETERS), clipping_norm=st.none() | POSITIVE)
OF = st.just(CountPatients()) | GRADIENT_SUM | st.just(GradientSum())
ROUND = st.integers(1, 2**31 - 1)
WORKS = {
    CountPatients: st.just(CountPatients()),
    CountClasses: st.just(CountClasses()),
    GradientSum: GRADIENT_SUM,
    LocalUpdate: st.builds(LocalUpdate, weights=vector(PARAMETERS), steps=STEPS),
    SelectiveUpdate: selective(),
    FittedHead: st.builds(FittedHead, FIT),
    Announce: st.builds(Announce, of=OF, attempt=ROUND, hospitals=ROUND, received=st.none() | BLOB),
    Confirm: st.builds(Confirm, of=OF, announcements=BLOBS),
    Upload: st.builds(Upload, of=OF, confirmations=BLOBS),
    Receive: st.builds(Receive, of=OF, total=BLOB),
    SayHello: st.just(SayHello()),
    GiveReceipt: st.just(GiveReceipt()),
}
KEYS = st.just((b"", b"")) | st.tuples(*(st.binary(min_size=n, max_size=n) for n in (32, 64)))
REPLIES = {
    Answer: st.builds(
        Answer,
        update=st.integers(1, PARAMETERS + 1).flatmap(vector),
        event=EVENT,
        velocity=st.none() | vector(PARAMETERS),
    ),
    Signed: st.builds(Signed, BLOB),
    Uploaded: st.builds(Uploaded, BLOB, EVENT),
    Received: st.just(Received()),
    Hello: st.builds(
        Hello,
        study=TEXT,
        version=TEXT,
        classes=st.lists(TEXT, min_size=CLASSES, max_size=CLASSES).map(tuple),
        input_shape=st.lists(st.integers(1, 512), min_size=1, max_size=4).map(tuple),
        weights_sha256=st.just(HASH),
        charges=COUNT,
        last_attempt=st.tuples(COUNT, COUNT),
    ),
    Receipt: st.builds(
        lambda keys, **rest: Receipt(**rest, public_key=keys[0], signature=keys[1]),
        KEYS,
        study=TEXT,
        hospital=TEXT,
        releases=COUNT,
        counts=COUNT,
        epsilon_spent=number(0) | st.just(math.inf),
        delta=number(0, 1, exclude_min=True, exclude_max=True),
        ledger_head=st.just(HASH),
    ),
    Failure: st.builds(Failure, st.sampled_from(FailureCode), st.sampled_from(Stage)),
}


@st.composite
def requests(draw):
    work = draw(st.one_of(*WORKS.values()))
    return Request(draw(TEXT), draw(st.integers(0, 2**31 - 1)), draw(ROUND), work)


def replies():
    return st.one_of(*REPLIES.values())


def members(union):
    return {union} if is_dataclass(union) else {member for part in get_args(union) for member in members(part)}


def same(one, other):
    """Whether two values are equal field by field, arrays bit for bit."""
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    return one == other


@settings(max_examples=150, deadline=None)
@given(requests())
def test_every_request_comes_back_as_it_was(request):
    assert same(request, decode_request(encode_request(request), LIMITS))


@settings(max_examples=150, deadline=None)
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


@pytest.mark.parametrize("record", [REQUEST, *WORK.records, *REPLY.records], ids=lambda record: record.kind)
def test_a_codec_has_exactly_the_fields_of_its_class(record):
    assert set(record.fields) == {field.name for field in fields(record.make)}


# --- other bytes ------------------------------------------------------------------------------------------------------


def example(strategy):
    """One value of a strategy, the same at every call."""
    found = []

    @settings(max_examples=1, database=None, derandomize=True, deadline=None)
    @given(strategy)
    def keep(value):
        found.append(value)

    keep()
    return found[0]


WEIGHTS = np.arange(PARAMETERS, dtype=np.float32)
FULL = LocalSteps(3, 0.1, 0.9, 20.0, 0.01, -WEIGHTS, WEIGHTS / 2, True, (1.0, 0.5, 0.25), (1.0, 1.0, 0.5))
SELECTION = Selection(np.array([0, 2, 4]), 0.1, True, 0.0, 0.001)
SAMPLED = SelfComposedEvent(PoissonSampledEvent(0.05, GaussianEvent(1.2)), 3)
MESSAGES = {
    "gradient-sum": Request("study", 1, 1, GradientSum(WEIGHTS, 0.5)),
    "local-steps": Request("study", 1, 1, LocalUpdate(WEIGHTS, FULL)),
    "selective": Request("study", 1, 1, SelectiveUpdate(WEIGHTS[:3], FULL, SELECTION)),
    "announce": Request("study", 1, 1, Announce(GradientSum(WEIGHTS), 2, 3, b"residues")),
    "confirm": Request("study", 1, 1, Confirm(CountPatients(), (b"one", b"two", b"three"))),
    "fit-head": Request("study", 1, 1, FittedHead(HeadFit(0.1, 1.0, None))),
    "answer": Answer(WEIGHTS, SAMPLED, WEIGHTS),
    "uploaded": Uploaded(b"sum under masks", GaussianEvent(2.0)),
    "hello": Hello("study", "0.1.0", ("no", "yes", "rénal"), (1, 28, 28), HASH, 4, (2, 1)),
    "receipt": Receipt("study", "north", 3, 1, math.inf, 1e-5, HASH, bytes(32), bytes(64)),  # type: ignore[arg-type]
    "failure": Failure(FailureCode.DATA, Stage.ADMISSION),
}


def encoded(message):
    return encode_request(message) if isinstance(message, Request) else encode_reply(message)


def decoded(content, like, limits=LIMITS):
    return decode_request(content, limits) if isinstance(like, Request) else decode_reply(content, limits)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


def check_refused_or_whole(content, like):
    """Other bytes raise a FederationError, or are those of a message within the limits and of no other."""
    try:
        message = decoded(content, like)
    except FederationError:
        return
    assert encoded(message) == content
    for array in arrays_in(message):
        assert array.ndim == 1
        assert array.size <= PARAMETERS + 1
        assert not array.flags.writeable
        assert np.isfinite(array).all()
        if array.dtype == np.int64:
            assert 0 <= array.min() <= array.max() < PARAMETERS
            assert (np.diff(array) > 0).all()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_cut_anywhere_is_refused(name):
    content = encoded(MESSAGES[name])
    for end in range(len(content)):
        with pytest.raises(FederationError):
            decoded(content[:end], MESSAGES[name])
    with pytest.raises(FederationError):
        decoded(content + bytes(8), MESSAGES[name])


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_one_flipped_bit_is_refused_or_whole(name):
    content = bytearray(encoded(MESSAGES[name]))
    for position in range(len(content)):
        for bit in (0, 1, 4, 6, 7):
            content[position] ^= 1 << bit
            check_refused_or_whole(bytes(content), MESSAGES[name])
            content[position] ^= 1 << bit


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=50), st.sampled_from(sorted(MESSAGES)))
def test_random_bytes_are_refused(header, behind, name):
    framed = PREFIX.pack(b"wardround\0", VERSION, len(header)) + header + bytes(-len(header) % 8) + behind
    for content in (header, framed):
        with pytest.raises(FederationError):
            decoded(content, MESSAGES[name])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(sorted(MESSAGES)), JSON)
def test_a_header_with_one_other_value_is_refused_or_whole(data, name, other):
    header, behind = opened(encoded(MESSAGES[name]))
    path = data.draw(st.sampled_from(list(places(header))[1:]))
    check_refused_or_whole(closed(put(header, path, other), behind), MESSAGES[name])


# --- a table of hostile messages --------------------------------------------------------------------------------------


def opened(content):
    """Header and arrays of a message."""
    _, _, length = PREFIX.unpack_from(content)
    start = PREFIX.size + length
    return json.loads(content[PREFIX.size : start]), content[start + -start % 8 :]


def closed(header, behind, *, version=VERSION, magic=b"wardround\0"):
    """A message of a header, an object or a text, and arrays."""
    text = header if isinstance(header, str) else json.dumps(header, sort_keys=True, separators=(",", ":"))
    content = PREFIX.pack(magic, version, len(text.encode())) + text.encode()
    return content + bytes(-len(content) % 8) + behind


def put(value, path, other):
    """A copy of a JSON value with another at a place."""
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


def test_the_table_starts_from_messages_that_are_read():
    for message in MESSAGES.values():
        content = encoded(message)
        assert closed(*opened(content)) == content
        assert same(message, decoded(content, message))


INFINITE = [float("nan"), float("inf"), 1e400, "nan", "infinity"]
WRONG = {
    ("gradient-sum", "kind"): ["reply", "", None, 3],
    ("gradient-sum", "study"): ["", "a\nb", "x" * 101, "\ud800", 5, None],
    ("gradient-sum", "round"): [-1, 2**31, 10**400, True, 1.0, "1", None],
    ("gradient-sum", "attempt"): [0, -1, False, [1]],
    ("gradient-sum", "work"): [None, [], "count", {}, {"kind": "count", "weights": None}],
    ("gradient-sum", "work.kind"): ["unknown", "Answer", "__class__", None, ["count"], {}],
    ("gradient-sum", "work.clipping_norm"): [0.0, -0.5, 1, True, *INFINITE],
    ("gradient-sum", "work.weights"): [
        None, 5, [5], {}, {"float32": 4}, {"float32": 6}, {"float32": [5]}, {"float32": [1, 5]}, {"float32": -5},
        {"float32": 5.0}, {"float32": True}, {"float64": 5}, {"float16": 5}, {"object": 5}, {"int64": 5},
        {"float32": 5, "int64": 5}, {"float32": 2**40}, {"float32": 2**63 - 1}, {"float32": 10**30},
    ],
    ("local-steps", "work.steps.steps"): [0, -1, True, 2**24 + 1, 1.0],
    ("local-steps", "work.steps.learning_rate"): [0.0, -1.0, 1, *INFINITE],
    ("local-steps", "work.steps.momentum"): [1.0, -0.1, *INFINITE],
    ("local-steps", "work.steps.denominator"): [0.0, -1.0, *INFINITE],
    ("local-steps", "work.steps.keep_velocity"): [0, 1, "true", None],
    ("local-steps", "work.steps.correction"): [{"float32": 4}, {"float32": 6}, {"float32": 0}],
    ("local-steps", "work.steps.class_sampling"): [[], [1.0], [1.0] * 4, [0.0, 1.0, 1.0], [1.5, 1.0, 1.0], 1.0],
    ("selective", "work.selection.positions"): [None, {"int64": 0}, {"int64": 2}, {"int64": 6}, {"float32": 3}],
    ("selective", "work.selection.fraction"): [0.0, 1.5, -0.1, True],
    ("announce", "work.of"): [None, {"kind": "class-counts"}, {"kind": "hello"}],
    ("announce", "work.attempt"): [0, True],
    ("announce", "work.received"): ["residues", {"bytes": 2**62}, {"bytes": 100}],
    ("confirm", "work.announcements"): [None, [], [{"bytes": 3}] * 1025, {"bytes": 3}],
    ("fit-head", "work.fit.regularisation"): [0.0, -1.0, *INFINITE],
    ("answer", "event"): [
        None, [], {}, {"event": "unknown"}, {"event": "none", "more": 1}, {"event": ["none"]},
        {"event": "gaussian", "noise_multiplier": 1}, {"event": "gaussian", "noise_multiplier": -1.0},
        {"event": "gaussian"}, {"event": "composed", "of": 3},
        {"event": "self-composed", "count": 2**41, "of": {"event": "non-private"}},
        {"event": "self-composed", "count": 10**30, "of": {"event": "none"}},
    ],
    ("answer", "update"): [None, {"float32": 0}, {"float32": 7}],
    ("answer", "velocity"): [{"float32": 4}, {"float32": 0}],
    ("hello", "classes"): [[], ["no", "yes"], ["", "no", "yes"], "no"],
    ("hello", "input_shape"): [[], [0], [1] * 5, [1.0, 2], [True, 2]],
    ("hello", "weights_sha256"): ["", HASH.upper(), HASH[1:], HASH + "0"],
    ("hello", "last_attempt"): [[1], [1, 2, 3], [-1, 0], None],
    ("receipt", "epsilon_spent"): [-0.5, "nan", float("nan"), float("inf"), 1e400, "inf", None],
    ("receipt", "delta"): [0.0, 1.0, -1e-5, "infinity"],
    ("receipt", "public_key"): [{"bytes": 0}, {"bytes": 31}, None],
    ("failure", "code"): ["unknown", "/home/patient", None, 3, ["data"]],
}  # fmt: skip


@pytest.mark.parametrize(("name", "place"), WRONG)
def test_a_wrong_field_is_refused(name, place):
    header, behind = opened(encoded(MESSAGES[name]))
    for value in WRONG[name, place]:
        other = put(header, place.split("."), value)
        with pytest.raises(FederationError):
            decoded(closed(other, behind), MESSAGES[name])


def test_keys_that_are_missing_added_or_repeated_are_refused():
    header, behind = opened(encoded(MESSAGES["gradient-sum"]))
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    hostile = [
        {**header, "more": 1},
        {key: value for key, value in header.items() if key != "round"},
        put(header, ["work", "weights"], {**header["work"]["weights"], "shape": [5]}),
        text.replace('"round":1', '"round":1,"round":1'),
        text.replace('"round":1', '"round":2,"round":1'),
        text.replace('"round":1', '"round": 1'),
        text.replace('"study":"study"', '"study":"\\u0073tudy"'),
        text.replace('"study":"study"', '"study":"stüdy"'),
        text + " ",
        json.dumps([header]),
        "",
    ]
    for other in hostile:
        with pytest.raises(FederationError):
            decode_request(closed(other, behind), LIMITS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["gradient-sum", "local-steps", "selective", "answer"])
def test_numbers_that_are_not_finite_are_refused_in_every_vector(name, value):
    message, bad = MESSAGES[name], np.float32(value).tobytes()
    content = encoded(message)
    vectors = [array for array in arrays_in(message) if array.dtype == np.float32]
    assert vectors
    for array in vectors:
        for start in range(0, array.nbytes, 4):
            at = content.index(array.tobytes()) + start
            with pytest.raises(FederationError):
                decoded(content[:at] + bad + content[at + 4 :], message)


@pytest.mark.parametrize("positions", [[0, 2, 5], [-1, 2, 4], [2, 0, 4], [0, 2, 2]])
def test_positions_out_of_order_or_range_are_refused(positions):
    content = encode_request(MESSAGES["selective"])
    hostile = content.replace(SELECTION.positions.tobytes(), np.array(positions, dtype=np.int64).tobytes())
    assert hostile != content
    with pytest.raises(FederationError):
        decode_request(hostile, LIMITS)


def test_another_version_is_one_clear_error():
    header, behind = opened(encode_request(MESSAGES["gradient-sum"]))
    with pytest.raises(FederationError, match=f"version {VERSION} of the format, got version {VERSION + 1}"):
        decode_request(closed(header, behind, version=VERSION + 1), LIMITS)
    with pytest.raises(FederationError):
        decode_request(closed(header, behind, magic=b"wardrounds"), LIMITS)


def test_depth_and_sizes_are_refused_before_anything_is_parsed():
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    for header in (deep, "[" * (DEEPEST + 1), '{"a":"' + "x" * MOST_HEADER_BYTES + '"}'):
        with pytest.raises(FederationError):
            decode_request(closed(header, b""), Limits())
    for length in (MOST_HEADER_BYTES + 1, 2**32 - 1):
        with pytest.raises(FederationError):
            decode_request(PREFIX.pack(b"wardround\0", VERSION, length), Limits())
    content = encode_request(MESSAGES["gradient-sum"])
    assert decode_request(content, replace(LIMITS, most_bytes=len(content)))
    with pytest.raises(FederationError):
        decode_request(content, replace(LIMITS, most_bytes=len(content) - 1))


def test_brackets_in_names_are_no_depth():
    hello = replace(MESSAGES["hello"], classes=("[" * 50, '"' + "{" * 50, "\\"))  # type: ignore[type-var]
    assert same(hello, decode_reply(encode_reply(hello), LIMITS))


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (CountPatients(), 1),
        (CountClasses(), CLASSES),
        (GradientSum(), PARAMETERS),
        (GradientSum(clipping_norm=0.5), PARAMETERS + 1),
        (FittedHead(HeadFit(0.1, 1.0, None)), PARAMETERS),
    ],
    ids=str,
)
def test_an_answer_has_the_length_that_was_asked_for(work, expected):
    for size in range(PARAMETERS + 3):
        content = encode_reply(Answer(np.ones(size, dtype=np.float32), NoEvent()))
        if size == expected:
            assert decode_reply(content, LIMITS.answering(work))
        else:
            with pytest.raises(FederationError):
                decode_reply(content, LIMITS.answering(work))


@pytest.mark.parametrize("size", [0, PARAMETERS - 1, PARAMETERS + 1])
def test_weights_of_another_network_are_refused(size):
    weights = np.zeros(size, dtype=np.float32)
    for work in (GradientSum(weights), LocalUpdate(weights, FULL)):
        with pytest.raises(FederationError):
            decode_request(encode_request(Request("study", 1, 1, work)), LIMITS)
    if size:  # a masked step may leave the weights out
        with pytest.raises(FederationError):
            decode_request(encode_request(Request("study", 1, 1, Upload(GradientSum(weights), (b"",)))), LIMITS)


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
        Receive(CountPatients(), bytearray(3)),  # type: ignore[arg-type]
    ],
    ids=range(8),
)
def test_a_sender_is_refused_what_no_receiver_would_take(work):
    with pytest.raises(FederationError):
        encode_request(Request("study", 1, 1, work))


def test_numbers_of_other_types_are_sent_as_floats():
    steps = replace(
        FULL, momentum=0, learning_rate=np.float32(0.5), correction=np.arange(10, dtype=np.float32)[::2]
    )  # type: ignore[arg-type]
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
