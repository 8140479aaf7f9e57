"""What a hospital remembers of masked rounds, on disk before its next upload leaves: one small file of its own.

The last attempt it took part in, so that none is answered twice; the head of its ledger after that charge, so that a
ledger put back to an earlier copy is found; whose ledgers had charges in them, for the same reason; and what the
witness coordinates have shown so far.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wardround.accounting.ledger import Ledger
from wardround.accounting.ledger_entry import GENESIS
from wardround.errors import FederationError, RecordError
from wardround.secure_aggregation.key_files import write_key_file
from wardround.secure_aggregation.transcript import Transcript
from wardround.secure_aggregation.witness import Witness


@dataclass(frozen=True)
class Notes:
    """One hospital's notes of a run.

    Attributes:
        round: of the last upload; 0 before the first.
        attempt: of that round.
        ledger_head: hash of the ledger's last entry after that charge; None before the first.
        opened: the last round that was opened; 0 before the first.
        before: what the witnesses had shown before that round.
        witness: and with it.
        charged: hospitals whose ledger was seen with a charge in it.
    """

    round: int = 0
    attempt: int = 0
    ledger_head: str | None = None
    opened: int = 0
    before: Witness = field(default_factory=Witness)
    witness: Witness = field(default_factory=Witness)
    charged: tuple[str, ...] = ()

    @property
    def last(self) -> tuple[int, int] | None:
        """Round and attempt of the last upload; None before the first."""
        return None if self.round == 0 else (self.round, self.attempt)

    def witness_before(self, round: int) -> Witness:
        """What the witnesses have shown without this round, which may be opened again after an interruption."""
        return self.before if round <= self.opened else self.witness

    def check(self, ledger: Ledger) -> None:
        """Refuses a ledger that has lost a charge these notes know of.

        Raises:
            LedgerError: it is an earlier copy, or empty.
        """
        if self.ledger_head is not None:
            ledger.verify(self.ledger_head)

    def check_peers(self, transcript: Transcript) -> None:
        """Refuses a round with a hospital whose ledger had charges and is empty now.

        Raises:
            FederationError: its ledger was lost or replaced; its patients' budget would be spent twice.
        """
        emptied = [peer for peer in peers_of(transcript, charged=False) if peer in self.charged]
        if emptied:
            raise FederationError(
                f"A ledger must keep its charges, and that of {emptied[0]} had some and is empty now; nothing is sent. "
                "Ask them to restore it."
            )

    @classmethod
    def read(cls, path: Path) -> "Notes":
        """The notes of a file; empty ones where there is none.

        Raises:
            RecordError: the file is damaged.
        """
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_text())
            return cls(
                **{
                    **found,
                    "before": Witness(**found["before"]),
                    "witness": Witness(**found["witness"]),
                    "charged": tuple(found["charged"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"A hospital's notes in {path} must be readable, and are not ({error}); start a new run."
            ) from None

    def write(self, path: Path) -> None:
        """Writes them whole or not at all; they are on disk when this returns.

        Raises:
            FederationError: they cannot be written; nothing may be sent then.
        """
        content = {
            "round": self.round, "attempt": self.attempt, "ledger_head": self.ledger_head, "opened": self.opened,
            "before": asdict(self.before), "witness": asdict(self.witness), "charged": self.charged,
        }  # fmt: skip
        write_key_file(path, json.dumps(content).encode(), mode=0o600, replace=True)


def peers_of(transcript: Transcript, *, charged: bool) -> tuple[str, ...]:
    """The hospitals of a round that announced a ledger with charges in it, or those that announced an empty one."""
    members = transcript.members
    return tuple(member.hospital for member in members if (member.ledger_head != GENESIS) is charged)
