"""The figures that a ledger's holder reads: the greatest and the typical person, what remains, and each run's cost.

For the holder's own screen: they depend on the accounts of single persons.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import AccountantKind, epsilon_of, rough_epsilon_of
from wardround.accounting.events import (
    Event,
    GaussianEvent,
    LeafEvent,
    Leaves,
    NonPrivateEvent,
    event_of_leaves,
    leaves,
    sorted_leaves,
)
from wardround.accounting.numbers import number_to_json
from wardround.accounting.pld import COARSE
from wardround.accounting.rdp import divergences_of, epsilon_at
from wardround.ledger.book import Book
from wardround.ledger.entry import LimitSet
from wardround.ledger.file import LedgerFile

_ORDERS = 1 + np.geomspace(0.1, 500, 40)
_FEW_LEAVES = 12  # for the exact accountant, which takes about 0.1 s for each


@dataclass(frozen=True)
class RunCost:
    """One run as a ledger has it.

    Attributes:
        line: the first one that it began with; its name in this ledger.
        digest: of the study file.
        began: UTC.
        epsilon: of its charges, for the hospital that was charged most, at the run's own delta.
        delta: of that.
        is_ended: nothing more is foreseen.
    """

    line: int
    study: str
    digest: str
    began: str
    hospitals: int
    persons: int
    epsilon: float
    delta: float
    is_ended: bool


@dataclass(frozen=True)
class Spending:
    """The accounts of some persons.

    Attributes:
        persons: of them who have ever been in a study.
        strangers: of them whom the ledger does not know.
        delta: of every epsilon here.
        greatest: epsilon of the person who spent most; an upper bound.
        typical: epsilon of the median person; an upper bound.
        unprotected: persons about whom figures left without protection: no epsilon holds for those.
        limit: what a person may spend; None for no limit.
        runs: those that any of them was in, oldest first.
    """

    persons: int
    strangers: int
    delta: float
    greatest: float
    typical: float
    unprotected: int
    limit: LimitSet | None
    runs: tuple[RunCost, ...]

    @property
    def studies(self) -> int:
        """Studies that were charged."""
        return len({run.digest for run in self.runs if run.epsilon})

    @property
    def remains(self) -> float:
        """Epsilon between the greatest person and the limit; infinity without a limit."""
        return math.inf if self.limit is None else max(0.0, self.limit.epsilon - self.greatest)

    def to_json(self) -> dict[str, object]:
        """Returns the figures as a JSON object."""
        return {
            "persons": self.persons,
            "strangers": self.strangers,
            "studies": self.studies,
            "delta": self.delta,
            "greatest_epsilon": number_to_json(self.greatest),
            "typical_epsilon": number_to_json(self.typical),
            "limit": None if self.limit is None else self.limit.epsilon,
            "remains": None if self.limit is None else self.remains,
            "unprotected": self.unprotected,
            "runs": [
                {
                    "line": run.line, "study": run.study, "digest": run.digest, "began": run.began,
                    "hospitals": run.hospitals, "persons": run.persons, "epsilon": number_to_json(run.epsilon),
                    "delta": run.delta, "ended": run.is_ended,
                }
                for run in self.runs
            ],
        }  # fmt: skip


def spending_of(ledger: LedgerFile, persons: Sequence[str] | None = None, delta: float | None = None) -> Spending:
    """Returns the accounts of some persons, or of everybody.

    Args:
        ledger: theirs.
        persons: ids; None for everybody.
        delta: at which epsilon is said; by default the limit's, or the smallest of any study.
    """
    book, limit = ledger.book(), ledger.limit
    if delta is None:
        delta = limit.delta if limit else min((part.begun.delta for part in book.parts.values()), default=1e-5)
    if persons is None:
        places, strangers = np.arange(len(book.group_of)), 0
    else:
        found = book.places_of([ledger.pseudonym(person) for person in persons])
        places, strangers = found[found >= 0], int((found < 0).sum())
    sizes = np.bincount(book.group_of[places], minlength=len(book.sizes))
    charged = [
        group for group in np.flatnonzero(sizes).tolist()
        if any(book.parts[part].counts for part in book.histories[group])
    ]  # fmt: skip
    bounds = _bounds(book, charged, delta)
    ranked = sorted(range(len(charged)), key=lambda at: -bounds[at])
    greatest = _greatest(book, charged, bounds, ranked, delta)
    typical, half = 0.0, sizes[charged].sum() / 2
    for at in ranked:
        half -= sizes[charged[at]]
        if half <= 0:
            typical = min(greatest, _epsilon(sorted_leaves(book.events_of(charged[at])), bounds[at], delta, few=0))
            break
    return Spending(
        persons=int(sizes[charged].sum()), strangers=strangers, delta=delta, greatest=greatest, typical=typical,
        unprotected=int((book.unprotected[places] > 0).sum()), limit=limit, runs=_runs(book, sizes),
    )  # fmt: skip


def greatest_after(ledger: LedgerFile, persons: Sequence[str], more: Event, delta: float) -> float:
    """Returns the greatest epsilon of any of these persons if `more` were charged to all; an upper bound.

    For the holder's own screen, as everything here.
    """
    book, added = ledger.book(), Counter(dict(leaves(more)))
    places = book.places_of([ledger.pseudonym(person) for person in persons])
    counts = {
        sorted_leaves(book.events_of(int(group)) + added)
        for group in np.unique(book.group_of[places[places >= 0]])
    }
    counts |= {sorted_leaves(added)} if (places < 0).any() else set()
    bounds = {items: epsilon_at(divergences_of(items, _ORDERS), _ORDERS, delta) for items in counts}
    looked_at = sum(map(len, counts)) <= _FEW_LEAVES
    return max((_epsilon(i, bound, delta) if looked_at else bound for i, bound in bounds.items()), default=0.0)


def _bounds(book: Book, groups: Sequence[int], delta: float) -> list[float]:
    """Returns an upper bound on epsilon of each group by Rényi divergences, which add up over runs."""
    curves = {number: divergences_of(sorted_leaves(part.counts), _ORDERS) for number, part in book.parts.items()}
    zero = np.zeros(len(_ORDERS))
    return [
        epsilon_at(sum((curves[part] for part in book.histories[group]), zero), _ORDERS, delta) for group in groups
    ]


def _greatest(
    book: Book, groups: Sequence[int], bounds: Sequence[float], ranked: Sequence[int], delta: float
) -> float:
    """Returns the greatest epsilon of any group, an upper bound: exact for the first few, the bound for the rest."""
    best, seen, few = 0.0, set[Leaves](), _FEW_LEAVES
    for at in ranked:
        if best >= bounds[at]:
            return best
        items = sorted_leaves(book.events_of(groups[at]))
        if items in seen:  # other runs, at the same cost
            continue
        cost = 0 if _is_quick(items) else len(items)
        if seen and cost > few:
            return bounds[at]
        seen.add(items)
        few -= cost
        best = max(best, _epsilon(items, bounds[at], delta))
    return best


def _epsilon(items: Leaves, bound: float, delta: float, few: int = _FEW_LEAVES) -> float:
    """Returns epsilon of leaf events: exact where that is quick or they are `few`, and never above the bound."""
    if any(isinstance(leaf, NonPrivateEvent) for leaf, _ in items):
        return math.inf
    event = event_of_leaves(items)
    if _is_quick(items):
        return min(bound, epsilon_of(event, delta))
    if len(items) <= few:
        return min(bound, rough_epsilon_of(event, delta, AccountantKind.PLD, COARSE))
    return bound


def _is_quick(items: Leaves) -> bool:
    """Returns whether the exact accountant takes no longer than for one sampled release."""
    return len(items) == 1 or all(isinstance(leaf, GaussianEvent) for leaf, _ in items)


def _runs(book: Book, sizes: npt.NDArray[np.int64]) -> tuple[RunCost, ...]:
    """Returns the runs that persons of groups of these sizes were in, (group,); those without anybody were in none."""
    found: dict[str, list[int]] = {}
    for number, part in book.parts.items():
        found.setdefault(f"{part.begun.run} {part.begun.study}", []).append(number)
    runs = []
    for numbers in found.values():
        parts = [book.parts[number] for number in numbers]
        if not any(sizes[group] for part in parts for group in part.groups):
            continue
        first = parts[0].begun
        charged: dict[str, Counter[LeafEvent]] = {}
        for part in parts:  # a seeded run that was charged nothing may begin again
            charged[part.begun.hospital] = charged.get(part.begun.hospital, Counter()) + part.counts
        items = max(
            (sorted_leaves(counts) for counts in charged.values()), key=lambda found: sum(n for _, n in found)
        )
        runs.append(
            RunCost(
                numbers[0],
                first.name,
                first.study,
                first.at,
                len(charged),
                sum(book.sizes[group] for group in {group for part in parts for group in part.groups}),
                _epsilon(items, epsilon_at(divergences_of(items, _ORDERS), _ORDERS, first.delta), first.delta),
                first.delta,
                all(part.is_ended for part in parts),
            )
        )
    return tuple(runs)
