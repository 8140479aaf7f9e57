"""A request as bytes, and the work that it carries: one table from each kind of work to its fields."""

from typing import Any, assert_never

from wardround.errors import FederationError
from wardround.federation.messages import Request
from wardround.federation.wire.arrays import Blob, Positions, Reals
from wardround.federation.wire.frame import Raw, pack, unpack
from wardround.federation.wire.limits import MOST_SIGNED_BYTES, Limits
from wardround.federation.wire.records import OneOf, Record
from wardround.federation.wire.values import Flag, Integer, Number, Optional, Text, Tuple
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

_MOST_ROUNDS = (1 << 31) - 1
_MOST_STEPS = 1 << 24
_INFINITY = float("inf")

_POSITIVE = Number("> 0 and finite", lambda x: 0 < x < _INFINITY)
_NOT_NEGATIVE = Number(">= 0 and finite", lambda x: 0 <= x < _INFINITY)
_FRACTION = Number("in (0, 1]", lambda x: 0 < x <= 1)


def _check_steps(steps: LocalSteps, limits: Limits, name: str) -> None:
    for key in ("correction", "velocity"):
        vector = getattr(steps, key)
        if vector is not None:
            limits.check_parameters(vector.size, f"{name}.{key}")
    for key in ("class_weights", "class_sampling"):
        entries = getattr(steps, key)
        if entries is not None:
            limits.check_classes(len(entries), f"{name}.{key}")


def _check_weights(work: GradientSum | LocalUpdate, limits: Limits, name: str) -> None:
    limits.check_parameters(work.weights.size, f"{name}.weights")


def _check_fetched(work: SelectiveUpdate, limits: Limits, name: str) -> None:
    if work.weights.size != work.selection.positions.size:
        raise FederationError(
            f"`{name}.weights` must have a coordinate for each of {work.selection.positions.size} positions, got "
            f"{work.weights.size}. Send the request again."
        )


_STEPS = Record(
    "steps",
    LocalSteps,
    {
        "steps": Integer(1, _MOST_STEPS),
        "learning_rate": _POSITIVE,
        "momentum": Number("in [0, 1)", lambda x: 0 <= x < 1),
        "denominator": Optional(_POSITIVE),
        "proximal": _NOT_NEGATIVE,
        "correction": Optional(Reals()),
        "velocity": Optional(Reals()),
        "keep_velocity": Flag(),
        "class_weights": Optional(Tuple(_POSITIVE, lambda limits: limits.most_classes)),
        "class_sampling": Optional(Tuple(_FRACTION, lambda limits: limits.most_classes)),
    },
    _check_steps,
)
_SELECTION = Record(
    "selection",
    Selection,
    {
        "positions": Positions(),
        "fraction": _FRACTION,
        "random": Flag(),
        "threshold": _NOT_NEGATIVE,
        "truncation": _POSITIVE,
    },
)
_FIT = Record(
    "fit",
    HeadFit,
    {"regularisation": _POSITIVE, "row_norm": _POSITIVE, "num_patients": Optional(_POSITIVE)},
)

_COUNT = Record(CountPatients.name, CountPatients, {})
_CLASS_COUNTS = Record(CountClasses.name, CountClasses, {})
_GRADIENT_SUM = Record(
    GradientSum.name,
    GradientSum,
    {"weights": Reals(), "clipping_norm": Optional(_POSITIVE)},
    _check_weights,
)
_LOCAL_STEPS = Record(LocalUpdate.name, LocalUpdate, {"weights": Reals(), "steps": _STEPS}, _check_weights)
_SELECTIVE = Record(
    SelectiveUpdate.name,
    SelectiveUpdate,
    {"weights": Reals(), "steps": _STEPS, "selection": _SELECTION},
    _check_fetched,
)
_FIT_HEAD = Record(FittedHead.name, FittedHead, {"fit": _FIT})


def _summed(work: Summed) -> Record[Any]:
    match work:
        case CountPatients():
            return _COUNT
        case GradientSum():
            return _GRADIENT_SUM
        case _:
            assert_never(work)


SUMMED = OneOf(_summed, (_COUNT, _GRADIENT_SUM))
"""Codec of the work whose sum is formed under masks."""

_RESIDUES = Blob(lambda limits: limits.most_residue_bytes)
_SIGNED_BY_ALL = Tuple(Blob(lambda limits: MOST_SIGNED_BYTES), lambda limits: limits.most_hospitals)

_ANNOUNCE = Record(
    Announce.name,
    Announce,
    {
        "of": SUMMED,
        "attempt": Integer(1, _MOST_ROUNDS),
        "hospitals": Integer(1, _MOST_ROUNDS),
        "received": Optional(_RESIDUES),
    },
)
_CONFIRM = Record(Confirm.name, Confirm, {"announcements": _SIGNED_BY_ALL})
_UPLOAD = Record(Upload.name, Upload, {"confirmations": _SIGNED_BY_ALL})
_RECEIVE = Record(Receive.name, Receive, {"total": _RESIDUES})
_HELLO = Record(SayHello.name, SayHello, {})
_RECEIPT = Record(GiveReceipt.name, GiveReceipt, {})


def _work(work: Work) -> Record[Any]:
    match work:
        case CountPatients():
            return _COUNT
        case CountClasses():
            return _CLASS_COUNTS
        case GradientSum():
            return _GRADIENT_SUM
        case LocalUpdate():
            return _LOCAL_STEPS
        case SelectiveUpdate():
            return _SELECTIVE
        case FittedHead():
            return _FIT_HEAD
        case Announce():
            return _ANNOUNCE
        case Confirm():
            return _CONFIRM
        case Upload():
            return _UPLOAD
        case Receive():
            return _RECEIVE
        case SayHello():
            return _HELLO
        case GiveReceipt():
            return _RECEIPT
        case _:
            assert_never(work)


WORK = OneOf(
    _work,
    (
        _COUNT, _CLASS_COUNTS, _GRADIENT_SUM, _LOCAL_STEPS, _SELECTIVE, _FIT_HEAD,
        _ANNOUNCE, _CONFIRM, _UPLOAD, _RECEIVE, _HELLO, _RECEIPT,
    ),
)  # fmt: skip
"""Codec of all work."""

REQUEST = Record(
    "request",
    Request,
    {
        "study": Text(),
        "round": Integer(0, _MOST_ROUNDS),
        "attempt": Integer(1, _MOST_ROUNDS),
        "work": WORK,
    },
)
"""Codec of a request."""


def encode_request(request: Request) -> bytes:
    """Returns the bytes of a request.

    Raises:
        FederationError: a field does not hold for any hospital: a NaN in the weights, no steps, an empty name.
    """
    arrays: list[Raw] = []
    return pack(REQUEST.write(request, "request", arrays), arrays)


def decode_request(content: bytes, limits: Limits) -> Request:
    """Returns the request that `encode_request` wrote; its vectors are read-only views of `content`.

    Guarantee:
        Any other bytes raise. Every vector is of float32, finite, and within `limits`; every length is compared with
        the bytes that came before anything is made of it.

    Raises:
        FederationError: the bytes are cut, of another version, not a request, or outside `limits`.
    """
    header, arrays = unpack(content, limits.most_bytes)
    request = REQUEST.read(header, "request", arrays, limits)
    arrays.finish()
    return request
