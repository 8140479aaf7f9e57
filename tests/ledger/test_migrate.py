"""Ledgers of schema version 1: what they say was spent is carried over to persons, and never less than it."""

import json
import sqlite3
from contextlib import closing

import pytest
from tests.errors import raises_code
from tests.ledger.spending import DELTA, STEP, begin, limit, spend, steps

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, SelfComposedEvent, to_json
from wardround.errors import LedgerError
from wardround.ledger.entry import GENESIS, chained_hash
from wardround.ledger.file import LedgerFile
from wardround.ledger.migrate import migrate

SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hospital TEXT NOT NULL, dataset_digest TEXT NOT NULL,
    sequence INTEGER NOT NULL, study TEXT NOT NULL, release_id TEXT NOT NULL, hash TEXT NOT NULL, body TEXT NOT NULL,
    UNIQUE (hospital, dataset_digest, sequence)
) STRICT
"""


@pytest.fixture
def old(tmp_path):
    """A ledger of version 1, from lines of hospital, data set, study and event."""
    path = tmp_path / "old.sqlite"

    def write(*lines):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(SCHEMA)
            connection.execute("PRAGMA user_version = 1")
            heads: dict[tuple[str, str], tuple[int, str]] = {}
            for number, (hospital, dataset, study, event) in enumerate(lines):
                sequence, previous = heads.get((hospital, dataset), (0, GENESIS))
                body = json.dumps(
                    {
                        "hospital": hospital, "dataset_digest": dataset, "sequence": sequence + 1, "study": study,
                        "release_id": str(number), "attempt": 1, "purpose": "training", "event": to_json(event),
                        "seeded": False, "unit": "patient", "relation": "add-or-remove-one", "epsilon_limit": 8.0,
                        "delta": 1e-5, "accountant": "pld", "created_utc": "2025-01-01T00:00:00+00:00",
                        "version": "0.1.0", "previous": previous,
                    }
                )  # fmt: skip
                head = chained_hash(previous, body)
                heads[hospital, dataset] = (sequence + 1, head)
                row = (hospital, dataset, sequence + 1, study, str(number), head, body)
                connection.execute(
                    "INSERT INTO entries (hospital, dataset_digest, sequence, study, release_id, hash, body) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
        return path

    return write


def test_every_person_is_charged_all_that_they_could_have_been_in(ledger, old):
    """Two studies on one data set, one on a changed copy of it; of a study's hospitals a person was in one."""
    path = old(
        ("north", "a", "chest", STEP), ("north", "a", "chest", STEP), ("south", "a", "chest", STEP),
        ("south", "a", "skin", SelfComposedEvent(STEP, 3)), ("north", "b", "chest", GaussianEvent(5.0)),
    )  # fmt: skip
    before = path.read_bytes()
    assert migrate(path, ledger, ["ada", "ben"]) == 3
    for person in ("ada", "ben"):
        assert ledger.epsilon_of(person, DELTA) == pytest.approx(epsilon_of(steps(2 + 3 + 1), DELTA))
    assert ledger.epsilon_of("zoe", DELTA) == 0
    assert path.read_bytes() == before
    ledger.verify()


def test_carrying_over_twice_charges_once_and_other_persons_too(ledger, old):
    path = old(("north", "a", "chest", STEP))
    assert [migrate(path, ledger, persons) for persons in (["ada"], ["ada"], ["ben"])] == [1, 0, 1]
    assert ledger.epsilon_of("ada", DELTA) == ledger.epsilon_of("ben", DELTA) == epsilon_of(STEP, DELTA)


def test_what_was_carried_over_counts_against_the_limit_even_beyond_it(ledger, old):
    limit(ledger, 0.5)
    migrate(old(("north", "a", "chest", STEP), ("north", "a", "chest", STEP)), ledger, ["ada"])
    assert ledger.epsilon_of("ada", DELTA) > 0.5
    run = begin(ledger, persons=("ada", "ben"), foreseen=GaussianEvent(60.0))
    assert run.admitted.tolist() == [False, True]
    spend(run, 1, event=GaussianEvent(60.0))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("UPDATE entries SET body = replace(body, '5.0', '9.0') WHERE id = 1", "ledger-edited"),
        ("DELETE FROM entries WHERE id = 1", "ledger-edited"),
        ("PRAGMA user_version = 2", "ledger-version"),
        ("DROP TABLE entries", "ledger-version"),
    ],
)
def test_an_old_ledger_that_does_not_hold_is_not_carried_over(ledger, old, damage, code):
    path = old(("north", "a", "chest", STEP), ("north", "a", "chest", STEP))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    with raises_code(LedgerError, code):
        migrate(path, ledger, ["ada"])
    assert ledger.entries() == []


def test_an_old_ledger_that_is_opened_is_said_in_a_sentence_with_the_way_on(old):
    with raises_code(LedgerError, "ledger-version") as caught:
        LedgerFile(old(("north", "a", "chest", STEP)))
    assert "Version 1 knew no persons" in str(caught.value)
