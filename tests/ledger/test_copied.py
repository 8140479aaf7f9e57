"""A ledger that is only read: by another user, on a disk for reading, beside a writer, and never half-written."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.errors import raises_code
from tests.ledger.spending import AFFORDABLE, DELTA, begin, limit, spend
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import LedgerError
from wardround.ledger.file import LedgerFile

NOBODY = 65534


@pytest.fixture
def kept():
    """A ledger in a folder that every user may read, and its owner alone may write."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a ledger?.sqlite"
        with LedgerFile(path) as ledger:
            spend(begin(ledger), 2)
            limit(ledger, AFFORDABLE)
        path.chmod(0o444)
        path.with_name(f"{path.name}.mark").chmod(0o444)
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)


def by_another(function):
    """Whether a function ends well in a process of a user who may write nothing here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_ledger_is_shown_to_one_who_may_only_read(kept):
    before = {path.name: path.stat().st_mtime_ns for path in kept.parent.iterdir()}

    def show():
        for command in ("show", "verify"):
            assert CliRunner().invoke(app, ["ledger", command, "--ledger", str(kept)]).exit_code == 0

    show()  # imports what the other user may not be able to read
    assert by_another(show)
    assert not by_another(lambda: LedgerFile(kept).close()), "it takes the right to write"
    assert {path.name: path.stat().st_mtime_ns for path in kept.parent.iterdir()} == before


def test_a_copy_says_what_the_file_says_and_forgets_what_is_added(path, ledger):
    limit(ledger, AFFORDABLE)
    spend(begin(ledger), 2)
    with LedgerFile(path, copied=True) as copy:
        assert copy.position() == ledger.position()
        assert copy.epsilon_of("ada", DELTA) == ledger.epsilon_of("ada", DELTA) > 0
        limit(copy, 100.0)
        spend(begin(copy, "other"), 1)
        assert copy.position()[0] > ledger.position()[0]
    with LedgerFile(path) as again:  # its mark is its own as well
        assert again.position() == ledger.position()


def test_a_copy_does_not_wait_for_a_writer_and_has_nothing_of_an_open_write(path, ledger):
    spend(begin(ledger), 1)
    before = ledger.position()
    with ledger.transaction():
        spend(begin(ledger, "other"), 1)
        with LedgerFile(path, copied=True, busy_timeout_s=0.0) as copy:
            assert copy.position() == before


def test_a_copy_of_no_ledger_is_empty_and_makes_none(tmp_path):
    with LedgerFile(tmp_path / "none.sqlite", copied=True) as copy:
        assert copy.position()[0] == 0
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_ledger_that_is_gone_is_refused(path, ledger):
    spend(begin(ledger), 1)
    ledger.close()
    path.unlink()
    with raises_code(LedgerError, "ledger-gone"):
        LedgerFile(path, copied=True)


def test_a_write_that_was_cut_short_is_not_read(path, ledger, tmp_path):
    """The file has pages of a transaction that never ended; only who may write can undo it."""
    spend(begin(ledger), 1)
    position = ledger.position()
    ledger.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        for number in range(2000):
            writer.execute("INSERT INTO facts VALUES (?, zeroblob(500))", (str(number),))
        files = {name: (path.parent / name).read_bytes() for name in (path.name, f"{path.name}-journal")}
    for name, content in files.items():  # as the writer left them when it was killed
        (path.parent / name).write_bytes(content)
    with raises_code(LedgerError, "ledger-cut-short"):
        LedgerFile(path, copied=True)
    with LedgerFile(path) as undone:
        assert undone.position() == position
    with LedgerFile(path, copied=True) as copy:
        assert copy.position() == position
