"""Every account of a finished run is walked: one that was charged too little, or lacks persons, is a contradiction."""

import hmac
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from tests.cases import family
from tests.errors import raises_code
from tests.simulation.mutations import MUTATIONS, edit_ledger, signed_again
from tests.simulation.runs import InterruptingRound, interrupted, resume_run, run_study

from wardround.accounting.events import canonical_json
from wardround.audit.accounts import accounts_of
from wardround.audit.findings import CLEAN, CONTRADICTION
from wardround.audit.study import audit_run
from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError
from wardround.ledger.book import packed, unpacked
from wardround.ledger.entry import chained_hash
from wardround.ledger.file import LedgerFile
from wardround.records.folder import RunRecord
from wardround.simulation.availability import availability_of
from wardround.simulation.own_key import own_key, own_pin


@pytest.fixture(autouse=True)
def no_attack(monkeypatch):
    """The mechanism has tests of its own."""
    monkeypatch.setattr("wardround.audit.study.why_not", lambda study, plan: "not in these tests")


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def audited(run, *, key=None, ledger=None):
    return audit_run(run, own_pin(), Silent(), key=key, ledger=ledger)


def walked(run):
    return accounts_of(run, read_study(run / "study.toml"), RunRecord.read(run))


# Faults, planted in the files of a finished run ----------------------------------------------------------


def dropped(run):
    """One charge of the last round is not in the ledger."""
    edit_ledger(run, lambda line: None if _is_last(line) else line)


def too_cheap(run):
    """Every sum is charged as one with three times the noise."""

    def cheaper(line):
        if line["kind"] == "charge" and line["purpose"] == "gradient-sum":
            line["event"]["of"]["noise_multiplier"] *= 3
        return line

    edit_ledger(run, cheaper)


def of_another_run(run):
    """The account of a hospital is that of another run."""
    edit_ledger(run, lambda line: line | {"run": "another"} if _begins(line, "hospital-2") else line)


def person_missing(run):
    """A patient who was trained on is not in the cohort that is charged."""
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, ledger:
        [(key,)] = ledger.execute("SELECT value FROM facts").fetchall()
        pseudonyms = [row for (row,) in ledger.execute("SELECT pseudonym FROM persons ORDER BY number")]
        cohorts = dict(ledger.execute("SELECT digest, members FROM cohorts").fetchall())
        [[digest]] = ledger.execute(
            "SELECT body ->> 'cohort' FROM entries WHERE body ->> 'hospital' = 'hospital-1'"
        ).fetchall()
        fewer = unpacked(cohorts[digest])[:-1]
        new = hmac.digest(key, b"".join(pseudonyms[place] for place in fewer), "sha256").hex()
        ledger.execute("INSERT INTO cohorts VALUES (?, ?)", (new, packed(fewer)))
    edit_ledger(run, lambda line: line | {"cohort": new, "offered": new} if _begins(line, "hospital-1") else line)


def _is_last(line):
    return line["kind"] == "charge" and line["begun"] == 3 and line["release"] == "4/gradient-sum/1"


def _begins(line, hospital):
    return line["kind"] == "begun" and line["hospital"] == hospital


IN_THE_LEDGER = {
    dropped: "accounting, account of hospital-3: charged epsilon",
    too_cheap: "accounting, account of hospital-1: charged epsilon",
    of_another_run: "accounting, account of hospital-2: charged epsilon",
    person_missing: "accounting, account of hospital-1: ",
}


def test_accounts_of_an_honest_run_are_charged_what_they_are_owed(run):
    found = audited(run, key=own_key())
    assert (found.verdict, found.faults) == (CLEAN, ())
    accounts = [one for one in found.recounts if one.word == "charged"]
    assert [one.source for one in accounts] == [f"account of hospital-{k}" for k in (1, 2, 3)]
    assert all(one.claimed == one.again for one in accounts)
    assert all(one.lower <= one.claimed <= one.upper for one in accounts)


@pytest.mark.parametrize(
    "fault", family(IN_THE_LEDGER, keep=[dropped, person_missing]), ids=lambda fault: fault.__name__
)
def test_an_account_that_was_charged_too_little_is_named(run, fault):
    fault(run)
    found = audited(run)  # as on a machine without the key that signed the run
    assert found.verdict == CONTRADICTION
    assert any(one.startswith(IN_THE_LEDGER[fault]) for one in found.contradictions), found.contradictions
    assert any("must contain the line" in one for one in audited(run, key=own_key()).contradictions)


def test_a_ledger_without_the_run_is_bad_input_and_no_contradiction(run, tmp_path):
    own, other = run / "ledger.sqlite", tmp_path / "other.sqlite"
    for ending in ("", ".mark"):
        own.with_name(own.name + ending).rename(tmp_path / f"moved.sqlite{ending}")
    for place in (own, other):
        with LedgerFile(place):
            pass
    assert any("the certificate covers" in one for one in audited(run, ledger=tmp_path / "moved.sqlite").holds)
    for given in (None, other):
        with raises_code(RecordError, "record-other-ledger"):
            audited(run, ledger=given)


def test_no_part_of_a_run_makes_up_for_a_charge_of_another(run):
    lines = []

    def first(line):
        lines.append(line)
        return None if _is_last(line) else line

    edit_ledger(run, first)
    [begun] = [line for line in lines if _begins(line, "hospital-3")]
    again = [line for line in lines if line.get("begun") == 3 and line["kind"] == "charge"]
    number = len(lines)  # of the line that begins the second part; the one that was dropped is made up for
    more = [begun, *({**line, "begun": number} for line in again)]
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, ledger:
        [[previous]] = ledger.execute("SELECT hash FROM entries ORDER BY sequence DESC LIMIT 1").fetchall()
        for sequence, line in enumerate(more, start=number):
            previous = chained_hash(previous, canonical_json(line))
            ledger.execute("INSERT INTO entries VALUES (?, ?, ?)", (sequence, previous, canonical_json(line)))
    recounts, _ = walked(run)
    assert [one.is_contradicted for one in recounts] == [False, False, True, False]


def test_what_follows_from_the_study_alone_is_computed_once(run, monkeypatch):
    calls = []

    def counted(study):
        calls.append(study)
        return availability_of(study)

    monkeypatch.setattr("wardround.audit.accounts.availability_of", counted)
    walked(run)
    assert len(calls) == 1


SIGNED = {
    "edited ledger row": "must follow from the one before it",
    "removed round": "have one line for each round",
    "fewer releases": "count every release of the rounds",
    "smaller epsilon everywhere": "accounting, events recorded in the certificate",
    "swapped weights": "have the hash in the certificate",
}


@pytest.mark.parametrize("name", family(SIGNED))
def test_a_signed_record_that_does_not_hold_is_a_contradiction(run, name):
    MUTATIONS[name][0](run)
    signed_again(run, own_key())
    found = audited(run)
    assert found.verdict == CONTRADICTION
    assert any(SIGNED[name] in one for one in found.contradictions), found.contradictions


def test_a_record_that_is_not_as_it_was_signed_is_bad_input(run):
    MUTATIONS["fewer releases"][0](run)
    with pytest.raises(RecordError) as refused:
        audited(run)
    assert refused.value.code == "record-edited-certificate-json"


def test_a_receipt_of_fewer_releases_than_rounds_is_named(run):
    study = read_study(run / "study.toml")
    names = [f"hospital-{k}" for k in (1, 2, 3)]
    study = study.model_copy(update={"hospitals": study.hospitals.model_copy(update={"names": names})})
    rows = {name: {"releases": 4 - (name == "hospital-2"), "counts": 1} for name in names}
    (run / "receipts.json").write_text(json.dumps(rows))
    recounts, lacking = accounts_of(run, study, RunRecord.read(run))
    assert [one.source for one in recounts if one.is_contradicted] == ["receipt of hospital-2"]
    record = RunRecord.read(run)
    lines = tuple(line | ({"missing": ["hospital-2"]} if line["round"] == 2 else {}) for line in record.rounds)
    recounts, _ = accounts_of(run, study, replace(record, rounds=lines))
    assert not any(one.is_contradicted for one in recounts)
    assert lacking == []


# Honest runs of every kind -------------------------------------------------------------------------------

AWAY: dict[str, object] = {"absent_rate": 0.3, "availability_seed": 3}
LOCAL = {"strategy": "fedavg", "local_steps": 2}
HONEST: dict[str, dict[str, dict[str, object]]] = {
    "public size": {"privacy": {"num_patients": 32}},
    "unseeded": {"study": {"seed": None}},
    "masked": {"privacy": {"sum": "masked", "sampling_prob": 0.5}, "study": {"seed": None}},
    "local": {"federation": LOCAL, "privacy": {"trust": "nobody"}},
    "away": {"federation": LOCAL, "privacy": {"trust": "nobody"}, "hospitals": AWAY},
    "away, capped": {
        "federation": LOCAL,
        "privacy": {"trust": "nobody", "epsilon_limit": 6.0},
        "hospitals": AWAY,
    },
    "fraction": {"federation": {**LOCAL, "fraction": 0.5}, "privacy": {"trust": "nobody"}},
    "ring": {"federation": {"strategy": "round-robin", "local_steps": 2}, "privacy": {"trust": "nobody"}},
    "correlated": {"privacy": {"plan": "correlated-noise", "cohorts": 2}},
    "pooled": {"federation": {"strategy": "pooled"}},
    "alone": {"federation": {"strategy": "alone"}, "privacy": {"trust": "nobody", "sum": None}},
    "empty hospital": {"hospitals": {"count": 9}, "data": {"phantom": {"patients": 12, "image_size": 32}}},
    "not private": {"privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}},
}


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("kind", family(HONEST, keep=[]))
def test_no_honest_account_is_contradicted(tiny_study, tmp_path, kind):
    run_study(tiny_study(**HONEST[kind]), tmp_path / "run")
    recounts, lacking = walked(tmp_path / "run")
    assert recounts
    assert not any(one.is_contradicted for one in recounts), recounts
    assert lacking == []


@pytest.mark.thorough
@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("seed", [None, 7])
def test_resumed_runs_and_runs_on_one_ledger_are_not_contradicted(tiny_study, tmp_path, seed):
    study = tiny_study(study={"seed": seed}, privacy={"ledger": str(tmp_path / "ledger.sqlite")})
    run_study(study, tmp_path / "first")
    interrupted(study, tmp_path / "second", InterruptingRound(3))
    resume_run(tmp_path / "second")
    for name in ("first", "second"):
        recounts, lacking = walked(tmp_path / name)
        assert len(recounts) == 3
        assert not any(one.is_contradicted for one in recounts)
        assert lacking == []
    if seed is None:  # the interrupted round was charged twice
        assert all(one.claimed > one.again for one in recounts)
