"""Requests and answers under Ed25519 signatures, so that the courier between the two ends needs no trust.

    request    mark (4 bytes)   coordinator's public key (32)   exchange (8, big-endian)   signature (64)   body
    answer     mark (4 bytes)   signature (64)   body

A request is signed over the hospital that it is for, the exchange, and the SHA-256 of its body, which names study,
round and attempt. Exchanges ascend: a hospital that has answered a later one refuses an earlier one (`hospital.desk`).
An answer is signed over the hospital, all of the request as it arrived, and its own body: it fits no other request, and
none whose bytes were changed on the way. Ed25519 is deterministic (RFC 8032), so the same request and reply give the
same bytes.

Released: what the bodies hold, and public keys.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wardround.errors import FederationError
from wardround.federation.wire.frame import Raw
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import verify

_REQUEST_MARK: Final = b"WRQ\x01"
_ANSWER_MARK: Final = b"WRA\x01"
_REQUEST = struct.Struct(">4s32sQ64s")
_ANSWER = struct.Struct(">4s64s")
_REQUEST_PURPOSE: Final = "wardround/v1/request"
_ANSWER_PURPOSE: Final = "wardround/v1/answer"

SIGNATURE_BYTES: Final = _REQUEST.size
"""Bytes that a signature adds to a message, at most."""

UNKNOWN_COORDINATOR: Final = "federation-coordinator"
"""Code of the error of a request under a key that the hospital has not pinned, or that its policy leaves out."""


@dataclass(frozen=True)
class SignedRequest:
    """One request to one hospital.

    Attributes:
        hospital: it is for.
        prefix: bytes before the body.
        body: the request; shared by the requests of one exchange.
        digest: SHA-256 of the body.
    """

    hospital: str
    prefix: bytes = field(repr=False)
    body: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @property
    def content(self) -> bytes:
        """Bytes that are sent."""
        return self.prefix + self.body


@dataclass(frozen=True)
class CoordinatorKeys:
    """The coordinator's own key, and the pinned keys of the hospitals.

    Attributes:
        key: signs requests.
        hospitals: public keys, by name.
    """

    key: SigningKey
    hospitals: Mapping[str, bytes]

    def sign(self, body: bytes, hospitals: Iterable[str], exchange: int) -> list[SignedRequest]:
        """Returns one request to several hospitals, in their order."""
        digest = hashlib.sha256(body).digest()
        return [SignedRequest(name, _prefix(self.key, name, exchange, digest), body, digest) for name in hospitals]

    def open(self, answer: Raw, request: SignedRequest) -> memoryview:
        """Returns the reply in an answer, without a copy.

        Raises:
            FederationError: the hospital's pinned key did not sign it as the answer to this request.
        """
        pinned = self.hospitals.get(request.hospital)
        reply = memoryview(answer)[_ANSWER.size :]
        if pinned is not None and len(answer) >= _ANSWER.size:
            mark, signature = _ANSWER.unpack_from(answer)
            fields = (request.hospital, request.prefix, request.digest, hashlib.sha256(reply).digest())
            if mark == _ANSWER_MARK and verify(pinned, signature, _ANSWER_PURPOSE, *fields):
                return reply
        raise FederationError(
            f"The answer of {request.hospital} must be signed with its pinned key, for the request that was sent, and "
            "is not; nothing of it was read. If every answer is refused, compare fingerprints by telephone.",
            code="federation-answer-signature",
        )


@dataclass(frozen=True)
class Arrived:
    """A message of a coordinator as it arrived; nothing of it is checked.

    Attributes:
        prefix: bytes before the body.
        body: the rest; not copied.
        digest: SHA-256 of the body.
    """

    prefix: bytes = field(repr=False)
    body: memoryview = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, message: Raw) -> "Arrived":
        """Returns the parts of a message; its body is hashed once, here."""
        body = memoryview(message)[_REQUEST.size :]
        return cls(bytes(message[: _REQUEST.size]), body, hashlib.sha256(body).digest())


@dataclass(frozen=True)
class OpenedRequest:
    """A request whose signature holds.

    Attributes:
        body: the request.
        digest: SHA-256 of the body.
        exchange: its number.
        coordinator: public key that signed it.
    """

    body: memoryview = field(repr=False)
    digest: bytes = field(repr=False)
    exchange: int
    coordinator: bytes


@dataclass(frozen=True)
class HospitalKeys:
    """A hospital's own key under its name.

    Attributes:
        identity: signs answers.
    """

    identity: Identity

    def open(self, message: Arrived, coordinators: Iterable[bytes]) -> OpenedRequest:
        """Returns the request in a message.

        Args:
            message: as it arrived.
            coordinators: public keys of those who may ask.

        Raises:
            FederationError: no signed request, one of a key that may not ask, or one that was changed or is for another
                hospital.
        """
        if len(message.prefix) < _REQUEST.size or not message.prefix.startswith(_REQUEST_MARK):
            raise FederationError(
                "A message must begin with a coordinator's signature, and does not; nothing of it was read. Install "
                "the same version of Wardround at both ends.",
                code="federation-message",
            )
        _, public, exchange, signature = _REQUEST.unpack(message.prefix)
        if public not in set(coordinators):
            raise FederationError(
                f"A request must be signed with the key of a coordinator that this hospital has pinned and that its "
                f"policy allows, got key {public.hex()}. Pin it with: wardround consortium accept.",
                code=UNKNOWN_COORDINATOR,
            )
        if not verify(public, signature, _REQUEST_PURPOSE, self.identity.hospital, exchange, message.digest):
            raise FederationError(
                f"A request to {self.identity.hospital} must be as its coordinator signed it, and was changed or is "
                "for another hospital; nothing of it was read.",
                code="federation-request-signature",
            )
        return OpenedRequest(message.body, message.digest, exchange, public)

    def sign(self, message: Arrived, reply: bytes) -> bytes:
        """Returns the answer with a reply to a message as it arrived; the same bytes for the same two."""
        fields = (self.identity.hospital, message.prefix, message.digest, hashlib.sha256(reply).digest())
        return _ANSWER.pack(_ANSWER_MARK, self.identity.key.sign(_ANSWER_PURPOSE, *fields)) + reply


def _prefix(key: SigningKey, hospital: str, exchange: int, digest: bytes) -> bytes:
    signature = key.sign(_REQUEST_PURPOSE, hospital, exchange, digest)
    return _REQUEST.pack(_REQUEST_MARK, key.public, exchange, signature)
