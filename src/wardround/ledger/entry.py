"""One line of a privacy ledger, and the chain of hashes that ties it to the line before.

    hash = SHA-256(previous hash + canonical JSON of the entry without its hash)

The first entry of a chain follows `GENESIS`. Changing, dropping or reordering any entry breaks every hash
after it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.events import Event, JsonDict, canonical_json, from_json, to_json
from wardround.accounting.mechanisms import check_delta, check_epsilon
from wardround.accounting.numbers import number_from_json, number_to_json
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import LedgerError, PrivacyError

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Promise:
    """The limit that every charge is checked against: what one `unit` was promised, and who computes it."""

    epsilon_limit: float
    delta: float
    accountant: AccountantKind = AccountantKind.PLD
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon_limit)
        check_delta(self.delta)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One charge: what was about to be released, why, and under which promise; `sequence` starts at 1."""

    hospital: str
    dataset_digest: str
    sequence: int
    study: str
    release_id: str
    attempt: int
    purpose: str
    event: Event
    seeded: bool
    unit: PrivacyUnit
    relation: NeighboringRelation
    epsilon_limit: float
    delta: float
    accountant: AccountantKind
    created_utc: str
    version: str | None
    previous: str

    @property
    def hash(self) -> str:
        """The hash that the next entry is chained to."""
        return chained_hash(self.previous, canonical_json(self.to_json()))

    def to_json(self) -> JsonDict:
        """Returns the entry as a JSON object; an infinite limit is the string 'infinity'."""
        data: JsonDict = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {
            "event": to_json(self.event),
            "unit": self.unit.value,
            "relation": self.relation.value,
            "accountant": self.accountant.value,
            "epsilon_limit": number_to_json(self.epsilon_limit),
            "delta": float(self.delta),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "LedgerEntry":
        """Returns the entry that `to_json` wrote.

        Raises:
            LedgerError: a field is missing, unknown or out of its range.
        """
        try:
            return cls(
                **{  # type: ignore[arg-type]  # a missing or unknown key is a TypeError, caught below
                    **data,
                    "event": from_json(data["event"]),  # type: ignore[arg-type]
                    "unit": PrivacyUnit(str(data["unit"])),
                    "relation": NeighboringRelation(str(data["relation"])),
                    "accountant": AccountantKind(str(data["accountant"])),
                    "epsilon_limit": number_from_json(data["epsilon_limit"]),
                }
            )
        except (KeyError, TypeError, ValueError, PrivacyError) as error:
            raise LedgerError(
                f"A ledger entry must have exactly the fields of this version, got one that does not: "
                f"{error}. "
                "Restore the ledger from a copy, or read it with the version of Wardround that wrote it."
            ) from error


def chained_hash(previous: str, body: str) -> str:
    """Returns the hash of an entry by its text, as it was written."""
    return hashlib.sha256((previous + body).encode()).hexdigest()
