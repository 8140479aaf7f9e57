"""What a hospital agreed to. It is the hospital's own; nothing in a request can change it."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from wardround.federation.messages import Request, Task

COUNTS = frozenset({Task.COUNT, Task.CLASS_COUNTS})
"""Tasks of round 0: numbers that are needed before the first model is sent."""


@dataclass(frozen=True)
class Policy:
    """The studies and tasks a hospital answers.

    The budget is not here: it stands in the ledger, which refuses what would overspend.

    Attributes:
        study: digest of the one study file the hospital agreed to.
        tasks: what may be asked.
        rounds: highest round that is answered.
        visits: the rounds in which this hospital is asked, ascending, by the study's public timetable; None for
            all of them. More of them than the plan foresees would cost more than was promised.
    """

    study: str
    tasks: frozenset[Task]
    rounds: int
    visits: tuple[int, ...] | None = None

    def allows(self, request: Request) -> bool:
        """Whether the request is one the hospital agreed to answer."""
        return (
            request.study == self.study
            and request.task in self.tasks
            and (request.round == 0) == (request.task in COUNTS)
            and 0 <= request.round <= self.rounds
            and (request.round == 0 or self.visits is None or request.round in self._visits)
        )

    def planned(self, request: Request) -> int:
        """Releases like this one that are still foreseen, this one included."""
        if request.task in COUNTS:
            return 1
        if self.visits is None:
            return self.rounds - request.round + 1
        return len(self.visits) - bisect_left(self.visits, request.round)

    @cached_property
    def _visits(self) -> frozenset[int]:
        return frozenset(self.visits or ())
