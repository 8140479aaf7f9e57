"""Hostile bytes: none raises anything but a FederationError, and none becomes a message outside the limits."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import examples
from tests.federation.message_values import (
    HASH,
    LIMITS,
    MESSAGES,
    PARAMETERS,
    SELECTION,
    arrays_in,
    decoded,
    encoded,
    same,
)

from wardround.boundary.documents import DEEPEST
from wardround.errors import FederationError
from wardround.federation.wire.frame import MOST_HEADER_BYTES, VERSION
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, decode_request, encode_reply, encode_request

PREFIX = struct.Struct("<10sHI")


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
        for bit in range(8):
            content[position] ^= 1 << bit
            check_refused_or_whole(bytes(content), MESSAGES[name])
            content[position] ^= 1 << bit


@examples(200)
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


@pytest.mark.thorough
@examples(150)
@given(st.data(), st.sampled_from(sorted(MESSAGES)), JSON)
def test_a_header_with_one_other_value_is_refused_or_whole(data, name, other):
    header, behind = opened(encoded(MESSAGES[name]))
    path = data.draw(st.sampled_from(list(places(header))[1:]))
    check_refused_or_whole(closed(put(header, path, other), behind), MESSAGES[name])


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


INFINITE: list[object] = [float("nan"), float("inf"), 1e400, "nan", "infinity"]
WRONG: dict[tuple[str, str], list[object]] = {
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
    ("hello", "threads"): [0, -1, 1.5, None],
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
    unending = '"' + '\\"' * ((MOST_HEADER_BYTES - 1) // 2)  # one quote after the other: not in quadratic time
    with pytest.raises(FederationError):
        decode_request(closed(unending, b""), Limits())
    for length in (MOST_HEADER_BYTES + 1, 2**32 - 1):
        with pytest.raises(FederationError, match=f"at most {MOST_HEADER_BYTES} bytes"):
            decode_request(PREFIX.pack(b"wardround\0", VERSION, length) + bytes(MOST_HEADER_BYTES + 8), Limits())
    content = encode_request(MESSAGES["gradient-sum"])
    assert decode_request(content, replace(LIMITS, most_bytes=len(content)))
    with pytest.raises(FederationError):
        decode_request(content, replace(LIMITS, most_bytes=len(content) - 1))


def test_brackets_in_names_are_no_depth():
    hello = replace(MESSAGES["hello"], classes=("[" * 50, '"' + "{" * 50, "\\"))
    assert same(hello, decode_reply(encode_reply(hello), LIMITS))
