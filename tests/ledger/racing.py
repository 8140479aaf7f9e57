"""Processes that charge one run, and that begin studies, at once; prints what each of them was allowed, as JSON."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.ledger.spending import AFFORDABLE, DELTA, THREE, begin, limit, spend, steps

from wardround.errors import BudgetExhausted
from wardround.ledger.file import LedgerFile

LIMIT = 3.0


def charging(path: Path, number: int) -> int:
    """Charges one run until it is refused."""
    with LedgerFile(path) as ledger:
        run, done = begin(ledger), 0
        try:
            while done < 1000:
                spend(run, 1, first=1000 * number + done, planned=7)
                done += 1
        except BudgetExhausted:
            return done
    return -1


def beginning(path: Path, number: int) -> int:
    """Begins a study of the same persons and spends it; returns whether they were admitted."""
    with LedgerFile(path) as ledger:
        run = begin(ledger, f"run {number}", foreseen=steps(AFFORDABLE // 2))
        if run.admitted.all():
            spend(run, AFFORDABLE // 2)
            return 1
        return 0


def at_once(writers: int, task: Callable[[Path, int], int], path: Path) -> list[int]:
    """Each in a process of its own."""
    children = []
    for number in range(writers):
        child = os.fork()
        if child == 0:
            code = 255
            try:
                code = task(path, number)
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: Path) -> None:
    with LedgerFile(folder / "in turn.sqlite") as ledger:
        limit(ledger, LIMIT)
    in_turn = [beginning(folder / "in turn.sqlite", number) for number in range(4)]
    charged = at_once(3, charging, folder / "one.sqlite")
    with LedgerFile(folder / "one.sqlite") as ledger:
        in_ledger = sum(begin(ledger).charged().values())
        ledger.verify()
    with LedgerFile(folder / "other.sqlite") as ledger:
        limit(ledger, LIMIT)
    admitted = at_once(4, beginning, folder / "other.sqlite")
    with LedgerFile(folder / "other.sqlite") as ledger:
        ledger.verify()
        figures = [ledger.epsilon_of(person, DELTA) for person in THREE]
        persons = len(ledger.book().group_of)
    found = {
        "charged": charged, "in_ledger": in_ledger, "admitted": admitted, "in_turn": in_turn,
        "epsilon": max(figures), "limit": LIMIT, "persons": persons,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
