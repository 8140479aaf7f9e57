"""A hospital of masked rounds that is away or late by a public timetable: a feature of simulation."""

from collections.abc import Sequence

from wardround.accounting.events import Event
from wardround.federation.availability import Availability
from wardround.federation.masked import MaskedParty
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.secure_aggregation.integers.ring import Residues

_NOBODY = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


class UnreliableParty:
    """Another party, as a timetable lets it be reached; for the count before round 1 everybody is there.

    Away, it does not announce itself, and nobody is charged. Late, it announces itself, confirms and is charged, and
    its upload does not come in time: the attempt is lost for all, and charged to all.

    Args:
        inner: the hospital when it is there.
        position: its place in the timetable.
        availability: the timetable.
    """

    def __init__(self, inner: MaskedParty, position: int, availability: Availability) -> None:
        self._inner, self._position, self._availability = inner, position, availability
        self._late = False

    def next_attempt(self, round: int) -> int:
        """See `MaskedParty`."""
        return self._inner.next_attempt(round)

    def announce(self, request: Request, attempt: int, hospitals: int) -> bytes | Failure:
        """See `MaskedParty`."""
        row = request.round - 1
        if row >= 0 and self._availability.absent[row, self._position]:
            return _NOBODY
        self._late = row >= 0 and bool(self._availability.late[row, self._position])
        return self._inner.announce(request, attempt, hospitals)

    def confirm(self, announcements: Sequence[bytes]) -> bytes | Failure:
        """See `MaskedParty`."""
        return self._inner.confirm(announcements)

    def admit(self, confirmations: Sequence[bytes]) -> Event | Failure:
        """See `MaskedParty`."""
        return self._inner.admit(confirmations)

    def upload(self) -> bytes | Failure:
        """See `MaskedParty`."""
        sent = self._inner.upload()
        return _NOBODY if self._late else sent

    def receive(self, total: Residues) -> None:
        """See `MaskedParty`."""
        self._inner.receive(total)
