"""Messages for tests of their bytes: a strategy for every class, and one full example of each shape."""

import math
import struct
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import numpy as np
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
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Hello,
    Receipt,
    Received,
    Request,
    Signed,
    Stage,
    Uploaded,
)
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, decode_request, encode_reply, encode_request
from wardround.types import HospitalName
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    Evaluate,
    Finish,
    FittedHead,
    GiveReceipt,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Receive,
    RowSum,
    SayHello,
    ScoreSum,
    Selection,
    SelectiveUpdate,
    Upload,
)

PARAMETERS, CLASSES = 5, 3
LIMITS = Limits.of_network(PARAMETERS, CLASSES, model_bytes=1 << 16)
HASH = "0123456789abcdef" * 4


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


GRADIENT_SUM = st.builds(
    GradientSum,
    weights=vector(PARAMETERS),
    clipping_norm=st.none() | POSITIVE,
    centre=st.none() | vector(PARAMETERS),
)
ROW_SUM = st.builds(RowSum, weights=vector(PARAMETERS))
SCORE_SUM = st.builds(ScoreSum, weights=vector(PARAMETERS))
EVALUATE = st.builds(Evaluate, weights=vector(PARAMETERS))
OF = st.just(CountPatients()) | GRADIENT_SUM | ROW_SUM | SCORE_SUM | EVALUATE
ROUND = st.integers(1, 2**31 - 1)
WORKS = {
    CountPatients: st.just(CountPatients()),
    CountClasses: st.just(CountClasses()),
    GradientSum: GRADIENT_SUM,
    RowSum: ROW_SUM,
    ScoreSum: SCORE_SUM,
    LocalUpdate: st.builds(LocalUpdate, weights=vector(PARAMETERS), steps=STEPS),
    SelectiveUpdate: selective(),
    FittedHead: st.builds(FittedHead, FIT),
    Evaluate: EVALUATE,
    Announce: st.builds(Announce, of=OF, attempt=ROUND, hospitals=ROUND, received=st.none() | BLOB),
    Confirm: st.builds(Confirm, announcements=BLOBS),
    Upload: st.builds(Upload, confirmations=BLOBS),
    Receive: st.builds(Receive, total=BLOB),
    SayHello: st.just(SayHello()),
    GiveReceipt: st.just(GiveReceipt()),
    Finish: st.builds(Finish, model=BLOB, card=BLOB, certificate=BLOB),
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
        threads=st.integers(1, 64),
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
        evaluations=COUNT,
        evaluation_epsilon=number(0) | st.just(math.inf),
    ),
    Failure: st.builds(Failure, st.sampled_from(FailureCode), st.sampled_from(Stage), st.integers(0, 86_400)),
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
FULL = LocalSteps(
    3, 0.1, 0.9, 20.0, 0.01, -WEIGHTS, WEIGHTS / np.float32(2), True, (1.0, 0.5, 0.25), (1.0, 1.0, 0.5)
)
SELECTION = Selection(np.array([0, 2, 4]), 0.1, True, 0.0, 0.001)
SAMPLED = SelfComposedEvent(PoissonSampledEvent(0.05, GaussianEvent(1.2)), 3)
MESSAGES: dict[str, Any] = {
    "gradient-sum": Request("study", 1, 1, GradientSum(WEIGHTS, 0.5)),
    "row-sum": Request("study", 1, 1, RowSum(WEIGHTS)),
    "centred": Request("study", 1, 1, GradientSum(WEIGHTS, None, WEIGHTS)),
    "score-sum": Request("study", 1, 1, ScoreSum(WEIGHTS)),
    "local-steps": Request("study", 1, 1, LocalUpdate(WEIGHTS, FULL)),
    "selective": Request("study", 1, 1, SelectiveUpdate(WEIGHTS[:3], FULL, SELECTION)),
    "announce": Request("study", 1, 1, Announce(GradientSum(WEIGHTS), 2, 3, b"residues")),
    "confirm": Request("study", 1, 1, Confirm((b"one", b"two", b"three"))),
    "fit-head": Request("study", 1, 1, FittedHead(HeadFit(0.1, 1.0, None))),
    "finish": Request("study", 0, 1, Finish(b"model", b"card", b"certificate")),
    "answer": Answer(WEIGHTS, SAMPLED, WEIGHTS),
    "uploaded": Uploaded(b"sum under masks", GaussianEvent(2.0)),
    "hello": Hello("study", "0.1.0", ("no", "yes", "rénal"), (1, 28, 28), HASH, 2, (2, 1)),
    "receipt": Receipt("study", HospitalName("north"), 3, 1, math.inf, 1e-5, HASH, 1, 1.5, bytes(32), bytes(64)),
    "failure": Failure(FailureCode.DATA, Stage.ADMISSION, 3600),
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
