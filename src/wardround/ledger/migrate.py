"""Carries what ledgers of schema version 1 were charged over to persons of a ledger of today.

Version 1 knew hospitals and data sets, no persons. So everything that an old file says was charged is carried over as
spent by each person of a list that its holder gives: those whom the old studies could have had, at least all of the
data set at hand. Nobody's figure becomes smaller than the truth, as far as the list is whole.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from wardround.accounting.events import LeafEvent, event_of_leaves, from_json, leaves, sorted_leaves
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.boundary.documents import parse_json
from wardround.errors import LedgerError, PrivacyError
from wardround.ledger.entry import GENESIS, chained_hash
from wardround.ledger.file import LedgerFile

_Study = tuple[str, str, str, str]
"""Data set, study, unit and relation."""


def migrate(old: Path, ledger: LedgerFile, persons: Sequence[str]) -> int:
    """Charges each of these persons with everything in a ledger of version 1; returns how many studies that were.

    Of the hospitals of one study on one data set a person was in one: the greatest count of each event is taken. All
    persons are charged, beyond their limit as well. A study that was carried over to the same persons before is
    left out. The old file is only read.

    Raises:
        LedgerError: the old file is no ledger of version 1, or its chain of hashes is broken.
    """
    events: dict[_Study, Counter[LeafEvent]] = {}
    for (_, dataset, study, unit, relation), counts in _counts(old).items():
        place = (dataset, study, unit, relation)
        events[place] = events.get(place, Counter()) | counts
    carried = 0
    with ledger.transaction():
        for (dataset, study, unit, relation), counts in events.items():
            event = event_of_leaves(sorted_leaves(counts))
            carried += ledger.carry_over(
                run=f"version 1/{dataset}/{study}", study=study, persons=persons, event=event,
                unit=PrivacyUnit(unit), relation=NeighboringRelation(relation),
            )  # fmt: skip
    return carried


def _counts(old: Path) -> dict[tuple[str, str, str, str, str], Counter[LeafEvent]]:
    """Returns the events of each hospital, data set, study, unit and relation of an old file, its chains checked."""
    found: dict[tuple[str, str, str, str, str], Counter[LeafEvent]] = {}
    heads: dict[tuple[str, str], str] = {}
    for hospital, dataset, recorded, body in _rows(old):
        previous = heads.get((hospital, dataset), GENESIS)
        if chained_hash(previous, body) != recorded:
            raise LedgerError(
                f"Each line of ledger {old} must follow from the one before it, and one of {hospital} does not. The "
                "file was edited: restore it from a copy.",
                code="ledger-edited",
            )
        heads[hospital, dataset] = recorded
        try:
            line = parse_json(body)
            place = (hospital, dataset, str(line["study"]), str(line["unit"]), str(line["relation"]))
            one = Counter(dict(leaves(from_json(line["event"]))))
        except (KeyError, TypeError, ValueError, PrivacyError) as error:
            raise LedgerError(
                f"A line of ledger {old} must be one of version 1, and is not ({error}); restore it from a copy.",
                code="ledger-line",
            ) from None
        found[place] = found.get(place, Counter()) + one
    return found


def _rows(old: Path) -> list[Any]:
    try:
        with closing(sqlite3.connect(f"{old.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            [(version,)] = connection.execute("PRAGMA user_version").fetchall()
            if version == 1:
                columns = "hospital, dataset_digest, hash, body"
                return connection.execute(f"SELECT {columns} FROM entries ORDER BY id").fetchall()
    except sqlite3.Error as error:
        raise LedgerError(
            f"Ledger {old} must be a SQLite file that can be read, and is not (SQLite: {error}). Check the path.",
            code="ledger-version",
        ) from None
    raise LedgerError(
        f"A ledger to be carried over must have schema version 1, and {old} has {version}. Use a newer one as it is.",
        code="ledger-version",
    )
