"""The lines of a ledger, and the chain of hashes that ties each one to the line before.

    hash = SHA-256(hash of the line before + canonical JSON of the line)

The first line follows `GENESIS`. Changing, dropping or reordering any line breaks every hash after it.

    Entry = Begun        a hospital's part in a run began: the persons who are in it, and what is foreseen
          | Charge       a release of that run is about to be made
          | Answered     the answer to a request that may be answered once
          | Ended        the run has ended: what was foreseen and not charged is free again
          | Unprotected  figures about these persons are about to leave without protection
          | LimitSet     a person set the limit
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, ClassVar, TypeAlias, get_args

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.events import Event, canonical_json, from_json, to_json
from wardround.accounting.mechanisms import check_delta, check_epsilon
from wardround.accounting.numbers import number_from_json, number_to_json
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.boundary.documents import parse_json
from wardround.errors import LedgerError, PrivacyError

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of one hospital's part in a run; all its charges name it.

    Attributes:
        run: one for each run; of a seeded study the study itself, as its runs release the same.
        study: digest of the study file.
        offered: digest of the persons that the study would have had.
        cohort: digest of the persons who are in it: those offered who could afford what is foreseen.
        foreseen: everything that is expected to be charged.
        epsilon: what all charges of this run together may cost.
        delta: at which.
        unit: what the charges protect.
        seeded: a repeated release is bit for bit the same, and costs nothing.
    """

    kind: ClassVar[str] = "begun"
    run: str
    study: str
    name: str
    hospital: str
    offered: str
    cohort: str
    foreseen: Event
    epsilon: float
    delta: float
    accountant: AccountantKind
    unit: PrivacyUnit
    relation: NeighboringRelation
    seeded: bool
    version: str | None
    at: str

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge: the event that was about to happen.

    Attributes:
        begun: the line that this run began with.
        release: of the run, such as "3/gradient-sum/1".
        attempt: at this release, from 1.
        purpose: a word for the reader of the ledger.
        event: about to be done to everybody in the run.
    """

    kind: ClassVar[str] = "charge"
    begun: int
    release: str
    attempt: int
    purpose: str
    event: Event
    at: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The one answer to a request of a run that may be answered once: its SHA-256."""

    kind: ClassVar[str] = "answered"
    begun: int
    release: str
    answer: str
    at: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one hospital's part in a run."""

    kind: ClassVar[str] = "ended"
    begun: int
    at: str


@dataclass(frozen=True, slots=True)
class Unprotected:
    """Persons about whom figures leave without protection, as the metrics of test patients in a simulation."""

    kind: ClassVar[str] = "unprotected"
    run: str
    study: str
    cohort: str
    purpose: str
    at: str


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The limit of every person, from here on.

    Attributes:
        epsilon: over all studies; infinity for no limit.
        delta: at which.
        reason: in that person's words.
    """

    kind: ClassVar[str] = "limit"
    epsilon: float
    delta: float
    by: str
    reason: str
    at: str

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)
        if not self.by.strip() or not self.reason.strip():
            raise PrivacyError(
                "A limit must be set by a person with a reason, and one of them is empty: give both."
            )


Entry: TypeAlias = Begun | Charge | Answered | Ended | Unprotected | LimitSet
_KINDS: dict[str, type[Entry]] = {each.kind: each for each in get_args(Entry)}


_FIELDS = {
    kind: [(name, f'"{name}":') for name in sorted(("kind", *each.__slots__))] for kind, each in _KINDS.items()
}
"""Names of a kind's fields in the order of its text, each with what opens it there."""


def body_of(entry: Entry) -> str:
    """Returns the text of a line, as it is hashed and kept: the canonical JSON of its kind and its fields."""
    return (
        "{" + ",".join([opens + _text_of(name, getattr(entry, name)) for name, opens in _FIELDS[entry.kind]]) + "}"
    )


def _text_of(name: str, value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if name in ("begun", "attempt"):
        return str(value)
    if name in ("event", "foreseen"):
        return _text_of_event(value)
    return json.dumps(number_to_json(value) if name in ("epsilon", "delta") else value)


@lru_cache(maxsize=4096)  # a run charges the same event in every round
def _text_of_event(event: Event) -> str:
    return canonical_json(to_json(event))


def entry_of(body: str) -> Entry:
    """Returns the line that `body_of` wrote.

    Raises:
        LedgerError: a field is missing, unknown or out of its range.
    """
    try:
        data: dict[str, Any] = parse_json(body)
        kind = _KINDS[data.pop("kind")]
        for name, read in _READ.items():
            if name in data:
                data[name] = read(data[name])
        return kind(**data)
    except (AttributeError, KeyError, TypeError, ValueError, PrivacyError) as error:
        raise LedgerError(
            f"A ledger's line must have exactly the fields of this version, got one that does not: {error}. "
            "Restore the ledger from a copy, or read it with the version of Wardround that wrote it.",
            code="ledger-line",
        ) from error


def chained_hash(previous: str, body: str) -> str:
    """Returns the hash of a line by its text, as it was written."""
    return hashlib.sha256((previous + body).encode()).hexdigest()


def _event_of(data: Mapping[str, object]) -> Event:
    return _cached_event(json.dumps(data, sort_keys=True))


@lru_cache(maxsize=4096)  # a run charges the same event in every round
def _cached_event(text: str) -> Event:
    return from_json(json.loads(text))


_READ: dict[str, Any] = {
    "event": _event_of,
    "foreseen": _event_of,
    "epsilon": number_from_json,
    "delta": number_from_json,
    "accountant": AccountantKind,
    "unit": PrivacyUnit,
    "relation": NeighboringRelation,
}
