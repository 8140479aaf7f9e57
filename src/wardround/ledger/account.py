"""One hospital's view of one data set in a ledger file: check, then spend.

The check is made once for all the charges that are foreseen: the counts it was made for are a certificate,
and as doing less never costs more, every later charge inside them is allowed without asking the accountant
again. The counts are read anew inside every transaction, so what another process charged in between is part
of the check.
"""

import math
from collections import Counter
from datetime import UTC, datetime

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.calibration import affordable_count
from wardround.accounting.events import Event, LeafEvent, event_of_leaves, leaves, sorted_leaves
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.entry import GENESIS, LedgerEntry, Promise
from wardround.ledger.store import LedgerStore


class Ledger:
    """One hospital's account for one data set; made by `LedgerFile.open`."""

    def __init__(
        self, store: LedgerStore, hospital: str, dataset_digest: str, promise: Promise, version: str | None
    ) -> None:
        self.hospital, self.dataset_digest = hospital, dataset_digest
        self._chain = (hospital, dataset_digest)
        self._store, self._promise, self._version = store, promise, version
        self._certified: Counter[LeafEvent] = Counter()
        self._forget()

    def charge(
        self,
        event: Event,
        *,
        study: str,
        release_id: str,
        purpose: str,
        planned: int = 1,
        seeded: bool = False,
    ) -> LedgerEntry:
        """Writes down what is about to be released; only after it returns may anything be released.

        Guarantee:
            Everything charged to this hospital and data set, in all runs and studies and by all processes,
            composes to at most `epsilon_limit` at `delta`. Check and entry are one transaction that no other
            writer can enter.

        Args:
            event: about to be done.
            study: that the release belongs to.
            release_id: of the release in the study, such as "round-12".
            purpose: a word for the reader of the ledger.
            planned: such charges that are foreseen, this one included: they are then checked at once, and
                the following ones need no accountant. It changes the time this takes, never what is allowed.
            seeded: the release is bit for bit the same whenever it is made, so making it again costs nothing.
                The same `release_id` and event then return the entry that is there; unseeded they are a new
                attempt.

        Raises:
            BudgetExhausted: the charge would exceed the limit; the ledger is as it was.
            LedgerError: the file is damaged, busy, or cannot be written.
        """
        with self._store.transaction():
            self._catch_up()
            earlier = self._store.latest(self._chain, study, release_id)
            if seeded and earlier and earlier.seeded and leaves(earlier.event) == leaves(event):
                return earlier
            self._check_affordable(event, max(1, planned))
            attempt = earlier.attempt + 1 if earlier else 1
            promise = self._promise
            entry = LedgerEntry(
                hospital=self.hospital, dataset_digest=self.dataset_digest, sequence=self._sequence + 1,
                study=study, release_id=release_id, attempt=attempt, purpose=purpose, event=event, seeded=seeded,
                unit=promise.unit, relation=promise.relation, epsilon_limit=promise.epsilon_limit,
                delta=promise.delta, accountant=promise.accountant,
                created_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
                version=self._version, previous=self._head,
            )  # fmt: skip
            self._take_in(entry, self._store.append(entry))
            return entry

    def spent(self) -> float:
        """Returns epsilon of everything charged so far, at the ledger's delta."""
        self._catch_up()
        return self._epsilon_of(self._counts)

    def remaining(self, event: Event, at_most: int = 1_000_000) -> int:
        """Returns the number of times that `event` can still be charged; `at_most` also when there is no limit."""
        self._catch_up()
        return self._affordable(event, at_most)

    def charged(self, study: str) -> dict[str, int]:
        """Returns the releases that were charged for a study so far, by purpose."""
        self._catch_up()
        return {purpose: count for (whose, purpose), count in self._charged.items() if whose == study}

    def released(self, study: str) -> tuple[str, ...]:
        """Returns the id of each release that a study was charged for, in order; charges of nothing are none."""
        self._catch_up()
        return tuple(self._released.get(study, ()))

    def entries(self) -> list[LedgerEntry]:
        """Returns all entries, oldest first."""
        return [entry for entry, _ in self._store.read(self._chain, 0)]

    def head(self) -> str:
        """Returns the hash of the last entry: a party that keeps it can later find a change before it."""
        self._catch_up()
        return self._head

    def position(self) -> tuple[int, str]:
        """Returns the number of entries, and the hash of the last one."""
        self._catch_up()
        return self._sequence, self._head

    def head_after(self, entries: int) -> str | None:
        """Returns the `head` after so many entries; None if there are fewer."""
        self._catch_up()
        return GENESIS if entries == 0 else self._store.hash_of(self._chain, entries)

    def verify(self, expected_head: str | None = None) -> None:
        """Walks the whole chain; `expected_head`, kept from an earlier `head()`, must be part of it.

        Raises:
            LedgerError: an entry was edited, removed or reordered, or the file is an older copy.
        """
        self._forget()
        self._catch_up()
        self._store.check_nothing_removed()
        if expected_head is not None and not self._store.contains(self._chain, expected_head):
            raise LedgerError(
                f"The ledger of hospital {self.hospital} must contain the entry {expected_head[:12]}… seen "
                f"before, "
                "and does not. The file is an older copy: restore the latest one."
            )

    def _check_affordable(self, event: Event, planned: int) -> None:
        limit = self._promise.epsilon_limit
        one = Counter(dict(leaves(event)))
        if limit == math.inf or _covers(self._certified, self._counts + one):
            return
        foreseen = _plus(self._counts, one, planned)
        if self._epsilon_of(foreseen) <= limit:
            self._certified = foreseen
            return
        count = self._affordable(event, planned)
        if count == 0:
            after = self._epsilon_of(self._counts + one)
            raise BudgetExhausted(
                f"Hospital {self.hospital} must stay within epsilon {limit:g} at delta "
                f"{self._promise.delta:g} "
                f"for one {self._promise.unit}, and this release would bring it to {after:.4g}. "
                "Nothing was released: stop here, or ask the hospital for a larger limit."
            )
        self._certified = _plus(self._counts, one, count)

    def _affordable(self, event: Event, at_most: int) -> int:
        promise = self._promise
        if promise.epsilon_limit == math.inf:
            return at_most
        return affordable_count(
            event_of_leaves(sorted_leaves(self._counts)),
            event,
            promise.epsilon_limit,
            promise.delta,
            accountant=promise.accountant,
            at_most=at_most,
        )

    def _epsilon_of(self, counts: Counter[LeafEvent]) -> float:
        return epsilon_of(event_of_leaves(sorted_leaves(counts)), self._promise.delta, self._promise.accountant)

    def _forget(self) -> None:
        self._generation = self._store.generation
        self._sequence, self._head = 0, GENESIS
        self._counts: Counter[LeafEvent] = Counter()
        self._charged: Counter[tuple[str, str]] = Counter()
        self._released: dict[str, list[str]] = {}

    def _catch_up(self) -> None:
        """Takes in what other processes appended, checking the chain on the way."""
        if self._generation != self._store.generation:
            self._forget()
        if (self._store.head(self._chain) or (0, GENESIS)) == (self._sequence, self._head):
            return
        new_entries = list(self._store.read(self._chain, self._sequence))
        if not new_entries:  # what was read before is gone
            raise self._damaged(self._sequence)
        for entry, recorded in new_entries:
            if (entry.sequence, entry.previous) != (self._sequence + 1, self._head):
                raise self._damaged(self._sequence + 1)
            if entry.unit is not self._promise.unit:
                raise LedgerError(
                    f"The unit of hospital {self.hospital}'s ledger must stay {entry.unit}, got "
                    f"{self._promise.unit}. "
                    "Costs of unlike units do not add up: keep the unit."
                )
            if entry.relation is not self._promise.relation:
                raise LedgerError(
                    f"The neighbouring relation of hospital {self.hospital}'s ledger must stay {entry.relation}, "
                    f"got {self._promise.relation}. Costs under unlike relations do not add up: keep the relation."
                )
            self._take_in(entry, recorded)

    def _take_in(self, entry: LedgerEntry, entry_hash: str) -> None:
        self._sequence, self._head = entry.sequence, entry_hash
        one = dict(leaves(entry.event))
        self._counts.update(one)
        self._charged[entry.study, entry.purpose] += sum(one.values())
        if one:
            self._released.setdefault(entry.study, []).append(entry.release_id)

    def _damaged(self, sequence: int) -> LedgerError:
        return LedgerError(
            f"Entry {sequence} of hospital {self.hospital}'s ledger must follow from the one before it, and "
            f"does not. "
            f"{self._store.path} was edited: restore it from a copy."
        )


def _plus(counts: Counter[LeafEvent], one: Counter[LeafEvent], times: int) -> Counter[LeafEvent]:
    return counts + Counter({leaf: count * times for leaf, count in one.items()})


def _covers(certified: Counter[LeafEvent], counts: Counter[LeafEvent]) -> bool:
    """Returns whether `counts` is part of what was certified: doing less never costs more."""
    return all(certified[leaf] >= count for leaf, count in counts.items())
