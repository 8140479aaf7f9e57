"""The words that several commands end with."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wardround.boundary.machine import machine_error, raise_fault
from wardround.boundary.text import say
from wardround.errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console

    from wardround.records.folder import RunRecord

AGAIN = "Give the same command again to go on."


def console(*, stderr: bool = True) -> "Console":
    """Returns where progress is drawn: standard error by default."""
    from rich.console import Console

    return Console(stderr=stderr)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is dealt with as Ctrl-C is."""


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
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
            if not isinstance(error, BrokenPipeError):  # a reader that has seen enough
                raise_fault(error, "standard output")


def print_run(record: "RunRecord", as_json: bool) -> None:
    """Prints the promise and the figures of a finished run, or one JSON object."""
    from wardround.report.numbers import numbers_of, summary_of_run

    summary = summary_of_run(record)
    if as_json:
        say(json.dumps(summary))
        return
    say(str(record.certificate["short"]))
    found = numbers_of(record)
    if found.account.standing != "generated":
        say(found.account.sentence(full_path=True))
    if found.quality is not None:
        said = ", ".join(
            f"{measure.title} {number(measure.score.value)}" for measure in found.quality.measures[:3]
        )
        majority = summary["majority_accuracy"]
        held_out = "pictures" if summary["unit"] == "picture" else "patients"
        beside = "" if majority is None else f" (majority class: {number(majority)})"
        say(f"{said} on held-out {held_out}{beside}")
        if found.repeats is not None:
            say(found.repeats.sentence(found.quality.headline.score.value))
    if found.evaluation is not None:
        say(*found.evaluation.lines())
    if record.certificate["stopped"]:
        say(str(record.certificate["stopped"]))
    page = record.path / "report.html"
    say(f"report: {page}" if page.exists() else f"run: {record.path} (no report page)")


def number(value: object) -> str:
    """Returns three decimals, or the word for what is none."""
    if value is None:
        return "not defined"
    if isinstance(value, float) and value != float("inf"):
        return f"{value:.3f}"
    return "infinity" if isinstance(value, float) else str(value)
