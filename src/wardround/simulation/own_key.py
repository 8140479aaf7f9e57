"""The key that signs the records of a person's simulations and of the runs that this person coordinates.

    $XDG_STATE_HOME/wardround/record-key.pem    mode 0600, beside the person's own ledger

It is made before the first run, and lies outside every run: a record that was edited and signed anew carries another
key. A person who can read this file can sign as its owner.
"""

from wardround.boundary.private import make_private_folder
from wardround.errors import FederationError, RecordError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_state
from wardround.records.signer import sealed
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy

NAME = "record-key.pem"
OWN = "this person's own key"


def own_key() -> SigningKey:
    """Returns this person's key; the first time it is made.

    Raises:
        FederationError: the file is damaged, or open to others.
        MachineError: the file or its folder cannot be made.
    """
    path = own_state() / NAME
    if not path.exists():
        make_private_folder(path.parent)
        try:
            SigningKey.new(system_entropy).write(path)
        except FederationError:
            if not path.exists():  # else another process of this person has made it meanwhile
                raise
    return SigningKey.read(path)


def own_pin() -> dict[str, bytes]:
    """Returns this person's public key as a pin; nothing where there is none yet."""
    return {OWN: own_key().public} if (own_state() / NAME).exists() else {}


def check_contains(ledger: LedgerFile, key: SigningKey, head: str) -> None:
    """Refuses a ledger without the line whose hash was sealed as `head`; the newest lines are tried first.

    Raises:
        RecordError: it is another ledger, or was written anew.
    """
    entries, _ = ledger.position()
    known = (ledger.head_after(number) for number in range(entries, -1, -1))
    if not any(one is not None and sealed(one, key) == head for one in known):
        raise RecordError(
            f"Ledger {ledger.path} must contain the line up to which the run was signed, and does not: it is another "
            "ledger, or was written anew. Restore it from a copy.",
            code="record-ledger",
        )
