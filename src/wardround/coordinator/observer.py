"""What a run tells whoever watches it."""

from typing import Protocol


class Observer(Protocol):
    """Watches a run. Contract: nothing it does changes the run."""

    def stage(self, text: str) -> None:
        """A new part of the work has begun."""
        ...

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """How far the current part has come."""
        ...


class Silent:
    """An observer that says nothing."""

    def stage(self, text: str) -> None:
        """See `Observer`."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
