"""A reply or a failure as bytes: one table from each kind to its fields."""

from typing import Any, assert_never

from wardround.errors import FederationError
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Hello,
    Receipt,
    Received,
    Reply,
    Signed,
    Stage,
    Uploaded,
)
from wardround.federation.wire.arrays import Blob, Reals
from wardround.federation.wire.frame import Raw, pack, unpack
from wardround.federation.wire.limits import MOST_SIGNED_BYTES, Limits
from wardround.federation.wire.records import OneOf, Record
from wardround.federation.wire.values import Charged, Choice, Integer, Number, Optional, Sha256, Text, Tuple

_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MOST_SIDE = 1 << 20  # of a picture, in pixels
_MOST_AXES = 4  # channel, and three of space


def _check_answer(answer: Answer, limits: Limits, name: str) -> None:
    limits.check_update(answer.update.size)
    if answer.velocity is not None:
        limits.check_parameters(answer.velocity.size, f"{name}.velocity")


def _check_hello(hello: Hello, limits: Limits, name: str) -> None:
    limits.check_classes(len(hello.classes), f"{name}.classes")


def _check_receipt(receipt: Receipt, limits: Limits, name: str) -> None:
    if bool(receipt.public_key) != bool(receipt.signature):
        raise FederationError(f"`{name}` must have a key and a signature, or neither, got one. Ask for it again.")


_ANSWER = Record(
    "answer",
    Answer,
    {"update": Reals(), "event": Charged(), "velocity": Optional(Reals())},
    _check_answer,
)
_SIGNED = Record("signed", Signed, {"content": Blob(lambda limits: MOST_SIGNED_BYTES)})
_UPLOADED = Record(
    "uploaded",
    Uploaded,
    {"content": Blob(lambda limits: limits.most_residue_bytes), "event": Charged()},
)
_RECEIVED = Record("received", Received, {})
_HELLO = Record(
    "hello",
    Hello,
    {
        "study": Text(),
        "version": Text(),
        "classes": Tuple(Text(), lambda limits: limits.most_classes),
        "input_shape": Tuple(Integer(1, _MOST_SIDE), lambda limits: _MOST_AXES),
        "weights_sha256": Sha256(),
        "charges": Integer(0),
        "last_attempt": Tuple(Integer(0), lambda limits: 2, least=2),
    },
    _check_hello,
)
_RECEIPT = Record(
    "receipt",
    Receipt,
    {
        "study": Text(),
        "hospital": Text(),
        "releases": Integer(0),
        "counts": Integer(0),
        "epsilon_spent": Number(">= 0", lambda x: x >= 0),
        "delta": Number("in (0, 1)", lambda x: 0 < x < 1),
        "ledger_head": Sha256(),
        "public_key": Blob(lambda limits: _KEY_BYTES, frozenset({0, _KEY_BYTES})),
        "signature": Blob(lambda limits: _SIGNATURE_BYTES, frozenset({0, _SIGNATURE_BYTES})),
    },
    _check_receipt,
)
_FAILURE = Record("failure", Failure, {"code": Choice(FailureCode), "stage": Choice(Stage)})


def _reply(reply: Reply | Failure) -> Record[Any]:
    match reply:
        case Answer():
            return _ANSWER
        case Signed():
            return _SIGNED
        case Uploaded():
            return _UPLOADED
        case Received():
            return _RECEIVED
        case Hello():
            return _HELLO
        case Receipt():
            return _RECEIPT
        case Failure():
            return _FAILURE
        case _:
            assert_never(reply)


REPLY = OneOf(_reply, (_ANSWER, _SIGNED, _UPLOADED, _RECEIVED, _HELLO, _RECEIPT, _FAILURE))
"""Codec of all replies and of failures."""


def encode_reply(reply: Reply | Failure) -> bytes:
    """Returns the bytes of a reply or a failure.

    Raises:
        FederationError: a field does not hold for any coordinator, such as a NaN in the update.
    """
    arrays: list[Raw] = []
    return pack(REPLY.write(reply, "reply", arrays), arrays)


def decode_reply(content: bytes, limits: Limits) -> Reply | Failure:
    """Returns the reply that `encode_reply` wrote; its vectors are read-only views of `content`.

    `limits.answering(work)` also holds an answer to the length that the work asks for.

    Guarantee:
        Any other bytes raise. Every vector is of float32, finite, and within `limits`.

    Raises:
        FederationError: the bytes are cut, of another version, not a reply, or outside `limits`.
    """
    header, arrays = unpack(content, limits.most_bytes)
    reply = REPLY.read(header, "reply", arrays, limits)
    arrays.finish()
    return reply
