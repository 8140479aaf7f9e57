"""A hospital's X25519 key for one attempt of one round, announced under its signature.

The key is drawn from the operating system, kept in memory only, and used for one transcript. A hospital that was
restarted announces another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field
from wardround.secure_aggregation.keys.identity import Identity, fingerprint
from wardround.secure_aggregation.keys.pins import Pins, verify
from wardround.secure_aggregation.keys.secret import Entropy, Once
from wardround.secure_aggregation.round.confirmation import Agreed
from wardround.secure_aggregation.round.masks import Masks, Share, pair_key
from wardround.secure_aggregation.round.transcript import LedgerMark, Member, Terms
from wardround.secure_aggregation.round.wire import from_wire, malformed, to_wire

_PURPOSE = "wardround/v2/round-key"
_FORMAT = b"wrannc\x00\x01"

MOST_BYTES = 1 << 20
"""Most bytes of an announcement: room for the views of thousands of other hospitals."""


@dataclass(frozen=True)
class Announcement:
    """A hospital's announcement to the others before a round; all of it public.

    Attributes:
        member: its name, identity, round key, how far its ledger is, and how far it saw those of others.
        terms: hash of the terms that the key is for.
        signature: of both, by the identity.
    """

    member: Member
    terms: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Returns the bytes that are sent."""
        return to_wire(_FORMAT, (self.member.fields, self.terms, self.signature))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Announcement":
        """Returns the announcement of these bytes, checked for its form only (`check`).

        Raises:
            FederationError: these are not the bytes of an announcement, not all of them, or of one that cannot be.
        """
        match from_wire(content, _FORMAT, MOST_BYTES, "An announcement"):
            case (
                (str(name), bytes(identity), bytes(round_key), (int(entries), str(head)), (*seen,)),
                bytes(terms),
                bytes(signature),
            ) if (len(terms), len(signature)) == (32, 64):
                ledger, others = LedgerMark(entries, head), tuple(map(_seen, seen))
                return cls(Member(name, identity, round_key, ledger, others), terms, signature)
        raise malformed("An announcement")

    def check(self, terms: Terms, pins: Pins) -> None:
        """Refuses an announcement that is not of a pinned hospital, or not for these terms.

        Raises:
            FederationError: the key is not pinned or another one, the signature does not hold, or the round key was
                made for another run, round, attempt, model or mechanism.
        """
        name, pinned = self.member.hospital, pins.public_of(self.member.hospital)
        if self.member.identity != pinned:
            raise FederationError(
                f"{name} must announce itself with the key that is pinned here, and came with another; nothing is sent "
                "to this round. Ask them by telephone."
            )
        if not verify(pinned, self.signature, _PURPOSE, self.terms, self.member.fields):
            raise FederationError(
                f"The announcement of {name} must carry its signature, and does not; it was changed on the way. "
                "Nothing is sent to this round."
            )
        if self.terms != terms.digest:
            raise FederationError(
                f"{name} must announce a key for this round's terms, and announced one for others: another run, round "
                f"or attempt, another model or mechanism. Nothing is sent to round {terms.round}, attempt "
                f"{terms.attempt}; begin a new attempt."
            )


def _seen(fields: Field) -> tuple[str, LedgerMark]:
    match fields:
        case (str(hospital), (int(entries), str(head))):
            return hospital, LedgerMark(entries, head)
    raise malformed("An announcement")


class RoundKey:
    """The secret half of a hospital's key for one attempt, and what it announces.

    `ledger` is how far the hospital's own is, and `seen` how far it saw those of others, by their names; `entropy` is
    `system_entropy`, outside of tests.

    Raises:
        FederationError: there is no entropy.
    """

    def __init__(
        self,
        identity: Identity,
        terms: Terms,
        ledger: LedgerMark,
        entropy: Entropy,
        seen: Mapping[str, LedgerMark] = MappingProxyType({}),
    ) -> None:
        secret = X25519PrivateKey.from_private_bytes(entropy(32))
        round_key = secret.public_key().public_bytes_raw()
        told = tuple(sorted(seen.items()))
        member = Member(identity.hospital, identity.key.public, round_key, ledger, told)
        signature = identity.key.sign(_PURPOSE, terms.digest, member.fields)
        self.announcement = Announcement(member, terms.digest, signature)
        self._secret = Once(secret, f"The round key of {identity.hospital}")

    def masks(self, agreed: Agreed) -> Masks:
        """Returns this hospital's masks for one vector; the key is gone afterwards, whether that succeeds or not.

        The i-th hospital adds the stream it shares with the j-th for j > i and subtracts it for j < i, so that in the
        sum of all of them every stream stands once with either sign.

        Raises:
            FederationError: the key was used before; the transcript is for other terms, or without this hospital as it
                announced itself; or a peer's key is one with which no secret can be shared.
        """
        secret, mine, transcript = self._secret.take(), self.announcement.member, agreed.transcript
        if transcript.terms.digest != self.announcement.terms or mine not in transcript.members:
            raise FederationError(
                f"The transcript must be for the terms and with the key that {mine.hospital} announced, and is not; "
                "nothing is sent. Begin a new attempt."
            )
        own = transcript.members.index(mine)
        shares = []
        for index, peer in enumerate(transcript.members):
            if index != own:
                first, second = (mine, peer) if own < index else (peer, mine)
                pair = fingerprint(first.identity), fingerprint(second.identity)
                key = pair_key(shared_secret(secret, peer), transcript.digest, pair)
                shares.append(Share(key, adds=own < index))
        return Masks(shares, transcript.terms.length, transcript.terms.ring)


def shared_secret(secret: X25519PrivateKey, peer: Member) -> bytes:
    """Returns X25519 (RFC 7748) of a secret key and a peer's round key, 32 bytes.

    Raises:
        FederationError: the peer's key is a point of small order, with which the secret would be known to all.
    """
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(peer.round_key))
    except ValueError:
        raise FederationError(
            f"The round key of {peer.hospital} must be one with which a secret can be shared, and gives the same with "
            "every key; nothing is sent. Begin a new attempt without them."
        ) from None
