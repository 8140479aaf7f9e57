"""The arguments that several commands begin with, and the words that several end with."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.machine import machine_error, raise_fault
from wardround.boundary.private import check_place
from wardround.boundary.text import say, tell
from wardround.errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console

    from wardround.records.folder import RunRecord

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
DataPath = Annotated[Path | None, typer.Option("--data", help="The data folder; overrides [site] path.")]
Member = Annotated[
    str | None, typer.Option("--member", help="Of several models in the run: its name; default: their mean.")
]

AGAIN = "Give the same command again to go on."


def can_appear(path: Path | None) -> Path | None:
    """Refuses an option's file that could not be written, before the work whose result it is for.

    Raises:
        MachineError: see `check_place`.
    """
    if path is not None:
        check_place(path)
    return path


def overrides_of(data: Path | None) -> dict[str, dict[str, object]] | None:
    """Returns the table of a study that `--data` goes before."""
    return None if data is None else {"site": {"path": str(data.resolve())}}


def console(*, stderr: bool = True) -> "Console":
    """Returns where progress is drawn: standard error by default."""
    from rich.console import Console

    return Console(stderr=stderr)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is dealt with as Ctrl-C is."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Holds garbage collection during a command's imports, and leaves what they made out of it from then on.

    Searches among torch's 165,000 objects took a seventh of the start, and 0.1 s each afterwards.
    """
    was_enabled, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > loaded:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def interruptible(way_back: str | Path) -> Iterator[None]:
    """Ends a command that is interrupted, terminated, or stopped by a fault of the machine, with the way back.

    Args:
        way_back: a sentence, or the folder of a run; how to resume it is said if the run began.
    """

    def terminated(_number: int, _frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt as error:
        say(f"Interrupted. {_resumed_by(way_back) or ''}".strip(), error=True)
        raise SystemExit(128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)) from None
    except Exception as error:
        fault = machine_error(error)
        if fault is None:
            raise
        raise MachineError(f"{fault} {_resumed_by(way_back) or AGAIN}", code=fault.code) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _resumed_by(way_back: str | Path) -> str | None:
    if not isinstance(way_back, Path):
        return way_back
    if os.path.isfile(way_back / "certificate.json"):
        return f"The run is finished. Go on with its reference runs with: wardround resume {way_back}"
    # A disk that is gone has no such file either.
    return f"Go on with: wardround resume {way_back}" if os.path.isfile(way_back / "study.toml") else None


@contextmanager
def printed() -> Iterator[None]:
    """Ends a command once what it printed has arrived: a file that is full is a fault, and no success."""
    try:
        yield
    finally:
        try:
            if sys.stdout is not None:  # closed before the command began
                sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
            if not isinstance(error, BrokenPipeError):  # a reader that has seen enough
                raise_fault(error, "standard output")


def print_run(record: "RunRecord", as_json: bool) -> None:
    """Prints the promise and the figures of a finished run, or one JSON object."""
    from wardround.report.numbers import numbers_of, summary_of_run

    summary = summary_of_run(record)
    lines = [str(record.certificate["short"])]
    found = numbers_of(record)
    if found.account.standing != "generated":
        lines.append(found.account.sentence(full_path=True))
    if found.quality is not None:
        said = ", ".join(
            f"{measure.title} {number(measure.score.value)}" for measure in found.quality.measures[:3]
        )
        majority = summary["majority_accuracy"]
        held_out = "pictures" if summary["unit"] == "picture" else "patients"
        beside = "" if majority is None else f" (majority class: {number(majority)})"
        lines.append(f"{said} on held-out {held_out}{beside}")
        if found.repeats is not None:
            lines.append(found.repeats.sentence(found.quality.headline.score.value))
        if found.without_privacy:
            lines.append(found.without_privacy)
    if found.evaluation is not None:
        lines += found.evaluation.lines()
    if record.certificate["stopped"]:
        lines.append(str(record.certificate["stopped"]))
    page = record.path / "report.html"
    lines.append(f"report: {page}" if page.exists() else f"run: {record.path} (no report page)")
    tell(as_json, summary, *lines)


def number(value: object) -> str:
    """Returns three decimals, or the word for what is none."""
    if value is None:
        return "not defined"
    if isinstance(value, float) and value != float("inf"):
        return f"{value:.3f}"
    return "infinity" if isinstance(value, float) else str(value)
