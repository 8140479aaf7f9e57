"""Sums under homomorphic encryption with a key that all hospitals hold together: beside masks, which are the default.

    key        every hospital in the transcript's order adds its secret to the public key, and signs its link
    agree      every hospital checks the whole chain and finds its own link in it
    upload     every hospital: its noised vector, encrypted under the last public key, signed
    opening    every hospital is sent ALL uploads, checks their signatures, adds them up itself, and decrypts its part
               of that sum and of nothing else, once
    total      the coordinator puts the parts together; with one missing, nothing is opened

Released, to the coordinator: the sum modulo p of all hospitals' noised whole numbers (`bfv`), once all have uploaded
and opened. Reducing modulo p is post-processing of that sum. Nothing here adds noise or gives differential privacy.

Guarantee: computational, under ring learning with errors at 128 bits, SHA-256 and Ed25519, and as long as the HOSPITALS
follow the steps. Then the coordinator, however it relays, together with any number of hospitals that show it all they
have but their signing keys, learns of an attempt the sum of the others' vectors and nothing else; with one of the
others missing, nothing at all.
A hospital that does not follow the steps can do more here than under masks, together with the coordinator: the last of
the chain can publish a key of its own, the first one can choose the public polynomial with a trapdoor, and whoever sees
ciphertexts before it uploads can subtract them from the sum. Each would show it single noised vectors, which only one
hospital's share of noise protects. So no run offers this; masks are for hospitals that do not trust each other.

Cost: a hospital downloads n uploads. Keys live for one attempt, in memory only. OpenFHE's own format is parsed only
after the signature of a pinned hospital over it has been verified and each object been held against a limit of bytes; a
pinned hospital that sends bytes made to break that parser is not defended against.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import MOST_PARTIAL_BYTES, Bfv
from wardround.reproduce.encrypted_sum.encrypted_sum import CHECK_NUMBERS, EncryptedSum
from wardround.reproduce.encrypted_sum.joint_key import FIRST, JointKey, check_ring, checked_links, unreadable
from wardround.reproduce.encrypted_sum.signed_parts import Kind, SignedParts
from wardround.secure_aggregation.integers.ring import Residues
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.secret import Once
from wardround.secure_aggregation.round.confirmation import Agreed
from wardround.secure_aggregation.round.transcript import Transcript


class ThresholdAddend:
    """A hospital's side of one attempt, after `key` and `agree`.

    Args:
        agreed: the transcript of the attempt, confirmed by all hospitals.
        identity: signs what it sends.

    Raises:
        FederationError: the transcript is of another ring, or of more hospitals than the scheme carries.
        MissingExtra: OpenFHE is not here.
    """

    def __init__(self, agreed: Agreed, identity: Identity) -> None:
        transcript = agreed.transcript
        check_ring(transcript)
        self._place = transcript.members.index(transcript.member(identity.hospital))
        self._transcript, self._identity = transcript, identity
        self._bfv = Bfv(len(transcript.members))
        self._may = {
            step: Once(None, f"The {step} of {identity.hospital}") for step in ("key", "agreement", "upload")
        }
        self._secret: Once[Any] | None = None
        self._link = self._sent = b""
        self._key: JointKey | None = None

    def key(self, earlier: Sequence[bytes]) -> bytes:
        """This hospital's link of the joint key.

        Args:
            earlier: the links of all hospitals before it in the transcript's order.

        Raises:
            FederationError: one of them does not hold, there are more or fewer, or this hospital has made its link.
        """
        links = checked_links(self._transcript, earlier)
        if len(earlier) != self._place:
            raise FederationError(
                f"{self._identity.hospital} must add its secret after {self._place} other hospitals, got the keys of "
                f"{len(links)}; nothing is sent. Relay the keys in the transcript's order."
            )
        self._may["key"].take()
        try:
            public, secret = self._bfv.new_part(links[-1].parts[0] if links else None)
        except ValueError:
            raise unreadable(links[-1]) from None
        self._secret = Once(secret, f"The secret of {self._identity.hospital}")
        follows = links[-1].digest if links else FIRST
        message = SignedParts.signed(Kind.KEY, [public], follows, self._transcript, self._identity)
        self._link = message.digest
        return message.to_bytes()

    def agree(self, links: Sequence[bytes]) -> None:
        """Takes the joint key that all hospitals have made.

        Raises:
            FederationError: the chain does not hold, this hospital's own link in it is another, or it has agreed to one
                before.
        """
        key = JointKey(self._transcript, links)
        if key.links[self._place].digest != self._link:
            raise FederationError(
                f"The joint key must contain what {self._identity.hospital} added to it, and does not; nothing is "
                "sent. Begin a new attempt."
            )
        self._may["agreement"].take()
        self._key = key

    def upload(self, vector: Residues) -> bytes:
        """As under masks.

        Raises:
            FederationError: a vector was encrypted before, or there is no joint key.
            ValueError: the vector has another length or is not in the ring.
        """
        terms, key = self._transcript.terms, self._agreed()
        if vector.shape != (terms.length,) or vector.dtype != terms.ring.dtype:
            raise ValueError(
                f"vector must be ({terms.length},) of {terms.ring.dtype}, got {vector.shape} of {vector.dtype}"
            )
        self._may["upload"].take()
        numbers = np.concatenate([vector.view("<i8").astype(np.int64), np.zeros(CHECK_NUMBERS, np.int64)])
        try:
            ciphertexts = self._bfv.encrypt(key.public, numbers)
        except ValueError:
            raise unreadable(key.links[-1]) from None
        message = SignedParts.signed(Kind.UPLOAD, ciphertexts, key.digest, self._transcript, self._identity)
        self._sent = message.digest
        return message.to_bytes()

    def opening(self, uploads: Sequence[bytes]) -> bytes:
        """See `HiddenAddend`: this hospital's part of decrypting the sum that it has formed itself; once.

        Raises:
            FederationError: an upload is missing, stands twice, was not signed for this attempt, its own is another, or
                a sum has been opened with this key.
        """
        total = EncryptedSum(self._transcript, self._agreed(), self._bfv)
        for upload in uploads:
            total.add(upload)
        blocks, added = total.whole()
        if total.digest_of(self._identity.hospital) != self._sent:
            raise FederationError(
                f"The uploads must contain what {self._identity.hospital} sent, and contain something else in its "
                "name; nothing is opened. Find out who has its signing key."
            )
        assert self._secret is not None  # `agree` found its link
        parts = self._bfv.partial(blocks, self._secret.take(), leads=self._place == 0)
        return SignedParts.signed(Kind.OPENING, parts, added, self._transcript, self._identity).to_bytes()

    def _agreed(self) -> JointKey:
        if self._key is None:
            raise FederationError(
                f"{self._identity.hospital} must have agreed to a joint key before it sends or opens anything; relay "
                "the keys of all hospitals first."
            )
        return self._key


class ThresholdTotal:
    """The coordinator's side of one attempt.

    Args:
        transcript: of the attempt.
        links: `ThresholdAddend.key` of all hospitals, in the transcript's order.
    """

    def __init__(self, transcript: Transcript, links: Sequence[bytes]) -> None:
        self._transcript, self._bfv = transcript, Bfv(len(transcript.members))
        self._sum = EncryptedSum(transcript, JointKey(transcript, links), self._bfv)

    @property
    def missing(self) -> tuple[str, ...]:
        """As under masks."""
        return self._sum.missing

    def add(self, upload: bytes) -> None:
        """As under masks."""
        self._sum.add(upload)

    def total(self, openings: Sequence[bytes]) -> Residues:
        """See `HiddenSum`; exact where the sum of whole numbers lies between -p/2 and p/2.

        Raises:
            FederationError: an upload or an opening is missing or does not hold, or the parts do not belong together.
        """
        blocks, added = self._sum.whole()
        parts: dict[str, SignedParts] = {}
        for content in openings:
            part = SignedParts.from_bytes(content, Kind.OPENING, len(blocks), MOST_PARTIAL_BYTES)
            part.check(self._transcript, added)
            parts[part.hospital] = part
        names = [member.hospital for member in self._transcript.members]
        missing = [name for name in names if name not in parts]
        if missing or len(openings) != len(names):
            raise FederationError(
                f"Every hospital of an attempt must open the sum once, got {len(openings)} openings, without "
                f"{', '.join(missing) or 'nobody'}; without all of them nothing can be opened. Begin a new attempt."
            )
        length = self._transcript.terms.length
        try:
            opened = self._bfv.fuse([parts[name].parts for name in names])
        except ValueError:
            raise FederationError(
                "The hospitals' openings must be parts of one decryption, and one of them is not; nothing is opened. "
                "Begin a new attempt."
            ) from None
        if opened[length:].any():
            raise FederationError(
                "The secrets of all hospitals must belong to the joint key, and do not: the sum says nothing. Begin a "
                "new attempt."
            )
        return opened[:length].astype(self._transcript.terms.ring.dtype)
