"""The observers of a run that a command starts: the terminal, a page on this machine, and writers of its rounds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.text import say
from wardround.cli.printing import console

if TYPE_CHECKING:
    from wardround.config import Study
    from wardround.coordinator.observer import Observer

WatchPort = Annotated[
    int | None,
    typer.Option(
        "--watch",
        metavar="PORT",
        min=0,
        max=65535,
        help="Port of a progress page on 127.0.0.1; 0 takes a free one.",
    ),
]
LogTo = Annotated[
    list[str] | None,
    typer.Option("--log", metavar="NAME", help="Write each round's figures for tensorboard or mlflow as well."),
]


@contextmanager
def watched(
    study: "Callable[[], Study]", folder: Path, port: int | None, logs: Sequence[str] | None
) -> Iterator["Observer"]:
    """Yields the observer of a run.

    Args:
        study: returns the run's; read where it is needed.
        folder: of the run.
        port: of the page on 127.0.0.1; None for no page.
        logs: names of writers.

    Raises:
        MissingExtra: the package of a writer is not installed.
        StudyError: the port cannot be had, or a writer is not known.
    """
    from wardround.cli.terminal import Terminal
    from wardround.coordinator.observer import Together

    with ExitStack() as stack:
        observers: list[Observer] = [stack.enter_context(Terminal(console()))]
        if logs:
            observers.append(_writing(study(), folder, logs, stack))
        if port is not None:
            from wardround.watching.page import StatusServer
            from wardround.watching.watched import Watched

            seen = Watched(folder, study())
            server = stack.enter_context(StatusServer(seen.view, port))
            Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            say(f"watch it at http://127.0.0.1:{server.server_port}/", error=True)
            observers.append(seen)
        yield Together(observers)


def _writing(study: "Study", folder: Path, logs: Sequence[str], stack: ExitStack) -> "Observer":
    from wardround.errors import StudyError
    from wardround.watching.writers import WRITERS, Rounds

    unknown = [name for name in logs if name not in WRITERS]
    if unknown:
        raise StudyError(
            f"`--log` must be one of {', '.join(WRITERS)}, got {unknown[0]!r}. Correct it, or leave it out.",
            code="study-log",
        )
    writers = [WRITERS[name](folder, study) for name in dict.fromkeys(logs)]
    rounds = Rounds(folder, writers, lambda text: say(text, error=True))
    stack.callback(rounds.close)
    return rounds
