"""The terminal: text that steers nothing, and a run with its stage, a bar, epsilon so far, the time left."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from wardround.boundary.text import shown


class Terminal:
    """An observer that draws a progress bar; a context manager.

    Args:
        console: where; a console that is no terminal gets one line a stage.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Starts drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops drawing."""
        self._progress.stop()

    def stage(self, text: str) -> None:
        """See `Observer`."""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        self._console.print(Text.assemble(("·", "bold"), " ", shown(text)))

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        detail = shown(detail)
        if self._bar is None:
            self._bar = self._progress.add_task("  ", total=total, detail=detail)
        self._progress.update(self._bar, completed=done, total=total, detail=detail)
