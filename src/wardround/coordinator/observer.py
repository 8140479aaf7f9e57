"""The progress of a run, for a terminal or another observer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Observer(Protocol):
    """Watches a run. Contract: nothing it does changes the run."""

    def stage(self, text: str) -> None:
        """Takes in that a new part of the work has begun."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Takes in the progress of the current part."""


class Silent:
    """An observer that says nothing."""

    def stage(self, text: str) -> None:
        """See `Observer`."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""


@dataclass(frozen=True)
class Together:
    """Several observers that are told the same."""

    observers: Sequence[Observer]

    def stage(self, text: str) -> None:
        """See `Observer`."""
        for each in self.observers:
            each.stage(text)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        for each in self.observers:
            each.progress(done, total, detail)
