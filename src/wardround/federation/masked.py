"""The coordinator's side of masked sums: it relays, verifies, adds up and opens the sum of all, or nothing.

    announce     every hospital: takes in the sum opened before, and sends a fresh key for this attempt, signed
    confirm      every hospital: the hash of what it was told, signed; they must be the same
    upload       every hospital: charges its ledger, on disk, and sends its noised vector under masks, signed

Three exchanges a round, each with all hospitals in parallel. `MaskedAggregator.close` hands out the sum opened last.

Released, to the coordinator and from it to every party: the sum of the hospitals' noised vectors, once all of them have
uploaded: of gradients, before round 1 of their numbers of patients, after the last round of histograms of their test
patients' scores. A hospital that is missing ends the attempt with nothing opened. The others begin a new one, with new
keys, new samples and new noise, and those who were charged are charged again: any party that relays, together with the
hospital that was missing, could read the first. A hospital that was started again in between knows of no attempt, and
is in the new one. A coordinator that was ended once all had confirmed asks for the uploads of that attempt first
(`federation.attempts`).
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from wardround.errors import FederationError
from wardround.federation.attempts import NO_NOTES, AttemptNotes, Confirmed
from wardround.federation.channel import Channel
from wardround.federation.messages import (
    Failure,
    FailureCode,
    Failures,
    Hello,
    Replies,
    Request,
    Requests,
    Signed,
    Stage,
    Total,
    Uploaded,
)
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.cohort import transcript_of
from wardround.secure_aggregation.round.masked_sum import MaskedSum
from wardround.secure_aggregation.round.round_key import Announcement
from wardround.secure_aggregation.round.transcript import Terms
from wardround.secure_aggregation.round.upload import Upload as SignedUpload
from wardround.secure_aggregation.round.witness import WITNESSES, Witness
from wardround.types import HospitalName
from wardround.work import (
    Announce,
    Confirm,
    CountPatients,
    Evaluate,
    GradientSum,
    Receive,
    RowSum,
    SayHello,
    ScoreSum,
    Summed,
    Upload,
    Work,
    terms_of,
)

_MOST_RESTARTS = 3
"""Attempts at a round that one hospital may end by being started again; with the next it is missing."""
_SPENT = (FailureCode.REFUSED_BUDGET, FailureCode.REFUSED_SPARE)
"""Reasons for which a further attempt would be refused as well."""


@dataclass(frozen=True)
class Tries:
    """The attempts that a round's sum took, and the hospitals missing from one; all of it public."""

    attempts: int
    missing: tuple[HospitalName, ...]


@dataclass(frozen=True)
class _Owed:
    """A sum that was opened, for a hospital in it that has not taken it in."""

    request: Request
    total: bytes


@dataclass(frozen=True)
class MaskedAggregator:
    """An aggregator of vectors that exist under pairwise masks only (Bonawitz et al. 2017).

    Attributes:
        notes: of the attempt under way.
        witnesses: what the witness coordinates showed in each round that was opened in this process.
        tries: what each of these rounds took.
    """

    agreement: Agreement
    notes: AttemptNotes = NO_NOTES
    witnesses: dict[int, Witness] = field(default_factory=dict)
    tries: dict[int, Tries] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict, repr=False)
    _owed: dict[HospitalName, _Owed] = field(default_factory=dict, repr=False)

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`. Attempts follow each other until one is whole or too many hospitals are missing.

        Raises:
            FederationError: a party does not keep to the protocol, or a hospital has lost a charge: the run ends.
        """
        request = next(iter(requests.values()))
        if any(other is not request for other in requests.values()):
            raise ValueError("hospitals that answer with one sum are asked with one request")
        work = request.work
        if not self._is_agreed(work, request.round) or not isinstance(work, Summed):
            refused = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
            return Total(None, {}, dict.fromkeys(requests, refused))
        self.agreement.mechanism_for(len(requests), request.round)  # refuses a number that was not agreed on
        self._learn_attempts(channel, request, deadline_s)
        failures: Failures = {}
        number, tries, restarts = 1, 0, Counter[HospitalName]()
        noted = self._noted(request.round, work, requests)
        if noted is not None:
            total = self._uploaded(channel, replace(request, attempt=noted.number), work, noted, deadline_s)
            if total.update is not None:
                absent = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)
                missing = {name: absent for name in requests if name not in noted.names}
                self.tries[request.round] = Tries(1, tuple(missing))
                return Total(total.update, total.events, missing)
        while len(requests) - len(failures) >= self.agreement.minimum:
            tries += 1
            present = tuple(name for name in requests if name not in failures)
            attempt = self._last[request.round] = self._last.get(request.round, 0) + 1
            total = self._attempt(channel, replace(request, attempt=number), work, attempt, present, deadline_s)
            if total.update is not None:
                self.tries[request.round] = Tries(tries, tuple(failures))
                return Total(total.update, total.events, failures)
            restarts.update(name for name, f in total.failures.items() if f.code is FailureCode.REFUSED_ATTEMPT)
            lost = {
                name: failure
                for name, failure in total.failures.items()
                if failure.code is not FailureCode.REFUSED_ATTEMPT or restarts[name] > _MOST_RESTARTS
            }
            failures |= lost
            number += bool(lost)  # of the same hospitals, a seeded repetition is the same release
            if any(failure.code in _SPENT for failure in total.failures.values()):
                break
        return Total(None, {}, failures)

    def close(self, channel: Channel, deadline_s: float) -> None:
        """Has the hospitals take in the sum that was opened last.

        Raises:
            FederationError: a hospital finds that noise is missing.
        """
        receive: dict[int, Requests] = {}
        for name, due in self._owed.items():
            receive.setdefault(due.request.round, {})[name] = replace(due.request, work=Receive(due.total))
        self._owed.clear()
        for requests in receive.values():
            _, failures = channel.ask(requests, deadline_s)
            _end_the_run(failures)

    def _is_agreed(self, work: Work, round: int) -> bool:
        """Returns whether a masked sum of this work was agreed on."""
        if isinstance(work, CountPatients):
            return round == 0 and self.agreement.count is not None
        if isinstance(work, Evaluate):
            return round == self.agreement.rounds + 1 and self.agreement.evaluation is not None
        return isinstance(work, GradientSum | RowSum | ScoreSum) and 0 < round <= self.agreement.rounds

    def _learn_attempts(self, channel: Channel, request: Request, deadline_s: float) -> None:
        """Asks the hospitals, once in this process, for the last attempts that they took part in."""
        if self._last:
            return
        asked = dict.fromkeys(channel.hospitals, Request(request.study, 0, 1, SayHello()))
        replies, _ = channel.ask(asked, deadline_s)
        for reply in replies.values():
            if isinstance(reply, Hello):
                round, attempt = reply.last_attempt
                self._last[round] = max(self._last.get(round, 0), attempt)

    def _attempt(
        self,
        channel: Channel,
        request: Request,
        of: Summed,
        attempt: int,
        names: tuple[HospitalName, ...],
        deadline_s: float,
    ) -> Total:
        """Returns the sum that one attempt opened, or the hospitals that are missing.

        The number `attempt` grows with every attempt at a round, over interruptions as well. That of the request counts
        from 1 in this process: a seeded repetition finds its charge and its noise by it.
        """
        owed = {name: due.total for name, due in self._owed.items()}

        def asked(work: Work) -> Requests:
            return dict.fromkeys(names, replace(request, work=work))

        announce = Announce(of, attempt, len(names))
        announced = {name: replace(request, work=replace(announce, received=owed.get(name))) for name in names}
        replies, failures = channel.ask(announced, deadline_s)
        for name in replies:
            self._owed.pop(name, None)  # a hospital that is away takes the sum in when it is back
        if failures:
            return _missing(failures)
        announcements = _contents(replies)
        replies, failures = channel.ask(asked(Confirm(announcements)), deadline_s)
        if failures:
            return _missing(failures)
        confirmed = Confirmed(request.round, request.attempt, attempt, names, announcements, _contents(replies))
        self.notes.note(confirmed)
        return self._uploaded(channel, request, of, confirmed, deadline_s)

    def _noted(self, round: int, of: Summed, requests: Requests) -> Confirmed | None:
        """Returns the attempt at this sum that a process before this one noted, if it was the last."""
        noted = None if round in self.witnesses else self.notes.last()
        if noted is None or noted.round != round or not set(noted.names) <= requests.keys():
            return None
        return noted if noted.is_of(self._terms(round, of, noted.attempt, len(noted.names))) else None

    def _uploaded(
        self, channel: Channel, request: Request, of: Summed, confirmed: Confirmed, deadline_s: float
    ) -> Total:
        """Returns the sum of the uploads of an attempt that all have confirmed."""
        names = confirmed.names
        asked = replace(request, work=Upload(confirmed.confirmations))
        replies, failures = channel.ask(dict.fromkeys(names, asked), deadline_s)
        if failures:
            return _missing(failures)

        terms = self._terms(request.round, of, confirmed.attempt, len(names))
        members = [Announcement.from_bytes(announcement).member for announcement in confirmed.announcements]
        total = MaskedSum(transcript_of(terms, members))
        uploads = {name: reply for name, reply in replies.items() if isinstance(reply, Uploaded)}
        for upload in uploads.values():
            total.add(SignedUpload.from_bytes(upload.content))
        opened = total.total()
        mechanism = self.agreement.mechanism_for(len(names), request.round)
        word = opened.dtype.newbyteorder("<")
        self._owed.update(dict.fromkeys(names, _Owed(request, opened.astype(word, copy=False).tobytes())))
        lifted = mechanism.lifted(opened)
        variance = mechanism.shares.hospitals * mechanism.share_std**2
        self.witnesses[request.round] = Witness.of(lifted[-WITNESSES:], variance)
        update = mechanism.decode(lifted)[:-WITNESSES]
        events = {name: upload.event for name, upload in uploads.items()}
        return Total(update.astype(np.float32), events, {})

    def _terms(self, round: int, of: Summed, attempt: int, hospitals: int) -> Terms:
        return self.agreement.terms(round, attempt, hospitals, *terms_of(of))


def _contents(replies: Replies) -> tuple[bytes, ...]:
    found = tuple(reply.content for reply in replies.values() if isinstance(reply, Signed))
    if len(found) < len(replies):
        raise FederationError("A hospital of a masked round must reply with what it signed, and one did not.")
    return found


def _missing(failures: Failures) -> Total:
    _end_the_run(failures)
    return Total(None, {}, failures)


def _end_the_run(failures: Failures) -> None:
    """Refuses to go on where a hospital found that a party does not keep to the protocol, or lost a charge itself."""
    found = [name for name, failure in failures.items() if failure.code is FailureCode.PROTOCOL]
    if found:
        raise FederationError(
            f"A masked round needs every party to keep to the protocol, and {found[0]} found one that does not; "
            "nothing more is sent. The hospital's own log says why."
        )
