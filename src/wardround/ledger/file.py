"""One holder's ledger: a hospital's, or that of the person who runs simulations. Check, then spend, then release.

    person's spending = composition of all charges of the runs that the person could have been in

under any study, split, name of the hospital in it, and files of that day. A person is known by a pseudonym,
the keyed hash of their own id; the key is in the file and nowhere else.

Released: nothing. Every question that is answered to others is about one run (`Account`).
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import Event, event_of_leaves, leaves, sorted_leaves
from wardround.accounting.filter import RenyiFilter
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.account import Account
from wardround.ledger.book import PSEUDONYM_BYTES, Book, Persons
from wardround.ledger.chain import Chain
from wardround.ledger.entry import Begun, Charge, Ended, Entry, LimitSet, Unprotected

_CARRIED_DELTA = 1e-5  # of a figure that is shown; nothing is decided by it


class LedgerFile:
    """One ledger in one file; created when missing.

    Args:
        path: the SQLite file, in a folder that exists; ":memory:" for one that is forgotten.
        busy_timeout_s: how long to wait for another process that is writing.
        version: of Wardround, written down where a run begins.
        copied: the ledger is a copy in memory of the file at this moment, and empty where there is none. The file is
            only read, without a right to write it or its folder; what is added to the copy is forgotten with it.

    Raises:
        LedgerError: the file cannot be opened, is no ledger, has another schema version, is damaged, or is an older
            copy than its mark says.
    """

    def __init__(
        self, path: Path | str, *, busy_timeout_s: float = 30.0, version: str | None = None, copied: bool = False
    ) -> None:
        self.path = Path(path)
        self._version = version
        self._chain = Chain(self.path, busy_timeout_s, copied=copied)

    def __enter__(self) -> "LedgerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was charged stays charged."""
        self._chain.store.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All charges inside are one durable write; if anything raises, none of them was made.

        Nothing may be released before the block has ended.
        """
        with self._chain.transaction():
            yield

    def enrol(self, persons: Iterable[str]) -> None:
        """Writes persons down, unless they are there: before many accounts begin, in one step for all of them.

        Nothing is charged to a person by it, and nothing kept.
        """
        with self._chain.transaction():
            self._chain.enrolled(self._chain.book(), [self.pseudonym(person) for person in dict.fromkeys(persons)])

    def begin(
        self,
        *,
        run: str,
        study: str,
        name: str,
        hospital: str,
        persons: Sequence[str],
        foreseen: Event,
        epsilon: float,
        delta: float,
        accountant: AccountantKind = AccountantKind.PLD,
        unit: PrivacyUnit = PrivacyUnit.PATIENT,
        relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        seeded: bool = False,
    ) -> Account:
        """Returns a hospital's account in a run: a new one, or the one that the same run has.

        Guarantee:
            Who is in the run follows for each person from their own history alone: those who can afford everything that
            is foreseen. That is kept for the run until it ends. A hospital has one account in a run, and one cap: a run
            that has ended is charged nothing more, and persons who join the hospital later are not in it.

        Args:
            run: the same for the whole run, and for no other.
            study: digest of the study file.
            name: of the study.
            hospital: its name in the study.
            persons: ids of those that the study would have, no two the same.
            foreseen: everything that is expected to be charged.
            epsilon: the cap of the run, at `delta` by `accountant`.
            delta: of the cap.
            accountant: of the cap.
            unit: that the charges protect.
            relation: between neighbouring data sets.
            seeded: the run releases bit for bit the same again, at no cost.

        Raises:
            BudgetExhausted: nobody at all could afford the study, not even without any history.
            LedgerError: the file is damaged, busy, or cannot be written.
            PrivacyError: `epsilon` or `delta` cannot hold a guarantee.
        """
        pseudonyms = [self.pseudonym(person) for person in persons]
        with self._chain.transaction():
            book = self._chain.book()
            places = self._chain.enrolled(book, pseudonyms)
            offered = book.digest_of(np.sort(places))
            for sequence in book.begun.get((run, study, hospital), ()):
                part = book.parts[sequence]
                if not (part.begun.seeded and part.is_free):
                    return Account(self._chain, sequence, np.isin(places, self._chain.cohort(part.begun.cohort)))
            admitted = self._admitted(book, places, foreseen, accountant, unit, relation)
            cohort = np.sort(places[admitted])
            begun = Begun(
                run, study, name, hospital, offered, self._chain.kept(book, cohort), foreseen, epsilon, delta,
                AccountantKind(accountant), unit, relation, seeded, self._version, self._chain.now(),
            )  # fmt: skip
            return Account(self._chain, self._chain.append(begun), admitted)

    def carry_over(
        self,
        *,
        run: str,
        study: str,
        persons: Sequence[str],
        event: Event,
        unit: PrivacyUnit,
        relation: NeighboringRelation,
    ) -> bool:
        """Charges persons with what another ledger says that they spent, whether or not they can afford it.

        Returns False, and charges nothing, if this was carried over to the same persons before.
        """
        with self._chain.transaction():
            book = self._chain.book()
            cohort = np.sort(self._chain.enrolled(book, [self.pseudonym(person) for person in persons]))
            digest = self._chain.kept(book, cohort)
            if any((part.begun.run, part.begun.cohort) == (run, digest) for part in book.parts.values()):
                return False
            begun = self._chain.append(
                Begun(
                    run, study, "carried over", "every hospital", digest, digest, event, float("inf"), _CARRIED_DELTA,
                    AccountantKind.PLD, unit, relation, False, self._version, self._chain.now(),
                )
            )  # fmt: skip
            self._chain.append(Charge(begun, run, 1, "carried over", event, self._chain.now()))
            self._chain.append(Ended(begun, self._chain.now()))
            return True

    def unprotected(self, *, run: str, study: str, persons: Sequence[str], purpose: str) -> None:
        """Writes down that figures about these persons are about to leave without protection.

        They are listed apart: no epsilon holds for what such figures say.
        """
        with self._chain.transaction():
            book = self._chain.book()
            cohort = np.sort(self._chain.enrolled(book, [self.pseudonym(person) for person in persons]))
            self._chain.append(Unprotected(run, study, self._chain.kept(book, cohort), purpose, self._chain.now()))

    def end(self, line: int) -> Begun:
        """Ends a run that will not go on, and returns its beginning: what was kept for it and not charged is free.

        Args:
            line: a line that the run began with.

        Raises:
            LedgerError: no run began there, or it has ended.
        """
        with self._chain.transaction():
            parts = self._chain.book().parts
            begun = parts[line].begun if line in parts else None
            mine = [
                number for number, part in parts.items()
                if begun is not None and (part.begun.run, part.begun.study) == (begun.run, begun.study)
                and not part.is_ended
            ]  # fmt: skip
            if begun is None or not mine:
                raise LedgerError(
                    f"A run must have begun at the line and not have ended, and at line {line} of ledger {self.path} "
                    f"{'none began' if begun is None else 'one began that has'}. Take the line from wardround ledger "
                    "show.",
                    code="ledger-no-run",
                )
            for number in mine:
                self._chain.append(Ended(number, self._chain.now()))
        return begun

    def set_limit(self, epsilon: float, delta: float, *, by: str, reason: str) -> None:
        """Sets what a person may spend over all studies, from here on; infinity for no limit.

        Raises:
            PrivacyError: the limit is none, or the person or the reason is missing.
        """
        with self._chain.transaction():
            self._chain.append(LimitSet(epsilon, delta, by, reason, self._chain.now()))

    @property
    def limit(self) -> LimitSet | None:
        """The limit of every person over all studies; None where there is none."""
        return self._chain.limit

    def book(self) -> Book:
        """Returns everything that the lines say, those of other processes included."""
        return self._chain.book()

    def entries(self) -> list[Entry]:
        """Returns all lines, oldest first."""
        return self._chain.entries()

    def position(self) -> tuple[int, str]:
        """Returns the number of lines, and the hash of the last one: kept elsewhere, it finds an older copy."""
        return self._chain.store.position()

    def head_after(self, entries: int) -> str | None:
        """Returns the hash of the last of so many lines; None if there are fewer."""
        return self._chain.head_after(entries)

    def check_contains(self, head: str) -> None:
        """Refuses an older copy of the ledger; see `Chain.check_contains`."""
        self._chain.check_contains(head)

    def verify(self, expected_head: str | None = None) -> None:
        """Walks the whole chain anew; see `Chain.verify`."""
        self._chain.verify(expected_head)

    def epsilon_of(self, person: str, delta: float, accountant: AccountantKind = AccountantKind.PLD) -> float:
        """Returns epsilon of everything that a person could have been in, at `delta`; 0 for a stranger."""
        book = self._chain.book()
        [place] = book.places_of([self.pseudonym(person)])
        if place < 0:
            return 0.0
        counts = book.events_of(int(book.group_of[place]))
        return epsilon_of(event_of_leaves(sorted_leaves(counts)), delta, accountant)

    def is_known(self, persons: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns of each person whether the ledger has them, (person,)."""
        return self._chain.book().places_of([self.pseudonym(person) for person in persons]) >= 0

    def can_afford(
        self,
        persons: Sequence[str],
        foreseen: Event,
        accountant: AccountantKind = AccountantKind.PLD,
        unit: PrivacyUnit = PrivacyUnit.PATIENT,
        relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    ) -> npt.NDArray[np.bool_]:
        """Returns of each person whether they could be in a study that was begun now, (person,); writes nothing.

        For the holder's own screen. Raises as `begin` does where nobody could.
        """
        book = self._chain.book()
        places = book.places_of([self.pseudonym(person) for person in persons])
        allowed, known = np.ones(len(places), dtype=bool), places >= 0
        allowed[known] = self._admitted(book, places[known], foreseen, accountant, unit, relation)
        return allowed

    def pseudonym(self, person: str) -> bytes:
        """Returns the keyed hash of a person's id: useless without this file."""
        said = person.encode("utf-8", "surrogatepass")  # an id may be a file's name that is no UTF-8
        return hmac.digest(self._chain.key, said, "sha256")[:PSEUDONYM_BYTES]

    def _admitted(
        self,
        book: Book,
        places: Persons,
        foreseen: Event,
        accountant: AccountantKind,
        unit: PrivacyUnit,
        relation: NeighboringRelation,
    ) -> npt.NDArray[np.bool_]:
        """Returns who can afford what is foreseen, by their own history alone.

        A first study was chosen in the light of no other: it may spend the whole limit by its own accountant. Later
        ones must pass the filter, as they may have been chosen by what the earlier ones said.
        """
        everybody = np.ones(len(places), dtype=bool)
        limit = self.limit
        if limit is None:
            return everybody
        cost = epsilon_of(foreseen, limit.delta, accountant)
        if cost > limit.epsilon:
            raise BudgetExhausted(
                f"A study must cost a person at most epsilon {limit.epsilon:g} at delta {limit.delta:g} by the limit "
                f"of ledger {self.path}, and this one would cost {cost:.4g}: nobody could be in it. Ask for a smaller "
                "epsilon, or set another limit with: wardround ledger set-limit."
            )
        bound = RenyiFilter(limit.epsilon, limit.delta)
        more = bound.divergences(leaves(foreseen))
        under = (
            NeighboringRelation.ADD_OR_REMOVE_ONE if unit is PrivacyUnit.HOSPITAL else relation
        )  # removing a person is one way of changing a hospital

        def can_afford(group: int) -> bool:
            if book.is_untouched(group):
                return True
            return book.relations_of(group) <= {under} and bound.allows(book.divergences(group, bound) + more)

        groups, member_of = np.unique(book.group_of[places], return_inverse=True)
        return np.array([can_afford(group) for group in groups.tolist()], dtype=bool)[member_of]
