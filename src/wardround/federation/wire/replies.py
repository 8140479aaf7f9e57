"""A reply or a failure as bytes: one table from each kind to its fields."""

from typing import cast

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
from wardround.federation.wire.codecs import (
    SHA256,
    TEXT,
    Blob,
    Charged,
    Choice,
    Codec,
    Number,
    OneOf,
    Optional,
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
    update_coordinates,
)

_MOST_SIDE = 1 << 20  # of a picture, in pixels


def _check_receipt(receipt: Receipt, name: str) -> None:
    if bool(receipt.public_key) != bool(receipt.signature):
        raise FederationError(f"`{name}` must have a key and a signature, or neither, got one. Ask for it again.")


_HELLO: dict[str, Codec] = {
    "study": TEXT,
    "version": TEXT,
    "classes": Tuple(TEXT, each_class),
    "input_shape": Tuple(integer(1, _MOST_SIDE), lambda limits: range(1, 5)),  # channel, and three axes of space
    "weights_sha256": SHA256,
    "charges": integer(0),
    "last_attempt": Tuple(integer(0), lambda limits: range(2, 3)),
}
_RECEIPT: dict[str, Codec] = {
    "study": TEXT,
    "hospital": TEXT,
    "releases": integer(0),
    "counts": integer(0),
    "epsilon_spent": Number(">= 0", lambda x: x >= 0),
    "delta": Number("in (0, 1)", lambda x: 0 < x < 1),
    "ledger_head": SHA256,
    "public_key": Blob(range(0, 33, 32)),
    "signature": Blob(range(0, 65, 64)),
}
_UPDATE: dict[str, Codec] = {
    "update": Reals(update_coordinates),
    "event": Charged(),
    "velocity": Optional(Reals(each_parameter)),
}

REPLY = OneOf(
    (
        Record("answer", Answer, _UPDATE),
        Record("signed", Signed, {"content": Blob(signed_bytes)}),
        Record("uploaded", Uploaded, {"content": Blob(residue_bytes), "event": Charged()}),
        Record("received", Received, {}),
        Record("hello", Hello, _HELLO),
        Record("receipt", Receipt, _RECEIPT, _check_receipt),
        Record("failure", Failure, {"code": Choice(FailureCode), "stage": Choice(Stage)}),
    )
)
"""Codec of all replies and of failures."""


def encode_reply(reply: Reply | Failure) -> bytes:
    """Returns the bytes of a reply or a failure.

    Raises:
        FederationError: a field does not hold for any coordinator, such as a NaN in the update.
    """
    return encode(REPLY, reply, "reply")


def decode_reply(content: bytes, limits: Limits) -> Reply | Failure:
    """Returns the reply that `encode_reply` wrote, with the guarantee of `wire.codecs.decode`.

    `limits.answering(work)` also holds an answer to the length that the work asks for.
    """
    return cast("Reply | Failure", decode(REPLY, content, "reply", limits))
