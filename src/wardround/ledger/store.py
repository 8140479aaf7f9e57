"""The SQLite file under a ledger: append-only, one writer at a time, on disk before a transaction ends.

Durability: rollback journal with synchronous = EXTRA, so that both the pages and the removal of the journal
are flushed before COMMIT returns. A process killed at any point leaves whole transactions or none of them.

Beside the file lies its mark: how many lines it had, and the hash of the last. A ledger that is gone, or was put back
from an older copy, no longer reaches its mark, and is refused.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround.boundary.documents import load_json
from wardround.boundary.machine import is_moved, of_sqlite
from wardround.boundary.private import open_private, write_whole
from wardround.errors import LedgerError, MachineError
from wardround.ledger.entry import GENESIS, Entry, body_of, chained_hash

SCHEMA_VERSION = 2
_MOST_MARK_BYTES = 1000
_APPLICATION_ID = 0x57415244  # "WARD"
_TABLES = ("entries", "persons", "cohorts", "facts")
_SCHEMA = """
CREATE TABLE entries (sequence INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE persons (number INTEGER PRIMARY KEY AUTOINCREMENT, pseudonym BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE cohorts (digest TEXT PRIMARY KEY, members BLOB NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
""" + "".join(
    f"CREATE TRIGGER {table}_never_{action.lower()}d BEFORE {action} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;\n"
    for table in _TABLES
    for action in ("UPDATE", "DELETE")
)

Line = tuple[int, str, str]
"""Sequence number, hash and text of one line."""


class LedgerStore:
    """Rows of one file. `generation` grows when lines are undone: what was taken in of them must be read anew.

    `began` is the time of the open transaction: 10,000 charges of one write ask the clock once.

    The position is remembered until another connection has written to the file, which SQLite says
    (`PRAGMA data_version`), or until lines are undone.

    `copied`: the rows are a copy in memory of the file as its last whole transaction left it, and empty where there is
    no file. Nothing is written beside the file or to it, so that it may be another user's, or on a disk for reading.
    """

    def __init__(self, path: Path, busy_timeout_s: float, *, copied: bool = False) -> None:
        self.path, self._copied = path, copied
        self.generation, self.began = 0, ""
        self._writer: int | None = None
        self._appended = False
        self._position: tuple[int, str] | None = None
        self._seen_version = -1
        self._lock = threading.RLock()
        self._mark = None if str(path) == ":memory:" else path.with_name(f"{path.name}.mark")
        self._marked = self._read_mark()  # before the file, which reaches it from then on
        self._check_present()
        with self._explained():
            if self._mark is not None and path.parent.is_dir() and not path.exists() and not copied:
                os.close(open_private(path, os.O_RDWR))  # for its owner alone, which SQLite does not see to
            self._connection = sqlite3.connect(
                ":memory:" if copied else path,
                timeout=busy_timeout_s, isolation_level=None, check_same_thread=False,
            )  # fmt: skip
            try:
                if copied and path.exists():
                    self._copy(busy_timeout_s)
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Closes the file; what was committed stays."""
        with self._lock:
            self._connection.close()

    def transaction(self) -> AbstractContextManager[object]:
        """The only write transaction in any process; an inner one joins the outer; raising undoes all."""
        # The thread that has it open joins it by the lock that it holds: a line costs less than a generator's frame.
        return self._lock if self._writer == threading.get_ident() else self._begun()

    @contextmanager
    def _begun(self) -> Iterator[None]:
        with self._lock:
            with self._explained():
                self._connection.execute("BEGIN IMMEDIATE")
            self._writer, self._appended = threading.get_ident(), False
            self.began = datetime.now(UTC).isoformat(timespec="milliseconds")
            try:
                self._notice_others()
                yield
                with self._explained():
                    self._connection.execute("COMMIT")
            except BaseException:
                self.generation += self._appended
                self._position = None
                self._undo()
                raise
            finally:
                self._writer = None
            if self._appended:
                self._write_mark()

    def append(self, entry: Entry) -> Line:
        """Adds one line inside the open transaction."""
        body = body_of(entry)
        with self._lock:
            sequence, previous = self.position()
            line = (sequence + 1, chained_hash(previous, body), body)
            self._appended = True
            try:
                self._connection.execute("INSERT INTO entries (sequence, hash, body) VALUES (?, ?, ?)", line)
            except _OF_SQLITE as error:  # without the frames of `_explained`, once for each charge
                raise self._sentence(error) from error
            self._position = line[:2]
        return line

    def position(self) -> tuple[int, str]:
        """Returns the sequence number and hash of the last line; 0 and `GENESIS` of an empty file."""
        with self._lock:
            if self._writer is None:  # inside a transaction no other connection can write
                self._notice_others()
            if self._position is None:
                rows = self.rows("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1")
                self._position = (rows[0][0], rows[0][1]) if rows else (0, GENESIS)
            return self._position

    def lines(self, after: int) -> list[Line]:
        """Returns the lines beyond a sequence number, in order."""
        return self.rows("SELECT sequence, hash, body FROM entries WHERE sequence > ? ORDER BY sequence", after)

    def persons(self, after: int) -> list[tuple[int, bytes]]:
        """Returns number and pseudonym of the persons beyond a number, in order."""
        return self.rows("SELECT number, pseudonym FROM persons WHERE number > ? ORDER BY number", after)

    def add_persons(self, pseudonyms: Sequence[bytes]) -> None:
        """Adds persons inside the open transaction."""
        with self._lock, self._explained():
            self._appended = True
            self._connection.executemany(
                "INSERT INTO persons (pseudonym) VALUES (?)", ((pseudonym,) for pseudonym in pseudonyms)
            )

    def cohort(self, digest: str) -> bytes | None:
        """Returns the members of a cohort, packed; None where there is none of that digest."""
        rows = self.rows("SELECT members FROM cohorts WHERE digest = ?", digest)
        return rows[0][0] if rows else None

    def add_cohort(self, digest: str, members: bytes) -> None:
        """Adds a cohort inside the open transaction, unless it is there."""
        with self._lock, self._explained():
            self._connection.execute("INSERT OR IGNORE INTO cohorts VALUES (?, ?)", (digest, members))

    def fact(self, name: str, made: bytes) -> bytes:
        """Returns a fact of the file, which is `made` where it has none yet."""
        with self.transaction(), self._explained():
            self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, made))
            [(value,)] = self.rows("SELECT value FROM facts WHERE name = ?", name)
            return bytes(value)

    def hash_of(self, sequence: int) -> str | None:
        """Returns the hash of one line; None where there is none of that number."""
        rows = self.rows("SELECT hash FROM entries WHERE sequence = ?", sequence)
        return rows[0][0] if rows else None

    def contains(self, entry_hash: str) -> bool:
        """Returns whether a line has this hash."""
        return bool(self.rows("SELECT 1 FROM entries WHERE hash = ?", entry_hash))

    def check_nothing_removed(self) -> None:
        """Raises LedgerError if the file holds fewer lines or persons than it ever numbered."""
        for table in ("entries", "persons"):
            numbered = f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'"
            [(expected, present)] = self.rows(f"SELECT COALESCE(({numbered}), 0), (SELECT COUNT(*) FROM {table})")
            if present != expected:
                raise LedgerError(
                    f"Ledger {self.path} must hold the {expected} {table} ever written to it, got {present}. "
                    "Some were removed: restore the file from a copy.",
                    code="ledger-removed",
                )

    def check_mark(self) -> None:
        """Raises LedgerError unless the file reaches its mark."""
        mark = self._marked if self._copied else self._read_mark()
        if mark is None:
            return
        entries, head = mark
        if (GENESIS if entries == 0 else self.hash_of(entries)) != head:
            raise LedgerError(
                f"Ledger {self.path} must contain line {entries} as its mark {self._mark} says, and does not: it is an "
                "older copy, or another file. Restore the latest one.",
                code="ledger-older",
            )

    def rows(self, query: str, *parameters: object) -> list[Any]:
        """Returns the rows of a query."""
        with self._lock, self._explained(), closing(self._connection.execute(query, parameters)) as cursor:
            return cursor.fetchall()

    def _copy(self, busy_timeout_s: float) -> None:
        """Takes in the whole file under SQLite's lock for readers, which needs no right to write and leaves nothing."""
        place = f"{self.path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=busy_timeout_s, isolation_level=None)) as file:
            file.execute("BEGIN")
            file.execute(
                "SELECT COUNT(*) FROM sqlite_master"
            ).fetchall()  # waits for a writer, as `backup` does not
            file.backup(self._connection)

    def _check_present(self) -> None:
        mark = self._marked
        if mark is not None and mark[0] and not self.path.exists():
            raise LedgerError(
                f"Ledger {self.path} must be there, for its mark {self._mark} says that it had {mark[0]} lines, and it "
                "is gone. Restore it from a copy; only if it is lost for good, remove the mark, and every patient's "
                "account begins anew; notes of its studies have to go too (docs/deploy.md, Backup and restore).",
                code="ledger-gone",
            )

    def _read_mark(self) -> tuple[int, str] | None:
        if self._mark is None:
            return None
        try:
            found = load_json(self._mark, _MOST_MARK_BYTES)
            return int(found["entries"]), str(found["head"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or half-written when the power went
            return None

    def _write_mark(self) -> None:
        if self._mark is None or self._copied:
            return
        entries, head = self.position()
        write_whole(self._mark, json.dumps({"entries": entries, "head": head}).encode(), durable=False)

    def _notice_others(self) -> None:
        """Forgets what is remembered of the file if another connection has written to it."""
        [(version,)] = self.rows("PRAGMA data_version")
        if version != self._seen_version:
            self._position = None
            self._seen_version = version

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
                    f"Ledger {self.path} must have schema version {SCHEMA_VERSION}, got {version}. " + _REMEDY,
                    code="ledger-version",
                )
            connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        """Undoes the open transaction; where the disk refuses this too, SQLite does it when the file is next opened."""
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of SQLite into one sentence with its remedy."""
        try:
            yield
        except _OF_SQLITE as error:
            raise self._sentence(error) from error

    def _sentence(self, error: UnicodeDecodeError | sqlite3.Error) -> LedgerError | MachineError:
        """Returns an error of SQLite in one sentence with its remedy."""
        if isinstance(error, UnicodeDecodeError):
            return LedgerError(_DAMAGED.format(self.path), code="ledger-damaged")
        if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK":
            return LedgerError(
                f"Ledger {self.path} must be whole before it is read, and a write to it was cut short. Read it "
                "once where it may be written, which undoes that write.",
                code="ledger-cut-short",
            )
        fault = of_sqlite(error, self.path) if self.path.parent.is_dir() else None
        if fault is not None:
            return fault
        if any(words in str(error) for words in _OF_DAMAGE):
            return LedgerError(_DAMAGED.format(self.path), code="ledger-damaged")
        return LedgerError(f"{_explanation(self.path, error)} (SQLite: {error}.)")


_OF_SQLITE = (UnicodeDecodeError, sqlite3.Error)
"""Errors of a statement; the first where SQLite quotes a damaged schema."""

_DAMAGED = (
    "Ledger {} must be an intact SQLite file, and is not, or could not be read once. Try again; if it is refused "
    "again, restore it from a copy."
)
_OF_DAMAGE = ("not a database", "malformed", "Could not decode")
"""Parts of SQLite's messages about a damaged file; the last one is Python's, where a text in it is no UTF-8."""

_REMEDY = (
    "Version 1 knew no persons, only data sets: keep the file, name another one, and see docs/ledger.md for taking "
    "over what was spent; any other version was written by a newer Wardround."
)


def _statements(script: str) -> Iterator[str]:
    """Yields the statements of a script one by one, as `executescript` would commit the transaction around them."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _explanation(path: Path, error: sqlite3.Error) -> str:
    message = str(error)
    if is_moved(error):
        return (
            f"Ledger {path} must stay in its place while it is open, and another file was put there. Begin again."
        )
    if not path.parent.is_dir():
        return f"Ledger {path} must lie in a folder that exists, and {path.parent} does not. Create it."
    if "locked" in message:
        return f"Ledger {path} must be free, and another process is writing to it. Try again when it has ended."
    if "append-only" in message:
        return f"Ledger {path} must only ever grow, and something tried to change it. Charge a new entry."
    return f"Ledger {path} must be readable and writable, and SQLite refused. Check the file and its disk."
