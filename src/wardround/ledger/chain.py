"""The lines of a ledger file and the book that they add up to, kept in step with what other processes write."""

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from wardround.errors import LedgerError
from wardround.ledger.book import Book, Persons, packed, unpacked
from wardround.ledger.entry import GENESIS, Begun, Entry, LimitSet, Unprotected, chained_hash, entry_of
from wardround.ledger.store import LedgerStore, Line


class Chain:
    """A ledger file that is read and added to, its chain checked on the way.

    Args:
        path: the SQLite file, in a folder that exists.
        busy_timeout_s: how long to wait for another process that is writing.
        copied: of a copy in memory, the file being only read.

    Attributes:
        key: of the pseudonyms; it is in the file and nowhere else.

    Raises:
        LedgerError: the file cannot be opened, is no ledger, has another schema version, is damaged, or is an older
            copy than its mark says.
    """

    def __init__(self, path: Path, busy_timeout_s: float, *, copied: bool = False) -> None:
        self.store = LedgerStore(path, busy_timeout_s, copied=copied)
        try:
            self.key = self.store.fact("pseudonym-key", secrets.token_bytes(32))
            self._forget()
            self.verify()
        except BaseException:
            self.store.close()
            raise

    def transaction(self) -> AbstractContextManager[object]:
        """All charges inside are one durable write; if anything raises, none of them was made.

        Nothing may be released before the block has ended.
        """
        return self.store.transaction()

    def append(self, entry: Entry) -> int:
        """Adds a line inside the open transaction; returns its sequence number."""
        line = self.store.append(entry)
        self._take_in(line, entry)
        return line[0]

    def book(self) -> Book:
        """Returns everything that the lines say, those of other processes included.

        Raises:
            LedgerError: a line does not follow from the one before it, or its cohort is not the one it names.
        """
        if self._generation != self.store.generation:
            self._forget()
        if self.store.position() != (self._sequence, self._head):
            self._enrol_new()
            lines = self.store.lines(self._sequence)
            if not lines:  # what was read before is gone
                raise self._damaged(self._sequence)
            for line in lines:
                if line[0] != self._sequence + 1 or line[1] != chained_hash(self._head, line[2]):
                    raise self._damaged(self._sequence + 1)
                self._take_in(line, entry_of(line[2]))
        return self._book

    @property
    def limit(self) -> LimitSet | None:
        """The limit of every person over all studies; None where there is none."""
        found = self.book().limit
        return None if found is None or found.epsilon == float("inf") else found

    def head_after(self, entries: int) -> str | None:
        """Returns the hash of the last of so many lines; None if there are fewer."""
        return GENESIS if entries == 0 else self.store.hash_of(entries)

    def verify(self, expected_head: str | None = None) -> None:
        """Walks the whole chain anew; `expected_head`, kept from an earlier `position`, must be part of it.

        Raises:
            LedgerError: a line, a person or a cohort was edited, removed or reordered, or the file is an older copy.
        """
        self._forget()
        self.book()
        self.store.check_nothing_removed()
        self.store.check_mark()
        if expected_head is not None:
            self.check_contains(expected_head)

    def check_contains(self, head: str) -> None:
        """Raises LedgerError unless a line, or the start, has this hash, kept from an earlier `position`."""
        if head != GENESIS and not self.store.contains(head):
            raise LedgerError(
                f"Ledger {self.store.path} must contain the line {head[:12]}… seen before, and does not. The "
                "file is an older copy: restore the latest one, or go on as docs/deploy.md says (Backup and "
                "restore) where it is lost.",
                code="ledger-older",
            )

    def entries(self) -> list[Entry]:
        """Returns all lines, oldest first."""
        return [entry_of(body) for _, _, body in self.store.lines(0)]

    def now(self) -> str:
        """Returns the time at which the open transaction began, as lines have it."""
        return self.store.began

    def enrolled(self, book: Book, pseudonyms: Sequence[bytes]) -> Persons:
        """Returns the places of persons, inside the open transaction; new ones are added."""
        if len(set(pseudonyms)) < len(pseudonyms):
            raise LedgerError(
                "A study must have each person once in a hospital, and some are there twice; group their pictures.",
                code="ledger-person-twice",
            )
        places = book.places_of(pseudonyms)
        new = [pseudonyms[at] for at in np.flatnonzero(places < 0).tolist()]
        if new:
            self.store.add_persons(new)
            self._enrol_new()
            places = book.places_of(pseudonyms)
        return places

    def kept(self, book: Book, cohort: Persons) -> str:
        """Writes a cohort down, inside the open transaction; returns its digest."""
        digest = book.digest_of(cohort)
        self.store.add_cohort(digest, packed(cohort))
        self._cohorts[digest] = cohort
        return digest

    def cohort(self, digest: str) -> Persons:
        """Returns a cohort, its digest checked."""
        if digest not in self._cohorts:
            content = self.store.cohort(digest)
            persons = None if content is None else unpacked(content)
            inside = persons is not None and (not len(persons) or persons[-1] < len(self._book.group_of))
            if persons is None or not inside or self._book.digest_of(persons) != digest:
                raise LedgerError(
                    f"Ledger {self.store.path} must have the persons of every run as they were written down, and has "
                    "not. The file was edited: restore it from a copy.",
                    code="ledger-edited",
                )
            self._cohorts[digest] = persons
        return self._cohorts[digest]

    def _take_in(self, line: Line, entry: Entry) -> None:
        cohort = self.cohort(entry.cohort) if isinstance(entry, Begun | Unprotected) else None
        self._book.take_in(line[0], entry, cohort)
        self._sequence, self._head = line[:2]

    def _enrol_new(self) -> None:
        rows = self.store.persons(len(self._book.group_of))
        first = len(self._book.group_of) + 1
        if [number for number, _ in rows] != list(range(first, first + len(rows))):
            raise self._damaged(self._sequence)
        self._book.add_persons([pseudonym for _, pseudonym in rows])

    def _forget(self) -> None:
        self._generation = self.store.generation
        self._sequence, self._head = 0, GENESIS
        self._book: Book = Book(self.key)
        self._cohorts: dict[str, Persons] = {}

    def _damaged(self, sequence: int) -> LedgerError:
        return LedgerError(
            f"Line {sequence} of ledger {self.store.path} must follow from the one before it, and does not. "
            "The file was edited: restore it from a copy.",
            code="ledger-edited",
        )
