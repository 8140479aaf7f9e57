"""The repair: a key that all hospitals hold together, so that nothing but the sum of all uploads is opened.

    link       every hospital in the transcript's order adds its secret to the public key
    agree      every hospital checks the whole chain of links and finds its own in it
    upload     every hospital encrypts its whole numbers under the last public key
    opening    every hospital takes ALL uploads, adds them up itself, and decrypts its part of that sum, once
    total      the coordinator puts the parts together; with one missing, nothing is opened

Released, to the coordinator: the sum modulo p of all hospitals' numbers (`bfv`). Nothing here adds noise.

Guarantee: computational, under ring learning with errors at 128 bits, SHA-256 and Ed25519, as long as the HOSPITALS
follow the steps. Then the coordinator, however it relays, together with any number of hospitals that show it all they
have but their signing keys, learns the sum of the others' vectors and nothing else; with one of the others missing,
nothing at all. A hospital that does not follow the steps can do more than under masks, together with the coordinator:
the last of the chain can publish a key of its own, the first can choose the public polynomial with a trapdoor, and
whoever sees ciphertexts before it uploads can subtract them from its own. So no run offers this.

Every message is signed, and checked before OpenFHE reads it. Messages are values here; a wire would give them bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import Bfv, num_blocks
from wardround.secure_aggregation.canonical import Field, digest
from wardround.secure_aggregation.integers.ring import WIDEST, Residues
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.pins import verify
from wardround.secure_aggregation.keys.secret import Once
from wardround.secure_aggregation.round.confirmation import Agreed
from wardround.secure_aggregation.round.transcript import Transcript

FIRST = bytes(32)
"""The value that the first link follows."""

CHECK_NUMBERS = 4
"""Zeros encrypted behind every vector. In the sum they are zeros again if all secrets belong to the key: 160 bits."""

_PURPOSE = "wardround/v1/threshold-sum"


Kind: TypeAlias = Literal["key", "upload", "opening"]
"""A step; a message of one kind never stands for another."""


@dataclass(frozen=True, eq=False)
class Signed:
    """A message of a hospital.

    Attributes:
        kind: of its parts.
        hospital: its name.
        transcript: hash of the transcript that it belongs to, 32 bytes.
        follows: hash of what it rests on, 32 bytes: the link before it, the joint key, the uploads.
        parts: bytes of OpenFHE's.
        signature: 64 bytes.
    """

    kind: Kind
    hospital: str
    transcript: bytes
    follows: bytes
    parts: Sequence[bytes]
    signature: bytes = b""

    @classmethod
    def by(
        cls, identity: Identity, kind: Kind, parts: Sequence[bytes], follows: bytes, transcript: Transcript
    ) -> "Signed":
        """Returns a message of this hospital."""
        head = kind, identity.hospital, transcript.digest, follows, parts
        return cls(*head, identity.key.sign(_PURPOSE, *cls(*head)._signed_fields))

    @cached_property
    def digest(self) -> bytes:
        """Hash of all parts and their lengths."""
        return digest("wardround/v1/threshold-parts", list(self.parts))

    @property
    def _signed_fields(self) -> tuple[Field, ...]:
        return self.kind, self.transcript, self.hospital, self.follows, self.digest

    def check(self, kind: Kind, num_parts: int, transcript: Transcript, follows: bytes) -> None:
        """Refuses a message that is not of this kind and transcript, or that rests on something else.

        Raises:
            FederationError: the hospital takes no part, the signature does not hold, or kind, parts or hashes differ.
        """
        identity, about = transcript.member(self.hospital).identity, f"The {kind} of {self.hospital} must"
        signed = verify(identity, self.signature, _PURPOSE, *self._signed_fields)
        _demand(signed, f"{about} carry its signature, and does not; it was changed on the way.")
        here = self.transcript == transcript.digest
        _demand(here, f"{about} be for this round, and is for another transcript.")
        whole = (self.kind, len(self.parts)) == (kind, num_parts)
        _demand(whole, f"{about} have {num_parts} parts, got {len(self.parts)} of kind {self.kind}.")
        rests = self.follows == follows
        _demand(rests, f"{about} rest on the keys and uploads that are here, and rests on others.")


def joint_key(transcript: Transcript, links: Sequence[Signed]) -> tuple[bytes, bytes]:
    """Returns the public key that the whole chain of hospitals has made, and the hash of the chain.

    Raises:
        FederationError: a link is missing, out of its place, not signed, or made from another one before it.
    """
    _check_links(transcript, links)
    _demand_one_of_each("add its secret to the key", transcript, links)
    return links[-1].parts[0], digest("wardround/v1/joint-key", [link.digest for link in links])


class ThresholdHospital:
    """A hospital's side of one attempt: `link`, `agree`, `upload` and `opening` in this order, each once.

    Every method raises FederationError for a message that does not hold, and for a second use.

    Args:
        agreed: the transcript of the attempt, confirmed by all hospitals.
        identity: signs what it sends.
        scheme: for that many hospitals.

    Raises:
        FederationError: the transcript is of another ring than 2^64. Of numbers modulo 2^b, the sum modulo p would also
            show which had wrapped around.
    """

    def __init__(self, agreed: Agreed, identity: Identity, scheme: Bfv) -> None:
        self._transcript, self._identity, self._scheme = agreed.transcript, identity, scheme
        ring = self._transcript.terms.ring
        _demand(ring == WIDEST, f"A threshold sum must be in the ring 2^64, got 2^{ring.bits}.")
        self._place = self._transcript.members.index(self._transcript.member(identity.hospital))
        steps = ("key", "agreement", "upload")
        self._may = {step: Once(None, f"The {step} of {identity.hospital}") for step in steps}
        self._secret: Once[Any] | None = None
        self._link = self._sent = b""
        self._key: tuple[bytes, bytes] | None = None

    def link(self, earlier: Sequence[Signed]) -> Signed:
        """Returns this hospital's link of the joint key, after those of all hospitals before it."""
        _check_links(self._transcript, earlier)
        name, place = self._identity.hospital, self._place
        _demand(len(earlier) == place, f"{name} must add its secret after {place} others, got {len(earlier)}.")
        self._may["key"].take()
        public, secret = self._scheme.new_part(earlier[-1].parts[0] if earlier else None)
        self._secret = Once(secret, f"The secret of {name}")
        made = self._signed("key", [public], earlier[-1].digest if earlier else FIRST)
        self._link = made.digest
        return made

    def agree(self, links: Sequence[Signed]) -> None:
        """Takes the joint key that all hospitals have made, if this hospital's own link is in it."""
        key, name = joint_key(self._transcript, links), self._identity.hospital
        own = links[self._place].digest == self._link
        _demand(own, f"The joint key must contain what {name} added to it, and does not.")
        self._may["agreement"].take()
        self._key = key

    def upload(self, vector: Residues) -> Signed:
        """Returns the vector of integers modulo 2^64, (length,), encrypted. Charge the ledger before it leaves."""
        terms, (public, key) = self._transcript.terms, self._agreed()
        if (vector.shape, vector.dtype) != ((terms.length,), terms.ring.dtype):
            raise ValueError(f"vector must be ({terms.length},) of {terms.ring.dtype}, got {vector.shape}")
        self._may["upload"].take()
        numbers = np.concatenate([vector.view("<i8").astype(np.int64), np.zeros(CHECK_NUMBERS, np.int64)])
        sent = self._signed("upload", self._scheme.encrypt(public, numbers), key)
        self._sent = sent.digest
        return sent

    def opening(self, uploads: Sequence[Signed]) -> Signed:
        """Returns this hospital's part of decrypting the sum that it has formed itself, of all uploads."""
        blocks, added = _added(self._transcript, self._agreed()[1], uploads, self._scheme)
        name = self._identity.hospital
        own = self._sent in [upload.digest for upload in uploads if upload.hospital == name]
        _demand(own, f"The uploads must contain what {name} sent, and contain something else in its name.")
        assert self._secret is not None  # `agree` found its link
        parts = self._scheme.partial(blocks, self._secret.take(), leads=self._place == 0)
        return self._signed("opening", parts, added)

    def _signed(self, kind: Kind, parts: Sequence[bytes], follows: bytes) -> Signed:
        return Signed.by(self._identity, kind, parts, follows, self._transcript)

    def _agreed(self) -> tuple[bytes, bytes]:
        if self._key is None:
            raise FederationError(
                f"{self._identity.hospital} must have agreed to a joint key before; relay all links."
            )
        return self._key


def threshold_total(
    transcript: Transcript, key: bytes, uploads: Sequence[Signed], openings: Sequence[Signed], scheme: Bfv
) -> Residues:
    """Returns the sum of all hospitals' vectors, (length,); exact where it lies between -p/2 and p/2.

    Raises:
        FederationError: an upload or an opening is missing or does not hold, or the parts do not belong together.
    """
    blocks, added = _added(transcript, key, uploads, scheme)
    for opening in openings:
        opening.check("opening", len(blocks), transcript, added)
    _demand_one_of_each("open the sum", transcript, openings)
    parts = {opening.hospital: opening.parts for opening in openings}
    opened = scheme.fuse([parts[member.hospital] for member in transcript.members])
    length = transcript.terms.length
    _demand(not opened[length:].any(), "The secrets of all hospitals must belong to the joint key, and do not.")
    return opened[:length].astype(transcript.terms.ring.dtype)


def _added(transcript: Transcript, key: bytes, uploads: Sequence[Signed], scheme: Bfv) -> tuple[list[Any], bytes]:
    """Returns the ciphertexts of the sum of all hospitals' uploads, and the hash of what was added."""
    for upload in uploads:
        upload.check("upload", num_blocks(transcript.terms.length + CHECK_NUMBERS), transcript, key)
    _demand_one_of_each("upload", transcript, uploads)
    blocks: list[Any] = []
    for upload in uploads:
        blocks = scheme.added(blocks, upload.parts)
    digests = {upload.hospital: upload.digest for upload in uploads}
    ordered = [digests[member.hospital] for member in transcript.members]
    return blocks, digest("wardround/v1/uploads", key, ordered)


def _check_links(transcript: Transcript, links: Sequence[Signed]) -> None:
    """Refuses links that are not the first of a chain, each of the hospital of its place, made from the one before."""
    most = len(transcript.members)
    _demand(len(links) <= most, f"A joint key must have one link of each of {most} hospitals, got {len(links)}.")
    follows = FIRST
    for link, member in zip(links, transcript.members, strict=False):
        link.check("key", 1, transcript, follows)
        in_place = link.hospital == member.hospital
        _demand(in_place, f"The key here must be that of {member.hospital}, and is that of {link.hospital}.")
        follows = link.digest


def _demand_one_of_each(what: str, transcript: Transcript, messages: Sequence[Signed]) -> None:
    found = sorted(message.hospital for message in messages)
    without = [member.hospital for member in transcript.members if member.hospital not in found]
    _demand(not without, f"Every hospital must {what}, and {', '.join(without)} did not.")
    _demand(len(found) == len(transcript.members), f"Every hospital must {what} once, and one of them did twice.")


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise FederationError(f"{sentence} Nothing is opened; begin a new attempt.")
