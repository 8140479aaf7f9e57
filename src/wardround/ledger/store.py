"""The SQLite file under the ledgers: append-only, one writer at a time, on disk before a transaction ends.

Durability: rollback journal with synchronous = EXTRA, so that both the pages and the removal of the journal
are flushed before COMMIT returns. A process killed at any point leaves whole transactions or none of them.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from wardround.accounting.events import canonical_json
from wardround.boundary.private import open_private
from wardround.errors import LedgerError
from wardround.ledger.entry import LedgerEntry, chained_hash

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x57415244  # "WARD"
_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hospital TEXT NOT NULL,
    dataset_digest TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    study TEXT NOT NULL,
    release_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (hospital, dataset_digest, sequence)
) STRICT;
CREATE INDEX releases ON entries (hospital, dataset_digest, study, release_id);
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER entries_are_never_removed BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
"""
_COLUMNS = "hospital, dataset_digest, sequence, study, release_id, hash, body"
_INSERT = f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_SELECT = "FROM entries WHERE hospital = ? AND dataset_digest = ?"

Chain = tuple[str, str]
"""Name of one chain: hospital and data set digest."""


class LedgerStore:
    """Rows of one file. `generation` grows when entries are undone: a reader that took them in must read anew.

    The head of each chain is remembered until another connection has written to the file, which SQLite says
    (`PRAGMA data_version`), or until entries are undone.
    """

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.path = path
        self.generation = 0
        self._depth = 0
        self._appended = False
        self._heads: dict[Chain, tuple[int, str] | None] = {}
        self._whole, self._seen_version = False, -1
        self._lock = threading.RLock()
        with self._explained():
            if str(path) != ":memory:":
                with suppress(OSError):  # what cannot be made is explained by SQLite
                    os.close(open_private(path, os.O_RDWR))
            self._connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Closes the file; what was committed stays."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The only write transaction in any process; an inner one joins the outer; raising undoes all."""
        with self._lock:
            if self._depth:
                yield
                return
            with self._explained():
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth, self._appended = 1, False
            try:
                self._notice_others()
                yield
                with self._explained():
                    self._connection.execute("COMMIT")
            except BaseException:
                self.generation += self._appended
                self._heads.clear()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def append(self, entry: LedgerEntry) -> str:
        """Adds one entry inside the open transaction; returns its hash."""
        body = canonical_json(entry.to_json())
        entry_hash = chained_hash(entry.previous, body)
        with self._lock, self._explained():
            self._appended = True
            self._connection.execute(_INSERT, (*_place(entry), entry_hash, body))
            self._heads[entry.hospital, entry.dataset_digest] = (entry.sequence, entry_hash)
        return entry_hash

    def head(self, chain: Chain) -> tuple[int, str] | None:
        """Returns the sequence number and hash of the last entry of a chain."""
        with self._lock:
            if not self._depth:  # inside a transaction no other connection can write
                self._notice_others()
            if chain not in self._heads:
                rows = self._rows(f"SELECT sequence, hash {_SELECT} ORDER BY sequence DESC LIMIT 1", chain)
                self._heads[chain] = (rows[0][0], rows[0][1]) if rows else None
            return self._heads[chain]

    def read(self, chain: Chain, after: int) -> Iterator[tuple[LedgerEntry, str]]:
        """Yields entries of a chain beyond the sequence number `after`, in order, each with its recorded hash."""
        query = f"SELECT {_COLUMNS} {_SELECT} AND sequence > ? ORDER BY sequence"
        for row in self._rows(query, (*chain, after)):
            yield self._entry(row), row[5]

    def latest(self, chain: Chain, study: str, release_id: str) -> LedgerEntry | None:
        """Returns the last attempt at a release."""
        query = f"SELECT {_COLUMNS} {_SELECT} AND study = ? AND release_id = ? ORDER BY sequence DESC LIMIT 1"
        rows = self._rows(query, (*chain, study, release_id))
        return self._entry(rows[0]) if rows else None

    def hash_of(self, chain: Chain, sequence: int) -> str | None:
        """Returns the hash of one entry of a chain; None where there is none of that number."""
        rows = self._rows(f"SELECT hash {_SELECT} AND sequence = ?", (*chain, sequence))
        return rows[0][0] if rows else None

    def contains(self, chain: Chain, entry_hash: str) -> bool:
        """Returns whether an entry of a chain has this hash."""
        return bool(self._rows(f"SELECT 1 {_SELECT} AND hash = ?", (*chain, entry_hash)))

    def chains(self) -> list[Chain]:
        """Returns every hospital and data set that has entries, sorted."""
        return self._rows("SELECT DISTINCT hospital, dataset_digest FROM entries ORDER BY 1, 2", ())

    def digests_of(self, hospital: str) -> list[str]:
        """Returns every data set for which a hospital has entries, sorted."""
        query = "SELECT DISTINCT dataset_digest FROM entries WHERE hospital = ? ORDER BY 1"
        return [digest for (digest,) in self._rows(query, (hospital,))]

    def check_nothing_removed(self) -> None:
        """Raises LedgerError if the file holds fewer entries than it ever numbered."""
        with self._lock:
            if not self._depth:
                self._notice_others()
            if self._whole:  # this connection only ever adds
                return
            numbered = "SELECT seq FROM sqlite_sequence WHERE name = 'entries'"
            query = f"SELECT COALESCE(({numbered}), 0), (SELECT COUNT(*) FROM entries)"
            [(expected, present)] = self._rows(query, ())
            if present != expected:
                raise LedgerError(
                    f"Ledger {self.path} must hold the {expected} entries ever written to it, got {present}. "
                    "Entries were removed: restore the file from a copy."
                )
            self._whole = True

    def _notice_others(self) -> None:
        """Forgets what is remembered of the file if another connection has written to it."""
        [(version,)] = self._rows("PRAGMA data_version", ())
        if version != self._seen_version:
            self._heads.clear()
            self._whole, self._seen_version = False, version

    def _entry(self, row: tuple[Any, ...]) -> LedgerEntry:
        *place, recorded, body = row
        try:
            entry = LedgerEntry.from_json(json.loads(body))
            intact = _place(entry) == tuple(place) and chained_hash(entry.previous, body) == recorded
        except ValueError:
            intact = False
        if not intact:
            raise LedgerError(
                f"Entry {place[2]} of ledger {self.path} must be what was written there, and is "
                f"not. "
                "The file was edited: restore it from a copy."
            )
        return entry

    def _rows(self, query: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock, self._explained(), closing(self._connection.execute(query, parameters)) as cursor:
            return cursor.fetchall()

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's own cache
        connection.execute("BEGIN IMMEDIATE")
        try:
            [(version,)] = connection.execute("PRAGMA user_version").fetchall()
            [(tables,)] = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            if version == 0 and tables == 0:
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise LedgerError(
                    f"Ledger {self.path} must have schema version {SCHEMA_VERSION}, got {version}. "
                    "Use the version of Wardround that wrote it, or name another file."
                )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of SQLite into one sentence with its remedy."""
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(f"{_explanation(self.path, str(error))} (SQLite: {error}.)") from error


def _place(entry: LedgerEntry) -> tuple[str, str, int, str, str]:
    return entry.hospital, entry.dataset_digest, entry.sequence, entry.study, entry.release_id


def _statements(script: str) -> Iterator[str]:
    """Yields the statements of a script one by one, as `executescript` would commit the transaction around them."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _explanation(path: Path, message: str) -> str:
    if not path.parent.is_dir():
        return f"Ledger {path} must lie in a folder that exists, and {path.parent} does not. Create it."
    if "not a database" in message or "malformed" in message:
        return f"Ledger {path} must be an intact SQLite file, and is not. Restore it from a copy."
    if "locked" in message:
        return f"Ledger {path} must be free, and another process is writing to it. Try again when it has ended."
    if "full" in message:
        return f"Ledger {path} must grow, and its disk is full. Free some space; nothing was charged."
    if "readonly" in message or "unable to open" in message:
        return f"Ledger {path} must be a file that can be written, and is not. Change its permissions."
    if "append-only" in message:
        return f"Ledger {path} must only ever grow, and something tried to change it. Charge a new entry."
    return f"Ledger {path} must be readable and writable, and SQLite refused. Check the file and its disk."
