"""The commands about ledgers: what they print, what they leave alone, and how they refuse."""

import json
import math
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, SelfComposedEvent, to_json
from wardround.ledger.entry import GENESIS, chained_hash
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.simulation.own_key import NAME

DELTA = 1e-5
EVENT = GaussianEvent(2.0)


def charge(persons, name="a study", *, path=None, ended=True):
    """One run of some persons, charged once."""
    with LedgerFile(path or own_ledger()) as ledger:
        account = ledger.begin(
            run=os.urandom(8).hex(), study=name, name=name, hospital="north", persons=persons,
            foreseen=SelfComposedEvent(EVENT, 2), epsilon=math.inf, delta=DELTA,
        )  # fmt: skip
        account.charge(EVENT, release="1", purpose="gradient-sum")
        if ended:
            account.end()


def epsilon(runs):
    return epsilon_of(SelfComposedEvent(EVENT, runs), DELTA)


@pytest.fixture
def pictures(make_pictures, tmp_path):
    """A folder of six patients, p00 to p05."""
    return make_pictures(tmp_path / "pictures", patients=6)


def files(folder):
    """All files but the key of all tests."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != NAME}


def test_show_counts_the_persons_of_a_folder_and_no_others(wardround, pictures):
    charge(["p00", "p01", "a stranger"])
    charge(["p00", "another"], "a later study")
    charge(["not in the folder"], "elsewhere")
    found = json.loads(wardround("ledger", "show", "--data", pictures, "--json").out)
    assert (found["persons"], found["strangers"], found["limit"]) == (2, 4, None)
    assert found["greatest_epsilon"] == pytest.approx(epsilon(2), rel=1e-3)
    assert found["greatest_epsilon"] >= epsilon(2) * (1 - 1e-9)
    assert [run["study"] for run in found["runs"]] == ["a study", "a later study"]
    everybody = json.loads(wardround("ledger", "show", "--json").out)
    assert (everybody["persons"], everybody["studies"]) == (5, 3)


def test_show_takes_a_study_and_an_archive_as_well_as_the_folder(wardround, pictures, study_file, tmp_path):
    charge(["p00", "p01"])
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    study = study_file(data={"layout": "folder", "path": str(pictures), "phantom": None})
    found = [
        json.loads(wardround("ledger", "show", "--data", p, "--json").out) for p in (pictures, archive, study)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["persons"] == 2


def test_show_of_a_study_looks_into_the_ledger_that_it_names(wardround, pictures, study_file, tmp_path):
    charge(["p00"], path=tmp_path / "other.sqlite")
    study = study_file(
        data={"layout": "folder", "path": str(pictures), "phantom": None},
        privacy={"ledger": str(tmp_path / "other.sqlite")},
    )
    assert json.loads(wardround("ledger", "show", "--data", study, "--json").out)["persons"] == 1


def test_generated_patients_are_nobody(wardround, study_file):
    charge(["patient-00000", "patient-00001"])
    assert json.loads(wardround("ledger", "show", "--data", study_file(), "--json").out)["persons"] == 0


def test_show_makes_no_ledger(wardround, pictures, own_state):
    found = json.loads(wardround("ledger", "show", "--data", pictures, "--json").out)
    assert (found["persons"], found["greatest_epsilon"], found["limit"]) == (0, 0.0, None)
    assert files(own_state) == {}


def test_show_says_what_was_spent_and_what_remains(wardround):
    charge(["one", "two"])
    charge(["one"], "[bold]later\x1b[31m", ended=False)
    wardround("ledger", "set-limit", 20, "--delta", DELTA, "--by", "Anna", "--reason", "agreed\nin June")
    said = wardround("ledger", "show").out
    assert "\x1b" not in said
    assert "[bold]later" in said, "brackets in a name are no markup"
    assert "(not ended: what it is expected to spend is kept)" in said
    [limit] = [line for line in said.splitlines() if "set by Anna: agreed" in line]
    assert limit.endswith("in June"), "a line break in a reason breaks no line"
    rows = {line.split("  ")[0]: line for line in said.splitlines()}
    assert f"epsilon = {math.ceil(epsilon(2) * 100) / 100:.2f} at delta = 1e-05" in rows["greatest person"]
    assert f"epsilon = {math.floor((20 - epsilon(2)) * 100) / 100:.2f} at" in rows["remains"]


def test_a_limit_is_set_by_a_person_with_a_reason(wardround):
    ended = wardround("ledger", "set-limit", 8, "--delta", DELTA, "--by", "Anna", "--reason", "agreed", "--json")
    assert json.loads(ended.out)["limit"] == 8
    with LedgerFile(own_ledger()) as ledger:
        assert ledger.limit is not None
        assert (ledger.limit.epsilon, ledger.limit.by, ledger.limit.reason) == (8, "Anna", "agreed")
    wardround("ledger", "set-limit", "inf", "--delta", DELTA, "--by", "Anna", "--reason", "a mistake")
    with LedgerFile(own_ledger()) as ledger:
        assert ledger.limit is None
    for arguments in ((8, "--by", " "), (0, "--by", "Anna"), ("nan", "--by", "Anna")):
        refused = wardround("ledger", "set-limit", *arguments, "--delta", DELTA, "--reason", "agreed")
        assert (refused.code, refused.error.code) == (2, "privacy")


def test_verify_finds_a_changed_line_and_an_older_copy(wardround, tmp_path):
    charge(["one"])
    head = json.loads(wardround("ledger", "verify", "--json").out)["head"]
    shutil.copy(own_ledger(), tmp_path / "old.sqlite")
    charge(["one"])
    later = json.loads(wardround("ledger", "verify", "--head", head, "--json").out)
    assert later["head"] != head
    refused = wardround("ledger", "verify", "--ledger", tmp_path / "old.sqlite", "--head", later["head"])
    assert (refused.code, refused.error.code) == (2, "ledger-older")


def test_a_run_that_is_given_up_keeps_nothing_any_more(wardround):
    charge(["one"], ended=False)
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(epsilon(2) * 1.02, DELTA, by="Anna", reason="enough for one run")

    def is_admitted():
        with LedgerFile(own_ledger()) as ledger:
            account = ledger.begin(
                run=os.urandom(8).hex(), study="s", name="s", hospital="h", persons=["one"],
                foreseen=GaussianEvent(20.0), epsilon=math.inf, delta=DELTA,
            )  # fmt: skip
            account.end()
            return bool(account.admitted.all())

    assert not is_admitted()
    [run, *_] = json.loads(wardround("ledger", "show", "--json").out)["runs"]
    ended = wardround("ledger", "end", run["line"])
    assert "nothing is kept for it any more" in ended.out
    assert is_admitted(), "what it was charged stays, what it was not is free"
    again = wardround("ledger", "end", run["line"])
    assert (again.code, again.error.code) == (2, "ledger-no-run")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "--ledger", "gone.sqlite"), "ledger-missing"),
        (("verify",), "ledger-missing"),
        (("end", 1), "ledger-missing"),
        (("show", "--data", "gone"), "data"),
        (("show", "--data", "gone.toml"), "study-no-file"),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_what_is_not_there_is_said_in_one_sentence(wardround, tmp_path, monkeypatch, arguments, code, own_state):
    monkeypatch.chdir(tmp_path)
    refused = wardround("ledger", *arguments)
    assert (refused.code, refused.error.code, refused.out) == (2, code, "")
    assert files(tmp_path) == files(own_state) == {}


def test_a_ledger_that_is_gone_is_no_empty_one(wardround):
    charge(["one"])
    own_ledger().unlink()
    refused = wardround("ledger", "show")
    assert (refused.code, refused.error.code) == (2, "ledger-gone")


def test_a_rehearsal_is_stamped_and_charges_nobody(wardround, pictures, study_file, tmp_path, without_charts):
    study = study_file(
        study={"seed": None},
        data={"layout": "folder", "path": str(pictures), "phantom": None, "test_fraction": 0.5},
        hospitals={"count": 2}, privacy={"num_patients": 4, "ledger": str(tmp_path / "study.sqlite")},
        federation={"rounds": 2},
    )  # fmt: skip
    for name, options in (("rehearsal", ["--rehearsal"]), ("first", []), ("second", [])):
        said = wardround("run", study, "--out", tmp_path / name, *options).out
        page = (tmp_path / name / "report.html").read_text()
        certificate = json.loads((tmp_path / name / "certificate.json").read_text())
        card = json.loads((tmp_path / name / "model.json").read_text())
        if options:
            assert not (tmp_path / "study.sqlite").exists()
            assert certificate["standing"] == "rehearsal"
            assert "Rehearsal: this run was charged to a ledger of its own" in said
            assert "<strong>Rehearsal</strong>" in page
            assert card["statement"].endswith("[rehearsal: charged to no account]")
        else:
            assert certificate["standing"] == "lasting"
            assert "ehearsal: " not in said
            assert "<strong>Rehearsal</strong>" not in page
            assert str(tmp_path / "study.sqlite") in said
            assert "study.sqlite counts all studies" in page
            assert str(tmp_path) not in page
    account = json.loads(wardround("report", tmp_path / "second", "--json").out)["account"]
    assert account["runs"] == 2
    assert account["together"]["epsilon"] > 8.5
    assert "All 2 runs on these patients together" in page
    assert "Together with 1 other run on these patients" in said


def test_what_a_stage_says_is_no_markup(tmp_path):
    from io import StringIO

    from rich.console import Console

    from wardround.cli.terminal import Terminal

    written = StringIO()
    Terminal(Console(file=written)).stage("reading /data/[red]x[/red]")
    assert "reading /data/[red]x[/red]" in written.getvalue()


def test_a_ledger_of_version_1_is_carried_over_to_the_persons_of_a_folder(wardround, pictures, tmp_path):
    old = tmp_path / "old.sqlite"
    body = json.dumps(
        {"study": "an old study", "unit": "patient", "relation": "add-or-remove-one", "event": to_json(EVENT)}
    )
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, hospital, dataset_digest, hash, body)")
        connection.execute("PRAGMA user_version = 1")
        row = ("north", "da7a", chained_hash(GENESIS, body), body)
        connection.execute("INSERT INTO entries (hospital, dataset_digest, hash, body) VALUES (?, ?, ?, ?)", row)
    refused = wardround("ledger", "show", "--ledger", old)
    assert (refused.code, refused.error.code) == (2, "ledger-version")
    for carried in (1, 0):
        said = json.loads(wardround("ledger", "migrate", old, "--data", pictures, "--json").out)
        assert (said["studies"], said["persons"]) == (carried, 6)
        found = json.loads(wardround("ledger", "show", "--data", pictures, "--json").out)
        assert found["persons"] == 6
        assert found["greatest_epsilon"] == pytest.approx(epsilon(1), rel=1e-3)
