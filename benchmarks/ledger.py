"""What a large ledger costs: to begin a study, to charge a release, to open the file and to show the figures.

    python -m benchmarks.ledger [--persons 100000] [--studies 200] [--blocks 600]

Persons come in blocks that are in the same studies, so there are as many histories as blocks. Each study has half of
the blocks, noise of its own, and releases under a limit that the filter is asked about. Then one more study begins and
charges, and the file is opened anew and shown for all persons by their ids. The issue asks for a charge under 50 ms and
for `show` under 2 s. Writes benchmarks/results/ledger.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.engine_report import machine
from wardround.accounting.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.ledger.file import LedgerFile
from wardround.ledger.spending import spending_of

RESULT = Path(__file__).parent / "results" / "ledger.json"
DELTA, LIMIT, ROUNDS = 1e-6, 300.0, 20


def build(path: Path, persons: int, studies: int, blocks: int) -> list[str]:
    """Writes the ledger; returns the ids."""
    draw = np.random.default_rng(0)
    ids = [f"patient {number:06d}" for number in range(persons)]
    block_of = np.arange(persons) % blocks
    with LedgerFile(path) as ledger:
        ledger.set_limit(LIMIT, DELTA, by="a benchmark", reason="none is left out")
        for study in range(studies):
            chosen = draw.random(blocks) < 0.5
            members = [ids[at] for at in np.flatnonzero(chosen[block_of]).tolist()]
            one = PoissonSampledEvent(0.05, GaussianEvent(1.0 + 0.1 * (study % 10)))
            with ledger.transaction():
                account = begun(ledger, f"study {study}", members, one)
                for number in range(ROUNDS):
                    account.charge(one, release=str(number), purpose="gradient-sum", planned=ROUNDS)
                account.end()
    return ids


def begun(ledger: LedgerFile, name: str, members: list[str], one: Event) -> Any:
    """An account of a study of these persons, all of whom are in it."""
    account = ledger.begin(
        run=name, study=name, name=name, hospital="north", persons=members, foreseen=SelfComposedEvent(one, ROUNDS),
        epsilon=8.0, delta=DELTA,
    )  # fmt: skip
    assert account.admitted.all(), "the limit is far away"
    return account


def timed(task: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    found = task()
    return time.perf_counter() - start, found


def measure(path: Path, ids: list[str]) -> dict[str, Any]:
    """The costs of one more study, and of showing all."""
    opened, ledger = timed(lambda: LedgerFile(path))
    with ledger:
        one = PoissonSampledEvent(0.05, GaussianEvent(1.05))
        beginning, account = timed(lambda: begun(ledger, "one more", ids, one))
        charges = [
            timed(partial(account.charge, one, release=str(n), purpose="gradient-sum", planned=ROUNDS))[0]
            for n in range(ROUNDS)
        ]
    before = time.process_time()
    showing, figures = timed(lambda: shown(path, ids))
    computing = time.process_time() - before
    verified = LedgerFile(path)
    with verified:
        verifying, _ = timed(verified.verify)
        histories = sum(size > 0 for size in verified.book().sizes)
    return {
        "histories": histories,
        "bytes": path.stat().st_size,
        "open_s": opened,
        "begin_s": beginning,
        "first_charge_ms": 1000 * charges[0],
        "charge_ms": 1000 * statistics.median(charges),
        "slowest_later_charge_ms": 1000 * max(charges[1:]),
        "show_s": showing,
        "show_processor_s": computing,
        "verify_s": verifying,
        "greatest_epsilon": figures.greatest,
    }


def shown(path: Path, ids: list[str]) -> Any:
    """What `wardround ledger show --data` computes, from a file that was not open."""
    with LedgerFile(path) as ledger:
        return spending_of(ledger, ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--persons", type=int, default=100_000)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=600)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        building, ids = timed(lambda: build(path, given.persons, given.studies, given.blocks))
        found = measure(path, ids)
    result = {
        "persons": given.persons, "studies": given.studies, "rounds_each": ROUNDS, "build_s": building, **found,
        "machine": machine(1),
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
