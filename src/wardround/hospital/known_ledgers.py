"""Positions of ledgers that hospitals announce and remember: two checks find a ledger that was put back.

The others keep the furthest position that they saw, and refuse fewer charges or other ones. The hospital itself, whose
own memory may have been put back with the ledger, looks up in its ledger the positions that the others saw.

Released: how many charges a ledger has, and a sealed head. No patient is in either.
"""

import hashlib
from dataclasses import dataclass

from wardround.errors import FederationError
from wardround.ledger.account import Account
from wardround.ledger.entry import GENESIS
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.round.transcript import LedgerMark, Transcript


def sealed_head(head: str, identity: Identity) -> str:
    """Returns the announced form of a ledger's head: equal for equal heads, and useless without the hospital's key.

    A head is a hash over lines with digests of who was in which run, keyed by the ledger's own key. Sealed, it is the
    hash of the hospital's signature over it, which is deterministic: a reader who has that key cannot try persons
    against an announcement either. Shown later, the signature proves which head it was. An empty ledger has nothing to
    hide.
    """
    if head == GENESIS:
        return head
    return hashlib.sha256(identity.key.sign("wardround/v1/ledger-head", head)).hexdigest()


def mark_of(ledger: Account, identity: Identity) -> LedgerMark:
    """Returns the position of a hospital's own ledger, as it is announced."""
    entries, head = ledger.position()
    return LedgerMark(entries, sealed_head(head, identity))


def check_own(ledger: Account, identity: Identity, transcript: Transcript) -> None:
    """Refuses to go on if a hospital's own ledger lacks a charge that another one saw.

    Raises:
        FederationError: it does not contain the charges that one of them saw.
    """
    told: dict[LedgerMark, str] = {}
    for member in transcript.members:
        for name, mark in member.seen:
            if name == identity.hospital:
                told.setdefault(mark, member.hospital)
    for mark, peer in told.items():
        head = ledger.head_after(mark.entries)
        if head is None or sealed_head(head, identity) != mark.head:
            raise FederationError(
                f"The ledger of {identity.hospital} must contain charge {mark.entries} as {peer} saw it, and does not: "
                "an earlier copy was put back, or another; nothing is sent. Restore the latest copy.",
                code="federation-own-ledger-replaced",
            )


@dataclass(frozen=True)
class KnownLedger:
    """The position of another hospital's ledger, as a hospital remembers it.

    Attributes:
        mark: the furthest that was announced.
        is_charged: whether a charge must have followed: a sum was opened, and in this run each attempt is charged anew.
    """

    mark: LedgerMark
    is_charged: bool

    def check(self, hospital: str, now: LedgerMark) -> None:
        """Refuses a ledger that has lost a charge.

        Raises:
            FederationError: it has fewer charges than it must have, or as many and others.
        """
        least = self.mark.entries + self.is_charged
        if now.entries < least:
            raise FederationError(
                f"The ledger of {hospital} must reach charge {least}, as it did before, and ends at {now.entries}: an "
                "earlier copy was put back, or it was lost; nothing is sent. Ask them to restore the latest copy.",
                code="federation-ledger-shorter",
            )
        if now.entries == self.mark.entries and now.head != self.mark.head:
            raise FederationError(
                f"The ledger of {hospital} must have charge {now.entries} as it was seen before, and has another: it "
                "was replaced; nothing is sent. Ask them to restore the copy that they had.",
                code="federation-ledger-replaced",
            )
