"""A step, a limit, and how many of the one fit under the other."""

from typing import Any

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import Event, GaussianEvent
from wardround.ledger.account import Ledger

STEP = GaussianEvent(5.0)
LIMIT: dict[str, Any] = {"epsilon_limit": 2.0, "delta": 1e-5}
AFFORDABLE = affordable_count(None, STEP, 2.0, 1e-5, accountant=AccountantKind.PLD, at_most=1_000_000)


def spend(ledger: Ledger, count: int, study: str = "study", event: Event = STEP, **options: Any) -> None:
    for number in range(count):
        ledger.charge(event, study=study, release_id=f"round-{number}", purpose="training", **options)
