"""A ledger in memory: persons, the runs that each was in, and what those runs were charged.

Persons with one history are one group: the cost of a question grows with the number of histories, not of persons.
"""

import hmac
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Event, LeafEvent, leaves, sorted_leaves
from wardround.accounting.filter import Divergences, RenyiFilter
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import LedgerError
from wardround.ledger.entry import Answered, Begun, Charge, Ended, Entry, LimitSet, Unprotected

Persons = npt.NDArray[np.int64]
"""Positions of persons in the book, ascending, (person,)."""

PSEUDONYM_BYTES = 16


@dataclass
class Part:
    """One hospital's part in one run.

    Attributes:
        groups: groups of persons who are in it.
        counts: leaf events that it was charged.
        releases: of each release the last attempt and its event.
        purposes: leaf events charged, by purpose.
        charged: charges, by purpose.
        released: name of each release that cost something, in order.
        answers: SHA-256 of the answers to requests that are answered once.
        is_ended: nothing more is foreseen.
    """

    begun: Begun
    groups: list[int] = field(default_factory=list)
    counts: Counter[LeafEvent] = field(default_factory=Counter)
    releases: dict[str, tuple[int, Event]] = field(default_factory=dict)
    purposes: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    released: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    is_ended: bool = False

    def committed(self, limit: RenyiFilter) -> Divergences:
        """Returns the divergences that count against a limit.

        Those of what was charged; of an unfinished run at least those of what is foreseen.
        """
        spent = limit.divergences(sorted_leaves(self.counts))
        return spent if self.is_ended else np.maximum(spent, limit.divergences(leaves(self.begun.foreseen)))

    @property
    def is_free(self) -> bool:
        """True while nothing was charged and nothing is foreseen any more."""
        return self.is_ended and not self.counts


class Book:
    """Everything that the lines of a ledger say.

    Args:
        key: of the pseudonyms; with another one no cohort is what its digest says.

    Attributes:
        parts: by the sequence number of their first line.
        begun: numbers of the parts of each run, study and hospital, in order.
        limit: the last that was set.
        group_of: group of each person, (person,); group 0 has no history.
        histories: of each group the parts that its persons are in.
        sizes: persons of each group.
        unprotected: persons about whom figures left without protection, and how often.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self.parts: dict[int, Part] = {}
        self.begun: dict[tuple[str, str, str], list[int]] = {}
        self.limit: LimitSet | None = None
        self.pseudonyms = np.zeros((0, PSEUDONYM_BYTES), dtype=np.uint8)
        self.group_of = np.zeros(0, dtype=np.int64)
        self.histories: list[tuple[int, ...]] = [()]
        self.sizes: list[int] = [0]
        self.unprotected = np.zeros(0, dtype=np.int64)
        self._places: dict[bytes, int] = {}

    def add_persons(self, pseudonyms: Sequence[bytes]) -> None:
        """Takes in persons, in the order of their numbers."""
        first = len(self.group_of)
        self._places.update((pseudonym, first + place) for place, pseudonym in enumerate(pseudonyms))
        rows = np.frombuffer(b"".join(pseudonyms), dtype=np.uint8).reshape(-1, PSEUDONYM_BYTES)
        self.pseudonyms = np.concatenate([self.pseudonyms, rows])
        self.group_of = np.concatenate([self.group_of, np.zeros(len(rows), dtype=np.int64)])
        self.unprotected = np.concatenate([self.unprotected, np.zeros(len(rows), dtype=np.int64)])
        self.sizes[0] += len(rows)

    def places_of(self, pseudonyms: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Returns the place of each pseudonym, in their order; -1 of those that the book does not know."""
        return np.array([self._places.get(pseudonym, -1) for pseudonym in pseudonyms], dtype=np.int64)

    def take_in(self, sequence: int, entry: Entry, cohort: Persons | None) -> None:
        """Takes in one line; `cohort` is that of a line that names one.

        Raises:
            LedgerError: it names a run that did not begin.
        """
        match entry:
            case Begun():
                self.parts[sequence] = Part(entry)
                self.begun.setdefault((entry.run, entry.study, entry.hospital), []).append(sequence)
                self._refine(sequence, cohort if cohort is not None else np.zeros(0, dtype=np.int64))
            case Charge():
                part = self._part(entry.begun)
                one, times = leaves(entry.event), 0
                for leaf, count in one:
                    part.counts[leaf] += count
                    times += count
                part.purposes[entry.purpose] += times
                part.releases[entry.release] = (entry.attempt, entry.event)
                part.charged[entry.purpose] += 1
                if one:
                    part.released.append(entry.release)
            case Answered():
                self._part(entry.begun).answers[entry.release] = entry.answer
            case Ended():
                self._part(entry.begun).is_ended = True
            case Unprotected():
                self.unprotected[cohort] += 1
            case LimitSet():
                self.limit = entry

    def events_of(self, group: int) -> Counter[LeafEvent]:
        """Returns all leaf events charged to the persons of a group."""
        return reduce(add, (self.parts[part].counts for part in self.histories[group]), Counter())

    def divergences(self, group: int, limit: RenyiFilter) -> Divergences:
        """Returns the divergences that count against a limit for the persons of a group."""
        zero = np.zeros(len(limit.orders))
        return sum((self.parts[part].committed(limit) for part in self.histories[group]), zero)

    def is_untouched(self, group: int) -> bool:
        """Returns whether nothing was charged to the persons of a group, and nothing is foreseen."""
        return all(self.parts[part].is_free for part in self.histories[group])

    def relations_of(self, group: int) -> set[NeighboringRelation]:
        """Returns the relations under which the persons of a group are charged.

        A guarantee for a whole hospital covers the removal of one of its persons.
        """
        return {
            NeighboringRelation.ADD_OR_REMOVE_ONE
            if part.begun.unit is PrivacyUnit.HOSPITAL
            else part.begun.relation
            for part in (self.parts[number] for number in self.histories[group])
            if not part.is_free
        }

    def digest_of(self, persons: Persons) -> str:
        """Returns the keyed digest of a cohort, over the pseudonyms of its persons."""
        return hmac.digest(self._key, self.pseudonyms[persons].tobytes(), "sha256").hex()

    def _part(self, begun: int) -> Part:
        if begun not in self.parts:
            raise LedgerError(
                f"A ledger's line must belong to a run that began in it, got one of line {begun}; restore a copy.",
                code="ledger-line",
            )
        return self.parts[begun]

    def _refine(self, part: int, cohort: Persons) -> None:
        """Splits each group into those in the cohort and the others."""
        groups, member_of, found = np.unique(self.group_of[cohort], return_inverse=True, return_counts=True)
        moved = groups.copy()
        for at, (group, inside) in enumerate(zip(groups.tolist(), found.tolist(), strict=True)):
            if group and inside == self.sizes[group]:
                self.histories[group] += (part,)
            else:
                moved[at] = len(self.sizes)
                self.sizes[group] -= inside
                self.sizes.append(inside)
                self.histories.append((*self.histories[group], part))
                for other in self.histories[group]:
                    self.parts[other].groups.append(int(moved[at]))
            self.parts[part].groups.append(int(moved[at]))
        self.group_of[cohort] = moved[member_of]


def packed(persons: Persons) -> bytes:
    """Returns a cohort in few bytes: differences of places, compressed."""
    return zlib.compress(np.diff(persons, prepend=0).astype("<u4").tobytes(), 1)


def unpacked(content: bytes) -> Persons:
    """Returns the cohort that `packed` wrote.

    Raises:
        LedgerError: it is none.
    """
    try:
        steps = np.frombuffer(zlib.decompress(content), dtype="<u4").astype(np.int64)
    except (zlib.error, ValueError) as error:
        raise LedgerError(
            f"A cohort of a ledger must be readable, and is not ({error}); restore a copy.", code="ledger-line"
        ) from None
    return np.cumsum(steps)
