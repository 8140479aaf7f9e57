"""A hospital's side of a masked round: it checks, charges its ledger, computes, noises, masks and signs one upload.

What leaves: a round key, how far its ledger is (`known_ledgers`), the hash of a transcript, and the sum of its
patients' rows on the grid (gradients, a one for everybody, or histograms of test patients) with its share of the noise,
under masks; and the event it was charged as. When: the upload only after the charge and the notes are on disk.
A sample without patients is noised, masked and sent like any other.

Guarantee: that of `wardround.secure_aggregation.integers.mechanism` for the sum of all hospitals; a single upload is
uniform to any party without the keys of an honest hospital. Sensitivity: one patient, added or removed with all
their pictures, moves the sum by a row of integer L2 norm at most D. Witness coordinates hold zeros for every patient.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import assert_never

import numpy as np

from wardround.accounting.events import Event
from wardround.boundary.machine import raise_fault
from wardround.errors import FederationError, LedgerError, PrivacyError
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.hospital.agent import Agent
from wardround.hospital.kept.notes import Notes
from wardround.hospital.known_ledgers import check_own, mark_of
from wardround.hospital.rounded import leave_the_witnesses
from wardround.ledger.entry import GENESIS
from wardround.privacy.rows import Row
from wardround.secure_aggregation.integers.grid import Grid, Int64
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import Residues
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.cohort import CohortRule, check_follows
from wardround.secure_aggregation.round.confirmation import Agreed, Confirmation, confirm
from wardround.secure_aggregation.round.round_key import Announcement, RoundKey
from wardround.secure_aggregation.round.transcript import Member, Terms, Transcript
from wardround.secure_aggregation.round.upload import Upload
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.training.exact_head import Steps
from wardround.types import Vector
from wardround.work import Announce, CountPatients, Evaluate, GradientSum, RowSum, ScoreSum, Summed, terms_of

_log = logging.getLogger("wardround.hospital")


NO_ATTEMPT = "federation-no-attempt"
"""Code of the error of a step for which there is no attempt under way."""


@dataclass
class _Attempt:
    """An attempt under way, as a hospital holds it; `charged`: agreed on by all, and charged to the ledger.

    `ledger`: entries and head of the ledger with that charge, which must still be so when the upload leaves.
    """

    request: Request
    of: Summed
    terms: Terms
    key: RoundKey
    transcript: Transcript | None = None
    charged: Agreed | None = None
    ledger: tuple[int, str] = (0, GENESIS)


class MaskedRounds:
    """A hospital's side of masked rounds.

    The methods are called in their order, once an attempt. A failure is a code and a stage; a `FederationError` says
    that another party does not keep to the protocol, a `LedgerError` that a charge is gone, and both end the run.

    Args:
        agent: its patients, plan, policy, ledger and network.
        identity: its signing key.
        pins: of the other hospitals.
        agreement: as it knows it, from its own study file.
        notes: the file that keeps them; None keeps them in this process, for runs that are not resumed.

    Raises:
        LedgerError: the ledger has lost a charge that the notes know of.
    """

    def __init__(
        self,
        agent: Agent,
        identity: Identity,
        pins: Pins,
        agreement: Agreement,
        notes: Path | None = None,
    ) -> None:
        self._agent, self._identity, self._agreement = agent, identity, agreement
        self._rule = CohortRule(pins, agreement.minimum)
        self._path = notes
        self.notes = Notes() if notes is None else Notes.read(notes)
        self.notes.check(agent.account)
        self._attempt: _Attempt | None = None
        self._taken_in = b""

    @property
    def pins(self) -> Pins:
        """Keys of the other hospitals, as they were pinned when the study was opened."""
        return self._rule.pins

    def announce(self, request: Request, work: Announce) -> bytes | Failure:
        """Returns its announcement: a fresh key for an attempt, signed. Takes in the sum before, if one is owed."""
        if work.received is not None:
            if self._attempt is None and hashlib.sha256(work.received).digest() != self._taken_in:
                _log.warning(
                    "the sum before round %d is of an attempt from before a restart: not checked", request.round
                )
            else:
                self.receive(work.received)
        self._attempt = None
        refused = self._agent.refuses(request)  # now, while no hospital has been charged for this attempt
        if refused is not None:
            return refused
        terms = self._agreement.terms(request.round, work.attempt, work.hospitals, *terms_of(work.of))
        check_follows(terms, self._last_before(request.round))
        seen = {name: known.mark for name, known in self.notes.peers.items()}
        ledger = mark_of(self._agent.account, self._identity)
        key = RoundKey(self._identity, terms, ledger, system_entropy, seen)
        self._attempt = _Attempt(request, work.of, terms, key)
        return key.announcement.to_bytes()

    def confirm(self, announcements: Sequence[bytes]) -> bytes:
        """Returns its confirmation: the hash of the transcript that it makes of all announcements, signed."""
        attempt = self._under_way()
        told = [Announcement.from_bytes(announcement) for announcement in announcements]
        transcript = self._rule.form(attempt.terms, told, attempt.key.announcement)
        self.notes.check_peers(self._others(transcript))
        check_own(self._agent.account, self._identity, transcript)
        attempt.transcript = transcript
        return confirm(transcript, self._identity).to_bytes()

    def admit(self, confirmations: Sequence[bytes]) -> Event | Failure:
        """Charges its ledger if all have confirmed the same; returns what it was charged.

        Raises:
            FederationError: the attempt was uploaded: its key hides one vector, and no second one will leave.
        """
        attempt = self._under_way()
        check_follows(attempt.terms, self._last_before(attempt.terms.round))
        told = [Confirmation.from_bytes(confirmation) for confirmation in confirmations]
        agreed = Agreed(self._transcript(attempt), tuple(told))
        refusal = self._agent.admit(attempt.request)
        if refusal is not None:
            return refusal
        attempt.charged, attempt.ledger = agreed, self._agent.account.position()
        return self._agent.event_of(attempt.request)

    @property
    def event(self) -> Event:
        """The event that the attempt under way is charged as."""
        return self._agent.event_of(self._under_way().request)

    def upload(self) -> bytes | Failure:
        """Returns its masked vector, signed. The notes are on disk before anything is computed.

        Raises:
            LedgerError: the charge is gone: the transaction that it was in was undone, or the ledger was put back.
        """
        attempt = self._under_way()
        agreed, terms = self._charged(attempt), attempt.terms
        (entries, charged), head = attempt.ledger, self._agent.account.position()[1]
        if self._agent.account.head_after(entries) != charged:
            raise LedgerError(
                f"The ledger of {self._identity.hospital} must contain charge {entries} when the upload leaves, and "
                "does not; nothing is sent. Begin a new attempt.",
                code="ledger-charge-missing",
            )
        seen = self.notes.with_peers(self._others(agreed.transcript), is_charged=False)
        self._note(replace(seen, round=terms.round, attempt=terms.attempt, ledger_head=head))
        try:
            mechanism = self._agreement.mechanism_for(terms.hospitals, terms.round)
            residues = mechanism.in_ring(self._noised(mechanism, attempt))
        except Exception as error:
            raise_fault(error)
            _log.exception("training failed")
            return Failure(FailureCode.INTERNAL, Stage.TRAINING)
        masked = attempt.key.masks(agreed).hide(residues)
        return Upload.signed(masked, agreed, self._identity).to_bytes()

    def receive(self, total: bytes) -> None:
        """Takes in the opened sum of the attempt under way, as bytes of residues; the last one, sent again, is passed.

        Raises:
            FederationError: it is no sum of this attempt, or the noise in it is not that of all hospitals.
        """
        sent = hashlib.sha256(total).digest()
        if sent == self._taken_in:
            return  # the reply to it was lost
        attempt = self._under_way()
        terms, others = attempt.terms, self._others(self._charged(attempt).transcript)
        mechanism = self._agreement.mechanism_for(terms.hospitals, terms.round)
        opened = mechanism.lifted(residues_of(total, mechanism))[-WITNESSES:]
        before = self.notes.witness_before(terms.round)
        variance = terms.hospitals * mechanism.share_std**2
        after = before.after(opened, variance, self._agreement.sums)
        # All have uploaded, so all were charged; a seeded repetition is found in the ledger and adds nothing to it.
        seen = self.notes.with_peers(others, is_charged=self._agent.randomness.is_private)
        self.notes = replace(seen, opened=terms.round, before=before, witness=after)  # on disk with the next
        self._attempt, self._taken_in = None, sent

    def _noised(self, mechanism: IntegerMechanism, attempt: _Attempt) -> Int64:
        """Returns the sum of the patients' rows with this hospital's noise, (coordinate + witness,). Private."""
        noise, steps = self._agent.noise_bytes(attempt.request), steps_of(mechanism.grid)
        request, work = attempt.request, attempt.of
        if not isinstance(work, GradientSum):
            return mechanism.encode(self._rows(mechanism, request, work), noise)
        if self._agent.sums_exactly(steps):
            return mechanism.noised(lambda: self._exact_sum(steps, request, work), noise)
        return mechanism.noised(lambda: self._agent.rounded_sum(request, work, mechanism.grid), noise)

    def _exact_sum(self, steps: Steps, request: Request, work: GradientSum) -> Int64:
        """Returns the sum of the patients' gradients by matrix products; the witnesses are zeros."""
        found = self._agent.exact_sum(request, work, steps)
        leave_the_witnesses(found.size, steps.dimension)
        return np.pad(found, (0, steps.dimension - found.size))

    def _rows(
        self, mechanism: IntegerMechanism, request: Request, work: CountPatients | Evaluate | RowSum | ScoreSum
    ) -> Iterator[Row]:
        """Yields the row that each patient adds to the sum; the witnesses, which it lacks, are zeros on the grid."""
        agent = self._agent
        rows: Iterator[Row]
        match work:
            case CountPatients():
                rows = counted_rows(len(agent.patients))
            case Evaluate():
                rows = agent.tested.rows(agent.workbench, work.weights)
            case RowSum() | ScoreSum():
                rows = iter(agent.statistic_rows(request, work))
            case _:
                assert_never(work)
        for row in rows:
            leave_the_witnesses(row.size, mechanism.dimension)
            yield row

    def _others(self, transcript: Transcript) -> list[Member]:
        return [member for member in transcript.members if member.hospital != self._identity.hospital]

    def _last_before(self, round: int) -> tuple[int, int] | None:
        """Returns the last attempt, unless it is of a later round: a run resumed from a checkpoint repeats some."""
        last = self.notes.last
        return None if last is None or last[0] > round else last

    def _note(self, notes: Notes) -> None:
        if self._path is not None:
            notes.write(self._path)
        self.notes = notes

    def _under_way(self) -> _Attempt:
        if self._attempt is None:
            raise FederationError(
                "A hospital announces itself before it takes part in an attempt, and was started again since or never "
                "did; begin a new attempt.",
                code=NO_ATTEMPT,
            )
        return self._attempt

    @staticmethod
    def _charged(attempt: _Attempt) -> Agreed:
        if attempt.charged is None:
            raise PrivacyError(
                "An attempt must be charged to the ledger before its upload leaves and its sum is taken in; admit it "
                "first.",
                code="privacy-not-charged",
            )
        return attempt.charged

    @staticmethod
    def _transcript(attempt: _Attempt) -> Transcript:
        if attempt.transcript is None:
            raise ValueError("a hospital confirms an attempt before it takes part in it")
        return attempt.transcript


def counted_rows(num_patients: int) -> Iterator[Vector]:
    """Returns a row with a one in it for each patient, alike, without the witnesses, (1,): the count as a masked sum.

    Released, before round 1: the noised number of patients of all hospitals together. Sensitivity: one patient, added
    or removed, moves the sum by one row, of integer L2 norm at most D. To the grid the row is a gradient of norm 1, so
    that what is proved and checked of gradients holds here: it is D - sqrt(1 + witnesses) / 2 steps long, rounded.
    Sixteen steps of D are given up for that: 3e-5 of it at noise multiplier 6 among ten hospitals (D = 524,287).
    """
    return repeat(np.ones(1, dtype=np.float32), num_patients)


def steps_of(grid: Grid) -> Steps:
    """Returns the numbers of a grid that a head's exact sums are formed on."""
    return Steps(grid.bound, grid.dimension, grid.steps_per_unit)


def residues_of(total: bytes, mechanism: IntegerMechanism) -> Residues:
    """Returns a sum in a mechanism's ring, (coordinate + witness,), from its bytes.

    Raises:
        FederationError: it has another length.
    """
    word = np.dtype(mechanism.ring.dtype).newbyteorder("<")
    if len(total) != mechanism.dimension * word.itemsize:
        raise FederationError(
            f"An opened sum must have {mechanism.dimension * word.itemsize} bytes in this run, got {len(total)}."
        )
    return np.frombuffer(total, dtype=word).astype(mechanism.ring.dtype)
