"""A writer that is killed at one write after another; prints what had left, and what the ledger has, as JSON.

    python -m tests.ledger.killed FOLDER EVERY        of the cases every so many

Each case is a process of its own (a fork), so one start pays for all. `left` is what the writer had released when it
died: it says so on a pipe, after each charge returned.
"""

import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wardround.accounting.events import GaussianEvent, SelfComposedEvent
from wardround.ledger.file import LedgerFile

STEP = GaussianEvent(5.0)
ROUNDS = 3


def write(path: Path, released: Callable[[], object]) -> None:
    """A study of some rounds at two hospitals, each round one write, on a ledger that has a limit."""
    with LedgerFile(path) as ledger:
        ledger.set_limit(50.0, 1e-5, by="a test", reason="enough")
        with ledger.transaction():
            accounts = [
                ledger.begin(
                    run="run", study="study", name="study", hospital=hospital, persons=persons,
                    foreseen=SelfComposedEvent(STEP, ROUNDS), epsilon=20.0, delta=1e-5,
                )
                for hospital, persons in (("north", ["ada", "ben"]), ("south", ["cyd"]))
            ]  # fmt: skip
        for number in range(ROUNDS):
            with ledger.transaction():
                for account in accounts:
                    account.charge(STEP, release=f"round {number}", purpose="training")
            released()
        for account in accounts:
            account.end()


class Counting:
    """Dies at one of the places where the writer touches the disk."""

    def __init__(self, at: int) -> None:
        self.left = at

    def point(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def install(self) -> None:
        """Every statement to SQLite, and every step of the mark, is such a place, before and after."""
        real, counting = sqlite3.connect, self

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> Any:
                is_write = not arguments[0].startswith("SELECT")
                if is_write:
                    counting.point()
                found = super().execute(*arguments)
                if is_write:
                    counting.point()
                return found

        def connect(*arguments: Any, **options: Any) -> Any:
            return real(*arguments, factory=Connection, **options)

        sqlite3.connect = connect
        write_text, replace = Path.write_text, Path.replace

        def written(path: Path, text: str, **options: Any) -> int:
            counting.point()
            path.write_bytes(text.encode()[: len(text) // 2])
            counting.point()
            return write_text(path, text, **options)

        def replaced(path: Path, target: Any) -> Path:
            counting.point()
            found = replace(path, target)
            counting.point()
            return found

        Path.write_text, Path.replace = written, replaced  # type: ignore[assignment,method-assign]


def at_statement(number: int) -> Callable[[], None]:
    return lambda: Counting(number).install()


def at_size(size: int, action: Any) -> Callable[[], None]:
    """The system refuses the write that would make a file longer: in the middle of SQLite's own pages."""

    def install() -> None:
        signal.signal(signal.SIGXFSZ, action)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return install


def one(path: Path, install: Callable[[], None]) -> tuple[int, int]:
    """Rounds that had left, and how the writer ended: 0, or minus its signal."""
    end, own = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            install()
            write(path, lambda: os.write(own, b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(own)
    _, status = os.waitpid(child, 0)
    left = len(os.read(end, 100))
    os.close(end)
    return left, os.waitstatus_to_exitcode(status)


def cases(every: int) -> Iterator[tuple[str, Callable[[], None]]]:
    for number in range(0, 1000, every):
        yield f"statement {number}", at_statement(number)
    for size in range(512, 60_000, 1536 * every):
        yield f"killed at size {size}", at_size(size, signal.SIG_DFL)
        yield f"full at size {size}", at_size(size, signal.SIG_IGN)


def main(folder: Path, every: int) -> None:
    write(folder / "whole.sqlite", lambda: None)  # the writers find everything imported and computed
    found, whole = [], False
    for name, install in cases(every):
        if whole and name.startswith("statement"):
            continue
        path = folder / f"{name}.sqlite"
        left, code = one(path, install)
        whole = whole or code == 0
        with LedgerFile(path) as ledger:
            ledger.verify()
            charges = [
                part.charged["training"] for part in ledger.book().parts.values() if part.begun.hospital == "north"
            ]
        one(path, lambda: None)
        with LedgerFile(path) as ledger:
            ledger.verify()
            after = sum(part.charged["training"] for part in ledger.book().parts.values())
        found.append({"case": name, "left": left, "code": code, "charged": sum(charges), "after": after})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
