"""All that the hospitals of a round must agree on, in one hash; every mask is bound to it.

    Terms         the attempt: run, study, what is summed, round, attempt, model, mechanism, ring, code version
    Member        a hospital: name, pinned identity, round key, positions of its privacy ledger and of others'
    Transcript    the terms and the sorted members

Two transcripts that differ in anything differ in their hash (`wardround.secure_aggregation.canonical`, and the
collision resistance of SHA-256). Hospitals that were told different things derive different masks, and their sum
is noise: a party that relays the messages gains nothing by telling them different things.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import TypeAlias

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import Field, digest
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import KEY_BYTES, check_name

Parameter: TypeAlias = int | float | str

NO_ENTRY = "0" * 64
"""Head of a ledger without entries."""

_MOST_ENTRIES = (1 << 63) - 1  # what a ledger's file can number


class Summed(StrEnum):
    """The kind of thing that a masked sum adds up; an upload of one kind can be taken for no other."""

    COUNT = "count"
    """Patients, each as one: round 0."""
    GRADIENTS = "gradients"
    """Clipped gradients of a round's sampled patients."""
    HISTOGRAMS = "histograms"
    """Scores of the test patients under the final model: the round after the last."""


@dataclass(frozen=True)
class Terms:
    """The attempt that a hospital is asked to take part in; all of it public, and none of it about a patient.

    Attributes:
        run: names one run of a study, and no other.
        study: hash of the resolved study, 64 hexadecimal digits.
        round: from 1; 0 is the count before the first, and that after the last the evaluation.
        attempt: of this round, from 1; another set of hospitals is another attempt.
        model: hash of the global model's weights, 64 hexadecimal digits; of no bytes where no model is sent.
        hospitals: taking part; every share of noise is sized for this number.
        mechanism: every parameter of the clipping, of the noise and of the grid, by name.
    """

    run: str
    study: str
    summed: Summed
    round: int
    attempt: int
    model: str
    hospitals: int
    mechanism: Mapping[str, Parameter]
    length: int
    ring: Ring
    code_version: str

    def __post_init__(self) -> None:
        """Refuses terms that say nothing, and keeps a mechanism that nobody can change."""
        for name, least in (("round", 0), ("attempt", 1), ("hospitals", 1), ("length", 1)):
            if getattr(self, name) < least:
                raise FederationError(
                    f"{name} must be at least {least}, got {getattr(self, name)}; correct the round's terms."
                )
        for name in ("run", "code_version"):
            if not getattr(self, name):
                raise FederationError(f"{name} must not be empty; correct the round's terms.")
        for name in ("study", "model"):
            check_hash(getattr(self, name), name)
        object.__setattr__(self, "mechanism", MappingProxyType(dict(self.mechanism)))

    @property
    def fields(self) -> Field:
        """Everything above, in a fixed order."""
        return (
            self.run, self.study, self.summed, self.round, self.attempt, self.model, self.hospitals,
            sorted(self.mechanism.items()), self.length, self.ring.bits, self.code_version,
        )  # fmt: skip

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return digest("wardround/v2/terms", self.fields)


@dataclass(frozen=True)
class LedgerMark:
    """The position of a hospital's privacy ledger. Public, and nothing about a patient: the number of charges.

    Attributes:
        entries: charges in it, those of the hospital's other runs on the same patients included.
        head: hash of the last of them, 64 hexadecimal digits, in runs sealed; zeros where there is none.
    """

    entries: int
    head: str

    def __post_init__(self) -> None:
        """Refuses what cannot be a place in a ledger."""
        check_hash(self.head, "a ledger's head")
        if not 0 <= self.entries <= _MOST_ENTRIES or (self.entries == 0) != (self.head == NO_ENTRY):
            raise FederationError(
                f"A ledger must have a head if it has entries, none if not, and fewer than 2^63, got {self.entries} "
                f"and the head {self.head[:12]}…; ask for the announcement again."
            )

    @property
    def fields(self) -> Field:
        """Both, in a fixed order."""
        return self.entries, self.head


@dataclass(frozen=True)
class Member:
    """A hospital in a round.

    Attributes:
        hospital: its name, as the others have pinned it.
        identity: Ed25519 public key, 32 bytes.
        round_key: X25519 public key, 32 bytes, of this attempt only.
        ledger: how far its ledger is. Peers that keep it can tell later that a ledger was put back to an earlier copy.
        seen: how far it saw the ledgers of others, sorted by their names: each of them can tell by it whether its own
            is still the one that was seen.
    """

    hospital: str
    identity: bytes
    round_key: bytes
    ledger: LedgerMark
    seen: tuple[tuple[str, LedgerMark], ...]

    def __post_init__(self) -> None:
        """Refuses what cannot be a name, a key or a hash."""
        check_name(self.hospital)
        for name, key in (("identity", self.identity), ("round key", self.round_key)):
            if len(key) != KEY_BYTES:
                raise FederationError(
                    f"The {name} of {self.hospital} must be {KEY_BYTES} bytes, got {len(key)}; ask for it again."
                )
        others = [name for name, _ in self.seen]
        for name in others:
            check_name(name)
        if others != sorted({*others} - {self.hospital}):
            raise FederationError(
                f"What {self.hospital} has seen of other ledgers must name each once, sorted, and not its own, and "
                f"does not among {len(others)}; ask for the announcement again."
            )

    @property
    def fields(self) -> Field:
        """Everything above, in a fixed order."""
        seen = [(name, mark.fields) for name, mark in self.seen]
        return self.hospital, self.identity, self.round_key, self.ledger.fields, seen


@dataclass(frozen=True)
class Transcript:
    """A round's terms and its hospitals, sorted by name; made by `cohort.CohortRule.form`."""

    terms: Terms
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        """Refuses a cohort that is not sorted, or in which anything stands twice."""
        names = [member.hospital for member in self.members]
        if names != sorted(names):
            raise ValueError(f"members must be sorted by name, got {names}")
        for what in ("hospital", "identity", "round_key"):
            values = [getattr(member, what) for member in self.members]
            if len(set(values)) != len(values):
                twice = ", ".join(
                    member.hospital for member in self.members if values.count(getattr(member, what)) > 1
                )
                raise FederationError(
                    f"Every hospital of a round must have its own {what.replace('_', ' ')}, and one stands twice "
                    f"({twice}); ask the coordinator of the round for a cohort without it."
                )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: the salt of every mask, and what uploads are signed over."""
        return digest("wardround/v3/transcript", self.terms.fields, [member.fields for member in self.members])

    def member(self, hospital: str) -> Member:
        """Returns the hospital of this name.

        Raises:
            FederationError: it takes no part.
        """
        members = {member.hospital: member for member in self.members}
        if hospital not in members:
            raise FederationError(
                f"{hospital!r} must be one of the round's hospitals ({', '.join(members)}); leave it out, or begin an "
                "attempt with it."
            )
        return members[hospital]


def check_hash(value: str, name: str) -> None:
    """Refuses what is not a SHA-256 hash in lower-case hexadecimal digits."""
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise FederationError(f"{name} must be a hash of 64 hexadecimal digits, got {value[:65]!r}.")
