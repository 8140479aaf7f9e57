"""Requests and replies as bytes: one table from each kind of message or of work to its fields."""

import math
from dataclasses import dataclass
from typing import cast

from wardround.boundary.documents import MOST_JSON_BYTES
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
from wardround.federation.wire.codecs import (
    EVENT,
    FLAG,
    POSITIONS,
    SHA256,
    TEXT,
    Codec,
    OneOf,
    Record,
    blob,
    choice,
    decode,
    encode,
    integer,
    number,
    optional,
    reals,
    tuple_of,
)
from wardround.federation.wire.frame import Raw, unpack
from wardround.federation.wire.limits import MOST_SIGNED_BYTES, Limits
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

_MOST_ROUNDS = (1 << 31) - 1
_MOST_STEPS = 1 << 24
_SECONDS_OF_A_DAY = 86_400

_POSITIVE = number("> 0 and finite", lambda x: 0 < x < math.inf)
_NOT_NEGATIVE = number(">= 0 and finite", lambda x: 0 <= x < math.inf)
_FRACTION = number("in (0, 1]", lambda x: 0 < x <= 1)
_NUMBER_OF = integer(1, _MOST_ROUNDS)
_WEIGHTS = reals(Limits.each_parameter)
_SIGNED_BYTES = blob(lambda limits: range(MOST_SIGNED_BYTES + 1))
_SIGNED_BY_ALL = tuple_of(_SIGNED_BYTES, Limits.each_hospital)


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
        "momentum": number("in [0, 1)", lambda x: 0 <= x < 1),
        "denominator": optional(_POSITIVE),
        "proximal": _NOT_NEGATIVE,
        "correction": optional(_WEIGHTS),
        "velocity": optional(_WEIGHTS),
        "keep_velocity": FLAG,
        "class_weights": optional(tuple_of(_POSITIVE, Limits.each_class)),
        "class_sampling": optional(tuple_of(_FRACTION, Limits.each_class)),
    },
)
_SELECTION = Record(
    "selection",
    Selection,
    {
        "positions": POSITIONS,
        "fraction": _FRACTION,
        "random": FLAG,
        "threshold": _NOT_NEGATIVE,
        "truncation": _POSITIVE,
    },
)
_FIT = Record(
    "fit",
    HeadFit,
    {"regularisation": _POSITIVE, "row_norm": _POSITIVE, "num_patients": optional(_POSITIVE)},
)
_COUNT = Record(CountPatients.name, CountPatients, {})
_GRADIENT_SUM = Record(
    GradientSum.name,
    GradientSum,
    {"weights": _WEIGHTS, "clipping_norm": optional(_POSITIVE), "centre": optional(_WEIGHTS)},
)
_FETCHED: dict[str, Codec] = {"weights": reals(Limits.some_parameters), "steps": _STEPS, "selection": _SELECTION}

_ROW_SUM = Record(RowSum.name, RowSum, {"weights": _WEIGHTS})
_SCORE_SUM = Record(ScoreSum.name, ScoreSum, {"weights": _WEIGHTS})
_EVALUATE = Record(Evaluate.name, Evaluate, {"weights": _WEIGHTS})

SUMMED = OneOf((_COUNT, _GRADIENT_SUM, _ROW_SUM, _SCORE_SUM, _EVALUATE))
"""Codec of the work whose sum is formed under masks."""

_ATTEMPT: dict[str, Codec] = {
    "of": SUMMED,
    "attempt": _NUMBER_OF,
    "hospitals": _NUMBER_OF,
    "received": optional(blob(Limits.residues)),
}

_DOCUMENT = blob(range(MOST_JSON_BYTES + 1))
_FINISH: dict[str, Codec] = {
    "model": blob(lambda limits: range(limits.model_bytes + 1)),
    "card": _DOCUMENT,
    "certificate": _DOCUMENT,
}

WORK = OneOf(
    (
        _COUNT,
        Record(CountClasses.name, CountClasses, {}),
        _GRADIENT_SUM,
        _ROW_SUM,
        _SCORE_SUM,
        Record(LocalUpdate.name, LocalUpdate, {"weights": _WEIGHTS, "steps": _STEPS}),
        Record(SelectiveUpdate.name, SelectiveUpdate, _FETCHED, _check_fetched),
        Record(FittedHead.name, FittedHead, {"fit": _FIT}),
        _EVALUATE,
        Record(Announce.name, Announce, _ATTEMPT),
        Record(Confirm.name, Confirm, {"announcements": _SIGNED_BY_ALL}),
        Record(Upload.name, Upload, {"confirmations": _SIGNED_BY_ALL}),
        Record(Receive.name, Receive, {"total": blob(Limits.residues)}),
        Record(SayHello.name, SayHello, {}),
        Record(GiveReceipt.name, GiveReceipt, {}),
        Record(Finish.name, Finish, _FINISH),
    )
)
"""Codec of all work."""

REQUEST = Record(
    "request",
    Request,
    {"study": TEXT, "round": integer(0, _MOST_ROUNDS), "attempt": _NUMBER_OF, "work": WORK},
)
"""Codec of a request."""

_MOST_SIDE = 1 << 20  # of a picture, in pixels


def _check_receipt(receipt: Receipt, name: str) -> None:
    if bool(receipt.public_key) != bool(receipt.signature):
        raise FederationError(f"`{name}` must have a key and a signature, or neither, got one. Ask for it again.")


_HELLO: dict[str, Codec] = {
    "study": TEXT,
    "version": TEXT,
    "classes": tuple_of(TEXT, Limits.each_class),
    "input_shape": tuple_of(
        integer(1, _MOST_SIDE), lambda limits: range(1, 5)
    ),  # channel, and three axes of space
    "weights_sha256": SHA256,
    "threads": integer(1, 1 << 16),
    "last_attempt": tuple_of(integer(0), lambda limits: range(2, 3)),
}
_RECEIPT: dict[str, Codec] = {
    "study": TEXT,
    "hospital": TEXT,
    "releases": integer(0),
    "counts": integer(0),
    "epsilon_spent": number(">= 0", lambda x: x >= 0),
    "delta": number("in (0, 1)", lambda x: 0 < x < 1),
    "ledger_head": SHA256,
    "evaluations": integer(0),
    "evaluation_epsilon": number(">= 0", lambda x: x >= 0),
    "public_key": blob(range(0, 33, 32)),
    "signature": blob(range(0, 65, 64)),
}
_UPDATE: dict[str, Codec] = {
    "update": reals(Limits.coordinates),
    "event": EVENT,
    "velocity": optional(reals(Limits.each_parameter)),
}

REPLY = OneOf(
    (
        Record("answer", Answer, _UPDATE),
        Record("signed", Signed, {"content": _SIGNED_BYTES}),
        Record("uploaded", Uploaded, {"content": blob(Limits.residues), "event": EVENT}),
        Record("received", Received, {}),
        Record("hello", Hello, _HELLO),
        Record("receipt", Receipt, _RECEIPT, _check_receipt),
        Record(
            "failure",
            Failure,
            {"code": choice(FailureCode), "stage": choice(Stage), "retry_s": integer(0, _SECONDS_OF_A_DAY)},
        ),
    )
)
"""Codec of all replies and of failures."""


def encode_request(request: Request) -> bytes:
    """Returns the bytes of a request.

    Raises:
        FederationError: a field does not hold for any hospital: a NaN in the weights, no steps, an empty name.
    """
    return encode(REQUEST, request, "request")


def decode_request(content: Raw, limits: Limits) -> Request:
    """Returns the request that `encode_request` wrote, with the guarantee of `wire.codecs.decode`."""
    return cast(Request, decode(REQUEST, content, "request", limits))


@dataclass(frozen=True)
class Asked:
    """The outside of a request, as its header has it: enough to hand it over, and to note that it came."""

    study: str
    round: int
    work: str


def asked_in(content: Raw, most_bytes: int) -> Asked:
    """Returns the outside of a request, whose content is not checked.

    Raises:
        FederationError: the bytes have no header of a request.
    """
    header, _ = unpack(content, most_bytes)
    work = header.get("work")
    match header.get("study"), header.get("round"), work.get("kind") if isinstance(work, dict) else None:
        case str(study), int(round), str(kind):
            return Asked(study, round, kind)
        case _:
            raise FederationError("A request must name its study, round and work, and does not. Send it again.")


def encode_reply(reply: Reply | Failure) -> bytes:
    """Returns the bytes of a reply or a failure.

    Raises:
        FederationError: a field does not hold for any coordinator, such as a NaN in the update.
    """
    return encode(REPLY, reply, "reply")


def decode_reply(content: Raw, limits: Limits) -> Reply | Failure:
    """Returns the reply that `encode_reply` wrote, with the guarantee of `wire.codecs.decode`.

    `limits.answering(work)` also holds an answer to the length that the work asks for.
    """
    return cast("Reply | Failure", decode(REPLY, content, "reply", limits))
