"""What a hospital agreed to. It is the hospital's own; nothing in a request can change it."""

from dataclasses import dataclass

from wardround.federation.messages import Request, Task


@dataclass(frozen=True)
class Policy:
    """The studies and tasks a hospital answers.

    The budget is not here: it stands in the ledger, which refuses what would overspend.

    Attributes:
        study: digest of the one study file the hospital agreed to.
        tasks: what may be asked.
        rounds: highest round that is answered.
    """

    study: str
    tasks: frozenset[Task]
    rounds: int

    def allows(self, request: Request) -> bool:
        """Whether the request is one the hospital agreed to answer."""
        return (
            request.study == self.study
            and request.task in self.tasks
            and (request.round == 0) == (request.task is Task.COUNT)
            and 0 <= request.round <= self.rounds
        )
