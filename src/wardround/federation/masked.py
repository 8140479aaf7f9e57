"""The coordinator's side of masked sums: it relays, verifies, adds up and opens the sum of all, or nothing.

    announce     every hospital: a fresh key for this attempt, signed
    confirm      every hospital: the hash of what it was told, signed; they must be the same
    admit        every hospital: its ledger is charged, on disk
    upload       every hospital: its noised vector under masks, signed
    receive      every hospital: the opened sum, and whether all the noise is in it

Released, to the coordinator and from it to everybody: the sum of the hospitals' noised vectors, once all of them have
uploaded: of gradients, or before round 1 of their numbers of patients. A hospital that is missing ends the attempt with
nothing opened. The others begin a new one, with new keys, new samples and new noise, and those who were charged are
charged again: whoever relays, together with the hospital that was missing, could read the first.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from wardround.accounting.events import Event
from wardround.errors import FederationError
from wardround.federation.messages import (
    Failure,
    FailureCode,
    Failures,
    Replies,
    Request,
    Requests,
    Stage,
    Task,
    Total,
)
from wardround.secure_aggregation.integers.ring import Residues
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.cohort import transcript_of
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.round_key import Announcement
from wardround.secure_aggregation.round.upload import Upload
from wardround.secure_aggregation.round.witness import WITNESSES, Witness
from wardround.types import HospitalName, Vector

_Answer = TypeVar("_Answer")


class MaskedParty(Protocol):
    """A hospital of a masked round, as the coordinator reaches it.

    Announcements, confirmations and uploads are bytes, as they would be between machines.

    Contract: the methods are called in the order of the module's table, once an attempt. A failure is a code and a
    stage; a `FederationError` says that somebody does not keep to the protocol, a `LedgerError` that a charge is gone,
    and both end the run.
    """

    def next_attempt(self, round: int) -> int:
        """The lowest attempt at a round that this hospital would take part in."""
        ...

    def announce(self, request: Request, attempt: int, hospitals: int) -> bytes | Failure:
        """Its announcement, a key for an attempt with that many hospitals."""
        ...

    def confirm(self, announcements: Sequence[bytes]) -> bytes | Failure:
        """Its confirmation, the hash of the transcript that it makes of all announcements."""
        ...

    def admit(self, confirmations: Sequence[bytes]) -> Event | Failure:
        """What its ledger was charged, if all have confirmed the same."""
        ...

    def upload(self) -> bytes | Failure:
        """Its masked vector."""
        ...

    def receive(self, total: Residues) -> None:
        """Takes in the opened sum."""
        ...


@dataclass(frozen=True)
class Tries:
    """What it took to open a round's sum: attempts, and who was missing from one; all of it public."""

    attempts: int
    missing: tuple[HospitalName, ...]


@dataclass(frozen=True)
class MaskedChannel:
    """Reaches hospitals whose answers exist under masks only.

    Attributes:
        parties: the hospitals.
        agreement: what they agreed on.
        transaction: around all charges of an attempt; simulated hospitals reach the disk by one write.
        witnesses: what the witness coordinates showed in each round that was opened in this process.
        tries: what each of these rounds took.
    """

    parties: Mapping[HospitalName, MaskedParty]
    agreement: Agreement
    transaction: Callable[[], AbstractContextManager[object]]
    witnesses: dict[int, Witness] = field(default_factory=dict)
    tries: dict[int, Tries] = field(default_factory=dict)

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """See `Channel`."""
        return tuple(self.parties)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`. Nobody answers alone."""
        del deadline_s
        return {}, dict.fromkeys(requests, Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION))

    def ask_sum(self, requests: Requests, deadline_s: float) -> Total:
        """See `SumChannel`. Attempts follow each other until one is whole or too many hospitals are missing."""
        del deadline_s
        request = next(iter(requests.values()))
        if any(other is not request for other in requests.values()):
            raise ValueError("hospitals that answer with one sum are asked with one request")
        if not self._is_agreed(request):
            return Total(None, {}, self.ask(requests, 0)[1])
        self.agreement.mechanism_for(len(requests), request.round)  # refuses a number that nobody agreed to
        failures: Failures = {}
        number = attempt = 0
        while len(requests) - len(failures) >= self.agreement.minimum:
            number += 1
            present = [name for name in requests if name not in failures]
            attempt = max([attempt + 1, *(self.parties[name].next_attempt(request.round) for name in present)])
            total = self._attempt(replace(request, attempt=number), attempt, present)
            if total.update is not None:
                self.tries[request.round] = Tries(number, tuple(failures))
                return Total(total.update, total.events, failures)
            failures |= total.failures
            if any(failure.code is FailureCode.REFUSED_BUDGET for failure in total.failures.values()):
                break
        return Total(None, {}, failures)

    def _is_agreed(self, request: Request) -> bool:
        """Whether there is a masked sum for what is asked."""
        if request.task is Task.COUNT:
            return request.round == 0 and self.agreement.count is not None
        return request.task is Task.GRADIENT_SUM and request.round > 0 and request.weights is not None

    def _attempt(self, request: Request, attempt: int, names: list[HospitalName]) -> Total:
        """One attempt: the opened sum, or who is missing.

        Its number grows with every attempt at a round, over interruptions as well. That of the request counts from 1 in
        this process: a seeded repetition finds its charge and its noise by it.
        """
        parties = {name: self.parties[name] for name in names}

        keys, missing = _sorted({n: p.announce(request, attempt, len(parties)) for n, p in parties.items()})
        if missing:
            return Total(None, {}, missing)
        announcements = list(keys.values())
        confirmed, missing = _sorted({n: p.confirm(announcements) for n, p in parties.items()})
        if missing:
            return Total(None, {}, missing)
        events: dict[HospitalName, Event]
        with self.transaction():
            events, missing = _sorted({n: p.admit(list(confirmed.values())) for n, p in parties.items()})
        if missing:
            return Total(None, {}, missing)

        terms = self.agreement.terms(request.round, attempt, len(parties), request.weights, request.clipping_norm)
        members = [Announcement.from_bytes(announcement).member for announcement in announcements]
        total = MaskedSum(transcript_of(terms, members))
        for name, party in parties.items():
            sent = party.upload()
            if isinstance(sent, Failure):
                missing[name] = sent
            else:
                total.add(Upload.from_bytes(sent))
        if missing:
            return Total(None, {}, missing)
        opened = total.total()
        for party in parties.values():
            party.receive(opened)
        mechanism = self.agreement.mechanism_for(len(parties), request.round)
        lifted = mechanism.lifted(opened)
        variance = mechanism.hospitals * mechanism.share_std**2
        self.witnesses[request.round] = Witness.of(lifted[-WITNESSES:], variance)
        update = mechanism.decode(lifted)[:-WITNESSES]
        return Total(update.astype(np.float32), events, {})


def _sorted(
    answers: Mapping[HospitalName, _Answer | Failure],
) -> tuple[dict[HospitalName, _Answer], Failures]:
    """Answers and failures."""
    failures = {name: answer for name, answer in answers.items() if isinstance(answer, Failure)}
    return {n: a for n, a in answers.items() if not isinstance(a, Failure)}, failures


class OpenedByMasks:
    """An aggregator for sums that a channel opens; where none does, there is no sum."""

    sees_replies = False

    def sum(self, replies: Replies, round: int) -> Vector:
        """See `Aggregator`; always refused."""
        del replies
        raise FederationError(
            f"The sum of round {round} must come from masks, and the channel has single answers; use a channel whose "
            "hospitals are masked."
        )
