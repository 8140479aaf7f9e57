"""What has to hold of a ledger whatever happens to its file and to the process that writes it."""

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ledger.spending import AFFORDABLE, LIMIT, spend

from wardround.accounting.events import (
    GaussianEvent,
    canonical_json,
)
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.file import LedgerFile


def edit(path: Path, *statements: str) -> None:
    """What someone with an SQLite shell can do."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TRIGGER entries_are_never_changed")
        connection.execute("DROP TRIGGER entries_are_never_removed")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_sqlite_itself_refuses_to_change_or_remove_an_entry(path, ledger):
    spend(ledger, 1)
    connection = sqlite3.connect(path)
    for statement in ("UPDATE entries SET study = 'x'", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE entries SET body = replace(body, '5.0', '9.0') WHERE sequence = 2"],
        ["UPDATE entries SET body = 'no json' WHERE sequence = 2"],
        ["UPDATE entries SET body = '{}' WHERE sequence = 2"],
        ["UPDATE entries SET release_id = 'other' WHERE sequence = 2"],
        ["UPDATE entries SET hash = 'other' WHERE sequence = 4"],
        ["DELETE FROM entries WHERE sequence = 2"],
        ["DELETE FROM entries WHERE sequence = 4"],
        ["DELETE FROM entries"],
        [
            "DELETE FROM entries WHERE sequence = 2",
            "UPDATE entries SET sequence = sequence - 1 WHERE sequence > 2",
        ],
    ],
)
def test_an_edited_ledger_is_noticed(path, ledger, statements):
    spend(ledger, 4)
    edit(path, *statements)
    with pytest.raises(LedgerError, match=r"removed|edited|copy"):
        ledger.verify()
    with LedgerFile(path) as file, pytest.raises(LedgerError):
        file.open("north", "digest", **LIMIT)


def test_an_edit_with_a_recomputed_hash_breaks_the_next_entry(path, ledger):
    spend(ledger, 3)
    forged = replace(ledger.entries()[1], event=GaussianEvent(500.0))
    body = canonical_json(forged.to_json())
    edit(path, f"UPDATE entries SET body = '{body}', hash = '{forged.hash}' WHERE sequence = 2")
    with pytest.raises(LedgerError, match="Entry 3"):
        ledger.verify()


def test_nothing_is_charged_to_a_ledger_that_shrank_under_a_running_process(path, ledger):
    spend(ledger, 3)
    edit(path, "DELETE FROM entries WHERE sequence = 3", "UPDATE sqlite_sequence SET seq = 2")
    with pytest.raises(LedgerError, match="edited"):
        spend(ledger, 1)


def test_an_older_copy_is_noticed_by_who_kept_the_head(path, ledger_file, ledger):
    spend(ledger, 2)
    head = ledger.head()
    ledger.verify(head)
    edit(path, "DELETE FROM entries WHERE sequence = 2", "UPDATE sqlite_sequence SET seq = 1")
    old = ledger_file.open("north", "digest", **LIMIT)
    with pytest.raises(LedgerError, match="older copy"):
        old.verify(head)


def test_what_is_no_ledger_is_said_in_a_sentence(tmp_path):
    (tmp_path / "text").write_text("this is not a database, however long one reads on " * 50)
    with pytest.raises(LedgerError, match="intact SQLite file"):
        LedgerFile(tmp_path / "text")
    with pytest.raises(LedgerError, match="folder that exists"):
        LedgerFile(tmp_path / "missing" / "ledger.sqlite")
    with pytest.raises(LedgerError, match="can be written"):
        LedgerFile(tmp_path)


def test_a_ledger_of_another_version_is_not_touched(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="schema version 1, got 99"):
        LedgerFile(path)


def test_a_full_disk_charges_nothing(ledger_file, ledger):
    spend(ledger, 1)
    ledger_file._store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(LedgerError, match="disk is full"), ledger_file.transaction():
        spend(ledger, 200, event=GaussianEvent(5_000.0))
    ledger_file._store._connection.execute("PRAGMA max_page_count = 100000")
    assert len(ledger.entries()) == 1
    ledger.verify()


def test_a_busy_ledger_is_said_in_a_sentence(path, ledger_file, ledger):
    with LedgerFile(path, busy_timeout_s=0.05) as other:
        waiting = other.open("north", "digest", **LIMIT)
        with ledger_file.transaction(), pytest.raises(LedgerError, match="another process is writing"):
            spend(waiting, 1)
    spend(ledger, 1)


def test_what_is_written_is_flushed_to_the_disk(ledger_file):
    [(synchronous,)] = ledger_file._store._connection.execute("PRAGMA synchronous").fetchall()
    [(journal,)] = ledger_file._store._connection.execute("PRAGMA journal_mode").fetchall()
    assert (synchronous, journal) == (3, "delete")  # EXTRA


KILLED = """
import os, signal, sys
from wardround.accounting.events import GaussianEvent
from wardround.ledger.file import LedgerFile
file = LedgerFile(sys.argv[1])
ledger = file.open("north", "digest", epsilon_limit=2.0, delta=1e-5)
ledger.charge(GaussianEvent(5.0), study="study", release_id="charged", purpose="training")
with file.transaction():
    ledger.charge(GaussianEvent(5.0), study="study", release_id="never ended", purpose="training")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_before_the_release_has_paid_for_it(path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with LedgerFile(path) as file:
        ledger = file.open("north", "digest", **LIMIT)
        assert [entry.release_id for entry in ledger.entries()] == ["charged"]


def charge_until_refused(path, name, results):
    with LedgerFile(path) as file:
        ledger = file.open("north", "digest", epsilon_limit=2.0, delta=1e-5)
        done = 0
        try:
            while done < 1_000:
                ledger.charge(GaussianEvent(5.0), study=name, release_id=str(done), purpose="training", planned=7)
                done += 1
        except BudgetExhausted:
            pass
    results.put(done)


def test_two_processes_cannot_spend_the_same_budget(path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    writers = [
        context.Process(target=charge_until_refused, args=(path, f"writer-{number}", results))
        for number in range(3)
    ]
    for writer in writers:
        writer.start()
    done = [results.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join(timeout=60)
    results.close()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with LedgerFile(path) as file:
        ledger = file.open("north", "digest", **LIMIT)
        assert len(ledger.entries()) == sum(done) == AFFORDABLE
