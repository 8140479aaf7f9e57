"""A step, a cap, and how many of the one fit under the other; runs begun with few words."""

from collections.abc import Sequence
from typing import Any

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import Event, GaussianEvent, SelfComposedEvent
from wardround.ledger.account import Account
from wardround.ledger.file import LedgerFile

STEP = GaussianEvent(5.0)
CAP, DELTA = 2.0, 1e-5
AFFORDABLE = affordable_count(None, STEP, CAP, DELTA, accountant=AccountantKind.PLD, at_most=1_000_000)


def steps(count: int, event: Event = STEP) -> Event:
    return SelfComposedEvent(event, count)


THREE = ("ada", "ben", "cyd")


def begin(ledger: LedgerFile, run: str = "run", persons: Sequence[str] = THREE, **options: Any) -> Account:
    """A run of as many steps as its cap allows."""
    known: dict[str, Any] = {
        "study": f"study of {run}", "name": run, "hospital": "north", "foreseen": steps(AFFORDABLE), "epsilon": CAP,
        "delta": DELTA,
    }  # fmt: skip
    return ledger.begin(run=run, persons=persons, **known | options)


def spend(account: Account, count: int, event: Event = STEP, first: int = 0, **options: Any) -> None:
    for number in range(first, first + count):
        account.charge(event, release=f"round-{number}", purpose="training", **options)


def limit(ledger: LedgerFile, epsilon: float, delta: float = DELTA) -> None:
    ledger.set_limit(epsilon, delta, by="a test", reason="enough")
