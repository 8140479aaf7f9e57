"""A hospital's side of a masked round: it checks, charges its ledger, computes, noises, masks and signs one upload.

What leaves: a round key, how far its ledger is (`known_ledgers`), the hash of a transcript, and the sum of its
patients' rows on the grid (gradients, or a one for everybody) with its share of the noise, under masks; and the event
it was charged as. When: the upload only after the charge and the notes are on disk.
A sample without patients is noised, masked and sent like any other.

Guarantee: that of `wardround.secure_aggregation.mechanism` for the sum of all hospitals; a single upload is uniform
to whoever lacks the keys of an honest hospital. Sensitivity: one patient, added or removed with all their pictures,
moves the sum by a row of integer L2 norm at most D. Witness coordinates hold zeros for every patient.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wardround.accounting.events import Event
from wardround.accounting.ledger_entry import GENESIS
from wardround.agent.agent import Agent
from wardround.agent.known_ledgers import check_own, mark_of
from wardround.agent.masked_count import counted_rows
from wardround.agent.notes import Notes
from wardround.errors import LedgerError, PrivacyError
from wardround.federation.messages import Failure, FailureCode, Request, Stage, Task
from wardround.privacy.layout import Layout
from wardround.privacy.rows import Row, rows_of
from wardround.secure_aggregation.agreement import Agreement
from wardround.secure_aggregation.cohort import CohortRule, check_follows
from wardround.secure_aggregation.confirmation import Agreed, Confirmation, check_agreement, confirm
from wardround.secure_aggregation.grid import Int64
from wardround.secure_aggregation.hidden_sum import MaskedAddend
from wardround.secure_aggregation.identity import Identity
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.pins import Pins
from wardround.secure_aggregation.ring import Residues
from wardround.secure_aggregation.round_key import Announcement, RoundKey
from wardround.secure_aggregation.secret import Entropy, system_entropy
from wardround.secure_aggregation.transcript import Member, Terms, Transcript
from wardround.secure_aggregation.whole_sum import MOST_PATIENTS
from wardround.secure_aggregation.witness import WITNESSES
from wardround.types import Rounding

_log = logging.getLogger("wardround.agent")


@dataclass
class _Attempt:
    """What a hospital holds while an attempt is under way; `charged`: agreed on by all, and charged to the ledger.

    `ledger`: entries and head of the ledger with that charge, which must still be so when the upload leaves.
    """

    request: Request
    terms: Terms
    key: RoundKey
    transcript: Transcript | None = None
    charged: Agreed | None = None
    ledger: tuple[int, str] = (0, GENESIS)


def check_rounding(rounding: Rounding, num_patients: int) -> None:
    """Refuses a hospital of more patients than a sum that is rounded once has a stated sensitivity for.

    Raises:
        PrivacyError: it has more.
    """
    if rounding is Rounding.SUM and num_patients > MOST_PATIENTS:
        raise PrivacyError(
            f'A hospital must have at most {MOST_PATIENTS} training patients for rounding = "sum"; use rounding = '
            '"patient".',
            code="privacy-too-many-patients",
        )


class MaskedHospital:
    """One hospital in masked rounds; see `wardround.federation.masked.MaskedParty` for the order of the calls.

    Args:
        agent: its patients, plan, policy, ledger and network.
        identity: its signing key.
        pins: of the other hospitals.
        agreement: as it knows it, from its own study file.
        notes: where it keeps them; None keeps them in this process, for runs that are not resumed.
        entropy: where round keys come from.

    Raises:
        LedgerError: the ledger has lost a charge that the notes know of.
        PrivacyError: more patients than a sum that is rounded once has a stated sensitivity for.
    """

    def __init__(
        self,
        agent: Agent,
        identity: Identity,
        pins: Pins,
        agreement: Agreement,
        notes: Path | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        check_rounding(agreement.mechanism.rounding, len(agent.patients))
        self._agent, self._identity, self._agreement = agent, identity, agreement
        self._rule = CohortRule(pins, agreement.minimum)
        self._path, self._entropy = notes, entropy
        self.notes = Notes() if notes is None else Notes.read(notes)
        self.notes.check(agent.ledger)
        self._attempt: _Attempt | None = None

    def next_attempt(self, round: int) -> int:
        """See `MaskedParty`."""
        last = self.notes.last
        return last[1] + 1 if last is not None and last[0] == round else 1

    def announce(self, request: Request, attempt: int, hospitals: int) -> bytes | Failure:
        """See `MaskedParty`."""
        self._attempt = None
        if not self._is_summed(request) or not self._agent.agrees(request, masked=True):
            return Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
        terms = self._agreement.terms(request.round, attempt, hospitals, request.weights, request.clipping_norm)
        check_follows(terms, self._last_before(request.round))
        seen = {name: known.mark for name, known in self.notes.peers.items()}
        ledger = mark_of(self._agent.ledger, self._identity)
        key = RoundKey(self._identity, terms, ledger, self._entropy, seen)
        self._attempt = _Attempt(request, terms, key)
        return key.announcement.to_bytes()

    def confirm(self, announcements: Sequence[bytes]) -> bytes | Failure:
        """See `MaskedParty`."""
        attempt = self._under_way()
        told = [Announcement.from_bytes(announcement) for announcement in announcements]
        transcript = self._rule.form(attempt.terms, told, attempt.key.announcement)
        self.notes.check_peers(self._others(transcript))
        check_own(self._agent.ledger, self._identity, transcript)
        attempt.transcript = transcript
        return confirm(transcript, self._identity).to_bytes()

    def admit(self, confirmations: Sequence[bytes]) -> Event | Failure:
        """See `MaskedParty`."""
        attempt = self._under_way()
        told = [Confirmation.from_bytes(confirmation) for confirmation in confirmations]
        agreed = check_agreement(self._transcript(attempt), told)
        refusal = self._agent.admit(attempt.request, masked=True)
        if refusal is not None:
            return refusal
        attempt.charged, attempt.ledger = agreed, self._agent.ledger.position()
        return self._agent.event_of(attempt.request)

    def upload(self) -> bytes | Failure:
        """See `MaskedParty`. The notes are on disk before anything is computed.

        Raises:
            LedgerError: the charge is gone: the transaction that it was in was undone, or the ledger was put back.
        """
        attempt = self._under_way()
        agreed, terms = self._charged(attempt), attempt.terms
        (entries, charged), head = attempt.ledger, self._agent.ledger.head()
        if self._agent.ledger.head_after(entries) != charged:
            raise LedgerError(
                f"The ledger of {self._identity.hospital} must contain charge {entries} when the upload leaves, and "
                "does not; nothing is sent. Begin a new attempt.",
                code="ledger-charge-missing",
            )
        seen = self.notes.with_peers(self._others(agreed.transcript), is_charged=False)
        self._note(replace(seen, round=terms.round, attempt=terms.attempt, ledger_head=head))
        try:
            mechanism = self._agreement.mechanism_for(terms.hospitals, terms.round)
            residues = mechanism.in_ring(self._noised(mechanism, attempt.request))
        except Exception:
            _log.exception("training failed")
            return Failure(FailureCode.INTERNAL, Stage.TRAINING)
        return MaskedAddend(attempt.key, agreed, self._identity).upload(residues)

    def receive(self, total: Residues) -> None:
        """See `MaskedParty`.

        Raises:
            FederationError: the noise in the sum is not that of all hospitals.
        """
        attempt = self._under_way()
        terms, others = attempt.terms, self._others(self._charged(attempt).transcript)
        mechanism = self._agreement.mechanism_for(terms.hospitals, terms.round)
        opened = mechanism.lifted(total)[-WITNESSES:]
        before = self.notes.witness_before(terms.round)
        variance = terms.hospitals * mechanism.share_std**2
        after = before.after(opened, variance, self._agreement.sums)
        # All have uploaded, so all were charged; a seeded repetition is found in the ledger and adds nothing to it.
        seen = self.notes.with_peers(others, is_charged=self._agent.randomness.is_private)
        self.notes = replace(seen, opened=terms.round, before=before, witness=after)  # on disk with the next
        self._attempt = None

    @staticmethod
    def _is_summed(request: Request) -> bool:
        """Whether the request is for a sum that exists under masks, with what that takes."""
        needed = {Task.COUNT: False, Task.GRADIENT_SUM: True}.get(request.task)
        return needed is not None and needed == (request.weights is not None)

    def _noised(self, mechanism: IntegerMechanism, request: Request) -> Int64:
        """Sum of the patients' rows and this hospital's share of the noise, (coordinate + witness,). Private."""
        if mechanism.rounding is Rounding.SUM:
            total = self._agent.clipped_total(request)
            _leave_the_witnesses(total.size, mechanism)
            return mechanism.encode_sum(total, self._agent.noise_bytes(request))
        return mechanism.encode(self._rows(mechanism, request), self._agent.noise_bytes(request))

    def _rows(self, mechanism: IntegerMechanism, request: Request) -> Iterator[Row]:
        """What each patient adds to what is summed; what it lacks, the witnesses, are zeros on the grid."""
        agent = self._agent
        rows: Iterator[Row]
        if request.task is Task.COUNT:
            rows = counted_rows(len(agent.patients))
        else:
            layout = Layout.of(agent.workbench.network.trained)
            rows = map(rows_of(agent.plan, layout, request.clipping_norm), agent.gradients(request))
        for row in rows:
            _leave_the_witnesses(row.size, mechanism)
            yield row

    def _others(self, transcript: Transcript) -> list[Member]:
        return [member for member in transcript.members if member.hospital != self._identity.hospital]

    def _last_before(self, round: int) -> tuple[int, int] | None:
        """The last attempt, unless it belongs to a later round: a run that goes on from a checkpoint repeats rounds."""
        last = self.notes.last
        return None if last is None or last[0] > round else last

    def _note(self, notes: Notes) -> None:
        if self._path is not None:
            notes.write(self._path)
        self.notes = notes

    def _under_way(self) -> _Attempt:
        if self._attempt is None:
            raise ValueError("a hospital announces itself before it takes part in an attempt")
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


def _leave_the_witnesses(coordinates: int, mechanism: IntegerMechanism) -> None:
    """Refuses a row, or a sum of rows, with anything of a patient where the witnesses are, or short of a parameter."""
    if coordinates + WITNESSES != mechanism.dimension:
        raise PrivacyError(
            f"A patient's row must leave {WITNESSES} of {mechanism.dimension} coordinates to the witnesses, got "
            f"{coordinates}; agree on the mechanism of this network.",
            code="privacy-witnesses",
        )
