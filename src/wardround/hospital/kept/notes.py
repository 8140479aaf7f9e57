"""A hospital's notes of masked rounds, in one small file that is on disk before its next upload leaves.

The last attempt it took part in, so that none is answered twice; the head of its ledger after that charge, so that a
ledger put back to an earlier copy is found; how far it saw the ledgers of others, for the same reason; and what the
witness coordinates have shown so far.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from wardround.boundary.documents import load_json
from wardround.errors import FederationError, RecordError
from wardround.hospital.known_ledgers import KnownLedger
from wardround.ledger.account import Account
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.secure_aggregation.round.transcript import LedgerMark, Member
from wardround.secure_aggregation.round.witness import Witness

_FORMAT = 2  # 1 remembered of other ledgers only whether they were empty


@dataclass(frozen=True)
class Notes:
    """One hospital's notes of a run.

    Attributes:
        round: of the last upload; 0 is the count of patients.
        attempt: of that round; 0 before the first upload.
        ledger_head: hash of the ledger's last entry after that charge; None before the first.
        opened: the last round that was opened; 0 before the first, and after the count.
        before: what the witnesses had shown before that round.
        witness: and with it.
        peers: how far the ledgers of the others were, by name.
    """

    round: int = 0
    attempt: int = 0
    ledger_head: str | None = None
    opened: int = 0
    before: Witness = field(default_factory=Witness)
    witness: Witness = field(default_factory=Witness)
    peers: Mapping[str, KnownLedger] = field(default_factory=dict)

    @property
    def last(self) -> tuple[int, int] | None:
        """Round and attempt of the last upload; None before the first."""
        return None if self.attempt == 0 else (self.round, self.attempt)

    def witness_before(self, round: int) -> Witness:
        """Returns the witnesses without this round, which may be opened again after an interruption.

        Nothing, where it lies before the last that was opened: a seeded repetition is the same, and counts once.
        """
        if round < self.opened:
            return Witness()
        return self.before if round == self.opened else self.witness

    def check(self, ledger: Account) -> None:
        """Refuses a ledger that has lost a charge these notes know of.

        Raises:
            LedgerError: it is an earlier copy, or empty.
        """
        if self.ledger_head is not None:
            ledger.verify(self.ledger_head)

    def check_peers(self, others: Sequence[Member]) -> None:
        """Refuses a round with a hospital whose ledger has lost charges that it had.

        Raises:
            FederationError: an earlier copy was put back; its patients' budget would be spent twice.
        """
        for member in others:
            if member.hospital in self.peers:
                self.peers[member.hospital].check(member.hospital, member.ledger)

    def with_peers(self, others: Sequence[Member], *, is_charged: bool) -> "Notes":
        """Returns these with the positions of other ledgers that were checked; `is_charged`: see `KnownLedger`."""
        now = {member.hospital: KnownLedger(member.ledger, is_charged) for member in others}
        return replace(self, peers={**self.peers, **now})

    def knowing(self, other: "Notes") -> "Notes":
        """Returns these with what the notes of another study know of the ledgers of others, the furthest of each.

        A hospital has one ledger for all studies, so that one that was put back is found by the next study as well.
        """
        furthest = dict(self.peers)
        for name, known in other.peers.items():
            furthest[name] = max(
                known, furthest.get(name, known), key=lambda one: (one.mark.entries, one.is_charged)
            )
        return replace(self, peers=furthest)

    @classmethod
    def read(cls, path: Path) -> "Notes":
        """Returns the notes of a file; empty ones where there is none.

        Raises:
            RecordError: the file is damaged.
        """
        if not path.exists():
            return cls()
        try:
            found = load_json(path)
            if not isinstance(found, dict):
                raise ValueError("they are no JSON object")
            written = found.pop("format", 1)
            if written != _FORMAT:
                raise RecordError(
                    f"A hospital's notes in {path} must be in format {_FORMAT}, got {written}; go on with the version "
                    "of Wardround that wrote them, or start a new run."
                )
            return cls(
                **{
                    **found,
                    "before": Witness(**found["before"]),
                    "witness": Witness(**found["witness"]),
                    "peers": {name: _known(**known) for name, known in found["peers"].items()},
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, FederationError) as error:
            raise RecordError(
                f"A hospital's notes in {path} must be readable, and are not ({error}); start a new run."
            ) from None

    def write(self, path: Path) -> None:
        """Writes them whole or not at all; they are on disk when this returns.

        Raises:
            FederationError: they cannot be written; nothing may be sent then.
        """
        content = {
            "format": _FORMAT, "round": self.round, "attempt": self.attempt, "ledger_head": self.ledger_head,
            "opened": self.opened, "before": asdict(self.before), "witness": asdict(self.witness),
            "peers": {
                name: {**asdict(known.mark), "is_charged": known.is_charged} for name, known in self.peers.items()
            },
        }  # fmt: skip
        write_key_file(path, json.dumps(content).encode(), replace=True)


def _known(*, entries: int, head: str, is_charged: bool) -> KnownLedger:
    if type(entries) is not int or type(is_charged) is not bool:
        raise TypeError("a known ledger has a whole number of entries")
    return KnownLedger(LedgerMark(entries, head), is_charged)
