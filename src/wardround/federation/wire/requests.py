"""A request as bytes, and the work that it carries: one table from each kind of work to its fields."""

import math
from typing import cast

from wardround.errors import FederationError
from wardround.federation.messages import Request
from wardround.federation.wire.codecs import (
    FLAG,
    TEXT,
    Blob,
    Codec,
    Number,
    OneOf,
    Optional,
    Positions,
    Reals,
    Record,
    Tuple,
    decode,
    encode,
    integer,
)
from wardround.federation.wire.limits import (
    Limits,
    each_class,
    each_parameter,
    residue_bytes,
    signed_bytes,
    some_parameters,
)
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
    Upload,
)

_MOST_ROUNDS = (1 << 31) - 1
_MOST_STEPS = 1 << 24

_POSITIVE = Number("> 0 and finite", lambda x: 0 < x < math.inf)
_NOT_NEGATIVE = Number(">= 0 and finite", lambda x: 0 <= x < math.inf)
_FRACTION = Number("in (0, 1]", lambda x: 0 < x <= 1)
_NUMBER_OF = integer(1, _MOST_ROUNDS)
_WEIGHTS = Reals(each_parameter)
_SIGNED_BY_ALL = Tuple(Blob(signed_bytes), lambda limits: range(1, limits.most_hospitals + 1))


def _check_fetched(work: SelectiveUpdate, name: str) -> None:
    if work.weights.size != work.selection.positions.size:
        raise FederationError(
            f"`{name}.weights` must have a coordinate for each of {work.selection.positions.size} positions, got "
            f"{work.weights.size}. Send the request again."
        )


_STEPS = Record(
    "steps",
    LocalSteps,
    {
        "steps": integer(1, _MOST_STEPS),
        "learning_rate": _POSITIVE,
        "momentum": Number("in [0, 1)", lambda x: 0 <= x < 1),
        "denominator": Optional(_POSITIVE),
        "proximal": _NOT_NEGATIVE,
        "correction": Optional(_WEIGHTS),
        "velocity": Optional(_WEIGHTS),
        "keep_velocity": FLAG,
        "class_weights": Optional(Tuple(_POSITIVE, each_class)),
        "class_sampling": Optional(Tuple(_FRACTION, each_class)),
    },
)
_SELECTION = Record(
    "selection",
    Selection,
    {
        "positions": Positions(),
        "fraction": _FRACTION,
        "random": FLAG,
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
_GRADIENT_SUM = Record(GradientSum.name, GradientSum, {"weights": _WEIGHTS, "clipping_norm": Optional(_POSITIVE)})
_FETCHED: dict[str, Codec] = {"weights": Reals(some_parameters), "steps": _STEPS, "selection": _SELECTION}

SUMMED = OneOf((_COUNT, _GRADIENT_SUM))
"""Codec of the work whose sum is formed under masks."""

_ATTEMPT: dict[str, Codec] = {
    "of": SUMMED,
    "attempt": _NUMBER_OF,
    "hospitals": _NUMBER_OF,
    "received": Optional(Blob(residue_bytes)),
}

WORK = OneOf(
    (
        _COUNT,
        Record(CountClasses.name, CountClasses, {}),
        _GRADIENT_SUM,
        Record(LocalUpdate.name, LocalUpdate, {"weights": _WEIGHTS, "steps": _STEPS}),
        Record(SelectiveUpdate.name, SelectiveUpdate, _FETCHED, _check_fetched),
        Record(FittedHead.name, FittedHead, {"fit": _FIT}),
        Record(Announce.name, Announce, _ATTEMPT),
        Record(Confirm.name, Confirm, {"announcements": _SIGNED_BY_ALL}),
        Record(Upload.name, Upload, {"confirmations": _SIGNED_BY_ALL}),
        Record(Receive.name, Receive, {"total": Blob(residue_bytes)}),
        Record(SayHello.name, SayHello, {}),
        Record(GiveReceipt.name, GiveReceipt, {}),
    )
)
"""Codec of all work."""

REQUEST = Record(
    "request",
    Request,
    {"study": TEXT, "round": integer(0, _MOST_ROUNDS), "attempt": _NUMBER_OF, "work": WORK},
)
"""Codec of a request."""


def encode_request(request: Request) -> bytes:
    """Returns the bytes of a request.

    Raises:
        FederationError: a field does not hold for any hospital: a NaN in the weights, no steps, an empty name.
    """
    return encode(REQUEST, request, "request")


def decode_request(content: bytes, limits: Limits) -> Request:
    """Returns the request that `encode_request` wrote, with the guarantee of `wire.codecs.decode`."""
    return cast(Request, decode(REQUEST, content, "request", limits))
