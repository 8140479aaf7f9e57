"""A hospital's agreement to a study: the requests it answers. Nothing in a request can change it."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from wardround.federation.messages import Request
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    Evaluate,
    Finish,
    GiveReceipt,
    Receive,
    SayHello,
    Upload,
    Work,
)

COUNTS = (CountPatients, CountClasses)
"""Work of round 0: numbers that are needed before the first model is sent."""

COUNT_PURPOSES = frozenset(work.name for work in COUNTS)
"""Purposes of the ledger entries that pay for counts."""

_FREE = (SayHello, GiveReceipt, Finish, Confirm, Upload, Receive)
"""Facts of a hospital's own, and steps of an attempt that it announced itself for."""


def computed(work: Work) -> Work:
    """Returns the work that is computed: of an announcement, the work whose sum is formed under masks."""
    return work.of if isinstance(work, Announce) else work


def place_of(request: Request) -> str:
    """Returns the round and the purpose of a request, such as "3/gradient-sum": a study pays for one answer at each."""
    return f"{request.round}/{computed(request.work).name}"


@dataclass(frozen=True)
class Policy:
    """The study and the work that a hospital answers.

    The budget is not here: it stands in the ledger, which refuses what would overspend.

    Attributes:
        study: digest of the one study file the hospital agreed to.
        asks: whether the study's strategy asks for this work in a round, with these parameters
            (`agreed.strategies.asked_by`).
        rounds: the last round of training; the one after it is the evaluation.
        spare: answers beyond one a round and purpose that the study pays for; None for any number, as in a simulation,
            whose certificate counts what was charged.
        visits: the rounds in which this hospital is asked, ascending, by the study's public timetable; None for
            all of them. More of them than the plan foresees would cost more than was promised.
    """

    study: str
    asks: Callable[[Work, int], bool]
    rounds: int
    visits: tuple[int, ...] | None = None
    spare: int | None = None

    def allows(self, request: Request) -> bool:
        """Returns whether the request is one that the hospital agreed to answer."""
        work, round = computed(request.work), request.round
        if request.study != self.study or not 0 <= round <= self.rounds + 1:
            return False
        if isinstance(work, _FREE):
            return True
        if isinstance(work, Evaluate):  # of the final model, after the last round
            return round == self.rounds + 1 and self.asks(work, round)
        return (
            round <= self.rounds
            and (round == 0) == isinstance(work, COUNTS)
            and self.asks(work, round)
            and (round == 0 or self.visits is None or round in self._visits)
        )

    def planned(self, request: Request) -> int:
        """Returns the releases like this one that are still foreseen, this one included."""
        if isinstance(computed(request.work), (*COUNTS, Evaluate)):
            return 1
        if self.visits is None:
            return self.rounds - request.round + 1
        return len(self.visits) - bisect_left(self.visits, request.round)

    @cached_property
    def _visits(self) -> frozenset[int]:
        return frozenset(self.visits or ())
