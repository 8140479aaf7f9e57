"""A record holds as its maker signed it, and is refused after any change, whoever signs the change."""

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from tests.cases import family
from tests.simulation.killed import Killed, KilledWrite
from tests.simulation.mutations import MUTATIONS, code_of, signed_again, verified
from tests.simulation.runs import resume_run

from wardround.boundary.private import write_whole
from wardround.records.added import write_page
from wardround.records.folder import RunRecord
from wardround.records.signed import check_signed
from wardround.records.signer import PAGE, RECORD
from wardround.report.write import write_report
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.simulation.own_key import own_key, own_pin


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_record_is_refused_by_its_name(run, name):
    change, code, _ = MUTATIONS[name]
    change(run)
    assert code_of(verified, run) == code


@pytest.mark.parametrize("name", family(MUTATIONS, keep=["edited ledger row", "smaller epsilon everywhere"]))
def test_a_changed_record_signed_by_another_key_is_refused(run, name):
    MUTATIONS[name][0](run)
    signed_again(run, SigningKey.new(os.urandom))
    assert code_of(verified, run) == "record-key"


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_its_own_maker_signs_must_hold_together(run, name):
    change, _, code = MUTATIONS[name]
    change(run)
    signed_again(run, own_key())
    assert code_of(verified, run) == code


@pytest.mark.parametrize("name", family(["smaller epsilon", "edited results", "added round", "another study"]))
@pytest.mark.parametrize("command", ["report", "resume", "verify"])
def test_no_command_prints_what_does_not_hold(run, wardround, name, command):
    MUTATIONS[name][0](run)
    page = run / PAGE
    if not page.exists():
        page.write_text("as it was")
    before = page.read_bytes()
    ended = wardround(command, run)
    assert (ended.code, ended.out) == (2, "")
    assert ended.error.code == MUTATIONS[name][1]
    assert page.read_bytes() == before
    signed_again(run, SigningKey.new(os.urandom))
    assert wardround(command, run).error.code == "record-key"


def test_an_unchanged_record_holds_signed_again_or_not(run):
    assert code_of(verified, run) is None
    signed_again(run, own_key())
    assert code_of(verified, run) is None


def test_an_edited_or_missing_signature_is_refused(run):
    body = json.loads((run / RECORD).read_text())
    for changed in ({"ledger": "0" * 64}, {"signature": "0" * 128}, {"format": "another"}, {"public_key": "beef"}):
        (run / RECORD).write_text(json.dumps(body | changed))
        assert code_of(verified, run) == "record-signature"
    (run / RECORD).write_text(json.dumps(body | {"rounds": "four"}))
    assert code_of(verified, run) == "record-signature"
    (run / RECORD).unlink()
    assert code_of(verified, run) == "record-unsigned"


# The page ------------------------------------------------------------------------------------------------


def test_the_page_is_signed_and_an_edited_one_is_refused(run):
    write_page(run, b"epsilon = 8.00", own_key())
    assert verified(run).unchecked == ()
    (run / PAGE).write_bytes(b"epsilon = 0.01")
    assert code_of(verified, run) == "record-edited-report-html"
    assert code_of(resume_run, run) == "record-edited-report-html"
    (run / PAGE).unlink()  # it can be drawn again
    verified(run)
    write_page(run, b"epsilon = 8.00, drawn anew", own_key())
    assert verified(run).unchecked == ()


def test_a_page_that_nobody_signed_is_said(run):
    signed_again(run, own_key())
    (run / PAGE).write_bytes(b"a page")
    [said] = verified(run).unchecked
    assert said.startswith("report.html: it is not signed")


def test_another_person_leaves_the_page_as_its_maker_signed_it(run):
    write_page(run, b"as signed", own_key())
    record = (run / RECORD).read_bytes()
    for key in (None, SigningKey.new(os.urandom)):
        write_page(run, b"drawn by another version", key)
        assert ((run / PAGE).read_bytes(), (run / RECORD).read_bytes()) == (b"as signed", record)
    (run / PAGE).unlink()
    write_page(run, b"as signed", None)
    assert verified(run).unchecked == ()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_page_killed_between_two_writes_leaves_a_record_that_holds(run, monkeypatch, moment, after):
    write_page(run, b"first", own_key())
    monkeypatch.setattr("wardround.records.added.write_whole", KilledWrite(moment, after=after).of(write_whole))
    with pytest.raises(Killed):
        write_page(run, b"second", own_key())
    assert (run / PAGE).read_bytes() in (b"first", b"second")
    verified(run)


# What is shared ------------------------------------------------------------------------------------------


def test_the_signed_files_alone_hold_on_another_machine(run, tmp_path, wardround, monkeypatch):
    """A reader has what the record names, and the maker's public key from elsewhere: no ledger, no patients."""
    names = json.loads((run / RECORD).read_text())
    shared = tmp_path / "shared"
    (shared / "checkpoints").mkdir(parents=True)
    for name in (RECORD, *names["files"], *(f"checkpoints/{name}" for name in names["checkpoints"])):
        shutil.copy(run / name, shared / name)
    Pins({"anna": own_key().public}).write(tmp_path / "pins.toml")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    assert wardround("verify", shared).error.code == "record-key"
    ended = wardround("verify", shared, "--pins", tmp_path / "pins.toml", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["signer"], found["finished"]) == ("anna", True)
    assert found["unchecked"] == ["charges: the ledger is not here (--ledger)"]
    assert wardround("report", shared, "--pins", tmp_path / "pins.toml").code == 0
    with_ledger = wardround("verify", shared, "--pins", tmp_path / "pins.toml", "--ledger", run / "ledger.sqlite")
    assert with_ledger.code == 0, with_ledger.err


@pytest.mark.usefixtures("without_charts")
def test_no_private_file_is_signed_and_no_time_and_no_open_head_is_shared(run):
    body = json.loads((run / RECORD).read_text())
    private = {"own.html", "patients.csv", "ledger.json", "ledger.sqlite", "hospitals.log"}
    assert private & {path.name for path in run.iterdir()} >= private - {"hospitals.log"}
    assert not private & body["files"].keys()
    assert all("seconds" not in line for line in (run / "rounds.jsonl").read_text().splitlines())
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        heads = [head for (head,) in ledger.execute("SELECT hash FROM entries")]
    write_report(RunRecord.read(run))
    shared = b"".join((run / name).read_bytes() for name in (RECORD, *body["files"], "report.html"))
    assert not [head for head in heads if head.encode() in shared or head[:12].encode() in shared]


def test_the_key_is_its_owners_alone_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert own_pin() == {}
    first = own_key().public
    path = tmp_path / "wardround" / "record-key.pem"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert own_key().public == first


def test_checking_changes_nothing(run):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}

    before = stamps()
    check_signed(run, own_pin())
    assert stamps() == before
