"""What has to hold of a ledger whatever happens to its file and to the processes that write it."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.charges import charges_of
from tests.errors import raises_code
from tests.ledger.spending import AFFORDABLE, DELTA, STEP, THREE, begin, limit, spend, steps

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, canonical_json
from wardround.errors import LedgerError, MachineError
from wardround.ledger.entry import GENESIS, LimitSet, body_of, chained_hash, entry_of
from wardround.ledger.file import LedgerFile
from wardround.ledger.store import SCHEMA_VERSION

TABLES = ("entries", "persons", "cohorts", "facts")
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # a killed process loses nothing of it


def edit(path: Path, *statements: str) -> None:
    """What someone with an SQLite shell can do."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in TABLES:
            for action in ("updated", "deleted"):
                connection.execute(f"DROP TRIGGER IF EXISTS {table}_never_{action}")
        for statement in statements:
            connection.execute(statement)


def mark_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.mark")


def a_ledger(file: LedgerFile):
    """Two runs with persons of their own, and a limit: lines 1 to 7."""
    run = begin(file)
    spend(run, 2)
    limit(file, 9.0)
    spend(begin(file, "other", persons=("ada", "dan")), 1)
    run.end()
    return run


# Edits ---------------------------------------------------------------------------------------------------


def test_sqlite_itself_refuses_to_change_or_remove_a_row(path, ledger):
    a_ledger(ledger)
    columns = {"entries": "body", "persons": "number", "cohorts": "digest", "facts": "name"}
    with closing(sqlite3.connect(path)) as connection:
        for table, column in columns.items():
            for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    connection.execute(statement)


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE entries SET body = replace(body, '5.0', '9.0') WHERE sequence = 2"],
        ["UPDATE entries SET body = 'no json' WHERE sequence = 2"],
        ["UPDATE entries SET body = '{}' WHERE sequence = 2"],
        ["UPDATE entries SET hash = 'other' WHERE sequence = 4"],
        ["DELETE FROM entries WHERE sequence = 2"],
        ["DELETE FROM entries WHERE sequence = 7"],
        ["DELETE FROM entries WHERE sequence = 7", "UPDATE sqlite_sequence SET seq = 6 WHERE name = 'entries'"],
        ["DELETE FROM entries"],
        [
            "DELETE FROM entries WHERE sequence = 2",
            "UPDATE entries SET sequence = sequence - 1 WHERE sequence > 2",
        ],
        ["DELETE FROM cohorts"],
        ["UPDATE cohorts SET members = x'00'"],
        ["UPDATE cohorts SET members = (SELECT members FROM cohorts ORDER BY rowid DESC LIMIT 1)"],
        ["DELETE FROM persons WHERE number = 1"],
        ["DELETE FROM persons WHERE number = 4"],
        [
            "DELETE FROM persons WHERE number = 1",
            "UPDATE persons SET number = number - 1",
            "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'persons'",
        ],
        ["UPDATE persons SET pseudonym = zeroblob(16) WHERE number = 2"],
        ["UPDATE facts SET value = randomblob(32)"],
        ["DELETE FROM facts"],
    ],
)
def test_an_edited_ledger_is_noticed(path, statements):
    """Lines, persons, cohorts, and the key that persons are known by: with another key everybody were a stranger."""
    with LedgerFile(path) as ledger:
        run = a_ledger(ledger)
    edit(path, *statements)
    with pytest.raises(LedgerError, match=r"restore|Restore|copy"), LedgerFile(path):
        pass
    assert run.begun == 1


@pytest.mark.parametrize("statement", ["DELETE FROM cohorts", "DELETE FROM persons WHERE number = 2"])
def test_verify_reads_everything_anew(path, ledger, statement):
    a_ledger(ledger)
    ledger.verify()
    edit(path, statement)
    with pytest.raises(LedgerError):
        ledger.verify()


def test_an_edit_with_a_recomputed_hash_breaks_the_next_line(path, ledger):
    spend(begin(ledger), 3)
    lines = [None, *ledger.entries()]
    body = body_of(lines[2]).replace("5.0", "500.0")
    forged = chained_hash(ledger.head_after(1) or "", body)
    edit(path, f"UPDATE entries SET body = '{body}', hash = '{forged}' WHERE sequence = 2")
    with raises_code(LedgerError, "ledger-edited") as caught:
        ledger.verify()
    assert "Line 3" in str(caught.value)


def test_nothing_is_charged_to_a_ledger_that_shrank_under_a_running_process(path, ledger):
    run = begin(ledger)
    spend(run, 3)
    edit(
        path, "DELETE FROM entries WHERE sequence = 4", "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'entries'"
    )
    with raises_code(LedgerError, "ledger-edited"):
        spend(run, 1)


# Copies that were put back, and files that are gone --------------------------------------------------------


def test_an_older_copy_of_the_file_is_noticed_by_its_mark(path, tmp_path):
    with LedgerFile(path) as ledger:
        run = begin(ledger)
        spend(run, 1)
        shutil.copy(path, tmp_path / "older")
        spend(run, 1)
    shutil.copy(tmp_path / "older", path)
    with raises_code(LedgerError, "ledger-older"):
        LedgerFile(path)


def test_an_older_copy_with_its_mark_is_noticed_by_a_head_kept_elsewhere(path, tmp_path):
    with LedgerFile(path) as ledger:
        run = begin(ledger)
        spend(run, 1)
        shutil.copytree(path.parent, tmp_path / "older")
        spend(run, 1)
        _, head = ledger.position()
    for name in (path.name, mark_of(path).name):
        shutil.copy(tmp_path / "older" / name, path.parent / name)
    with LedgerFile(path) as ledger:
        ledger.verify(GENESIS)
        with raises_code(LedgerError, "ledger-older"):
            ledger.verify(head)


def test_a_copy_put_back_under_a_running_process_is_charged_nothing(path, tmp_path):
    """SQLite refuses to write to a file that was moved away."""
    with LedgerFile(path) as ledger:
        run = begin(ledger)
        spend(run, 1)
        shutil.copy(path, tmp_path / "older")
        (tmp_path / "older").replace(path)
        with pytest.raises(LedgerError, match="stay in its place"):
            spend(run, 1)
    with LedgerFile(path) as ledger:
        assert ledger.epsilon_of("ada", DELTA) == epsilon_of(STEP, DELTA)


def test_a_ledger_that_is_gone_is_not_begun_anew(path):
    with LedgerFile(path) as ledger:
        spend(begin(ledger), 1)
    path.unlink()
    with raises_code(LedgerError, "ledger-gone"):
        LedgerFile(path)
    assert not path.exists()


def test_a_mark_that_was_half_written_or_lost_costs_nothing(path):
    with LedgerFile(path) as ledger:
        spend(begin(ledger), 1)
    for content in (b'{"entries"', b"", None):
        mark_of(path).unlink() if content is None else mark_of(path).write_bytes(content)
        with LedgerFile(path) as ledger:
            assert ledger.epsilon_of("ada", DELTA) == epsilon_of(STEP, DELTA)


def test_a_charge_stands_whose_mark_could_not_be_written(path, ledger):
    run = begin(ledger)
    mark_of(path).unlink()
    mark_of(path).mkdir()
    with raises_code(MachineError, "machine-path"):
        spend(run, 1)
    assert len(charges_of(run)) == 1


# What is no ledger ---------------------------------------------------------------------------------------


def test_what_is_no_ledger_is_said_in_a_sentence(tmp_path):
    (tmp_path / "text").write_text("this is not a database, however long one reads on " * 50)
    with pytest.raises(LedgerError, match="intact SQLite file"):
        LedgerFile(tmp_path / "text")
    with pytest.raises(LedgerError, match="folder that exists"):
        LedgerFile(tmp_path / "missing" / "ledger.sqlite")
    with raises_code(MachineError, "machine-path"):
        LedgerFile(tmp_path)


@pytest.mark.parametrize("text", [b"CREATE TRIGGER", b"_never_deleted", b'"event"', b'"begun"'])
def test_a_byte_that_is_no_letter_in_a_text_of_a_ledger_is_damage(path, ledger, text):
    spend(begin(ledger), 1)
    ledger.close()
    content = bytearray(path.read_bytes())
    assert text in content
    content[content.index(text) + 2] = 0xBD
    path.write_bytes(content)
    with raises_code(LedgerError, "ledger-damaged"), LedgerFile(path) as opened:
        opened.verify()


@pytest.mark.parametrize("version", [1, 99])
def test_a_ledger_of_another_version_is_not_touched(path, version):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with raises_code(LedgerError, "ledger-version") as caught:
        LedgerFile(path)
    assert f"schema version {SCHEMA_VERSION}, got {version}" in str(caught.value)
    assert path.read_bytes() == before


def test_a_full_disk_charges_nothing(ledger):
    run = begin(ledger, epsilon=20.0, foreseen=steps(300, GaussianEvent(5_000.0)))
    spend(run, 1)
    connection = ledger._chain.store._connection
    connection.execute("PRAGMA max_page_count = 1")
    with raises_code(MachineError, "machine-full"), ledger.transaction():
        spend(run, 200, event=GaussianEvent(5_000.0), first=1)
    connection.execute("PRAGMA max_page_count = 100000")
    assert len(charges_of(run)) == 1
    assert ledger.epsilon_of("ada", DELTA) == epsilon_of(STEP, DELTA)
    ledger.verify()


def test_a_busy_ledger_is_said_in_a_sentence(path, ledger):
    run = begin(ledger)
    with LedgerFile(path, busy_timeout_s=0.05) as other:
        waiting = begin(other)
        with ledger.transaction(), pytest.raises(LedgerError, match="another process is writing"):
            spend(waiting, 1)
    spend(run, 1)


def test_what_is_written_is_flushed_to_the_disk(ledger):
    connection = ledger._chain.store._connection
    [(synchronous,)] = connection.execute("PRAGMA synchronous").fetchall()
    [(journal,)] = connection.execute("PRAGMA journal_mode").fetchall()
    assert (synchronous, journal) == (3, "delete")  # EXTRA


def test_a_ledger_in_memory_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with LedgerFile(":memory:") as ledger:
        spend(begin(ledger), 1)
        ledger.verify()
    assert not list(tmp_path.iterdir())


# Processes -----------------------------------------------------------------------------------------------


def run_module(name: str, *arguments: str):
    """What a module beside this one prints, as JSON; it gets a folder in memory."""
    with TemporaryDirectory(dir=MEMORY) as folder:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.ledger.{name}", folder, *arguments],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_writer_killed_at_any_write_has_paid_for_all_that_left(every):
    """Whatever left is in the ledger, at most one round more; a next writer finds a whole ledger and goes on."""
    cases = run_module("killed", str(every))
    assert {case["code"] for case in cases} >= {0, 1, -9, -25}
    assert {case["left"] for case in cases} == {0, 1, 2, 3} or every > 1
    for case in cases:
        assert case["left"] <= case["charged"] <= case["left"] + 1, case
        assert case["after"] == 2 * 3, case


@pytest.mark.thorough
def test_processes_cannot_spend_the_same_budget_twice():
    """Some charge one run until it is refused, others begin studies that the limit has no room for all of.

    It is as if one had come after the other.
    """
    found = run_module("racing")
    assert sum(found["charged"]) == found["in_ledger"] == AFFORDABLE
    assert 0 < sum(found["admitted"]) == sum(found["in_turn"]) < 4
    assert found["epsilon"] <= found["limit"]
    assert found["persons"] == len(THREE)


def test_a_line_is_the_canonical_json_of_its_fields(ledger):
    run = begin(ledger, seeded=True)
    spend(run, 2)
    run.answer_once("round 1", 'ä "quoted" \\ answer')
    run.end()
    ledger.unprotected(run="r", study="s", persons=["p"], purpose="metrics")
    ledger.set_limit(3, 1e-5, by="ä", reason="a\nreason")
    ledger.set_limit(float("inf"), 1e-5, by="b", reason="none")
    for entry in ledger.entries():
        body = body_of(entry)
        assert body == canonical_json(json.loads(body))
        assert entry_of(body) == entry
        assert json.loads(body).keys() == {"kind", *entry.__slots__}
    assert '"epsilon":3.0' in body_of(LimitSet(3, 1e-5, "a", "b", "now"))
