"""Whole runs on the lasting ledger of the person who simulates: what all of them together cost each patient."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from tests.charges import charges_in
from tests.errors import raises_code

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent, Event, GaussianEvent, from_json
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, FederationError, LedgerError, RecordError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.ledger.spending import spending_of
from wardround.simulation.accounts import Accounts
from wardround.simulation.materials import gather
from wardround.simulation.run import resume_run, run_study

DELTA = 1e-3
EARLIER = 0.5  # noise multiplier of an earlier study


class Stopping(Silent):
    """Stops in one round: its releases are made, and the coordinator remembers nothing of them."""

    def __init__(self, round):
        self.round = round

    def progress(self, done, total, detail=""):
        if total == 4 and done == self.round:
            raise KeyboardInterrupt


class Listening(Silent):
    """Remembers what is said on the screen."""

    def __init__(self):
        self.said = []

    def stage(self, text):
        self.said.append(text)


@pytest.fixture
def study_of(tiny_study, make_pictures, tmp_path):
    """A study of 24 tiny pictures of one patient each; unseeded, unless it says otherwise."""
    data = make_pictures(tmp_path / "pictures")

    def make(study=None, privacy=None, **sections):
        return tiny_study(
            study={"seed": None} | (study or {}), data={"layout": "folder", "path": str(data)},
            privacy={"epsilon": 3.0, "num_patients": 20} | (privacy or {}), **sections,
        )  # fmt: skip

    return make


def run(study, out, observer=None, **options) -> Any:
    return run_study(study, out, observer or Silent(), **options)


def resumed(out) -> Any:
    return resume_run(out, Silent())


def stopped(study, out, round=3):
    with pytest.raises(KeyboardInterrupt):
        run(study, out, Stopping(round))


def read(path):
    return json.loads(path.read_text())


def limit(epsilon):
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(epsilon, DELTA, by="a test", reason="enough")


def trained(study):
    """The patients who train, by hospital."""
    places = gather(study, Silent()).split.hospitals
    return {name: [patient.id for patient in patients] for name, patients in places.items()}


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# What is spent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others",
    [
        [{"study": {"name": "again"}}, {"study": {"name": "third"}}],
        [{"hospitals": {"count": 2}}, {"hospitals": {"count": 5}}],
        [{"hospitals": {"split_seed": 1}}, {"hospitals": {"split_seed": 2}}],
        [{"federation": {"strategy": "pooled"}}, {"hospitals": {"count": 4}}],
    ],
    ids=["renamed", "count", "split seed", "pooled"],
)
def test_runs_on_the_same_patients_add_up_whatever_they_are_called_and_however_dealt(study_of, tmp_path, others):
    """Each patient's figure is the direct composition of the certified events of the runs that they trained in."""
    events: dict[str, list[Event]] = {}
    for number, sections in enumerate([{}, *others]):
        study = study_of(**sections)
        certificate = run(study, tmp_path / str(number)).certificate
        for patients in trained(study).values():
            for patient in patients:
                events.setdefault(patient, []).append(from_json(certificate["event"]))
    direct = {patient: epsilon_of(ComposedEvent(tuple(each)), DELTA) for patient, each in events.items()}
    with LedgerFile(own_ledger()) as ledger:
        for patient, epsilon in direct.items():
            assert ledger.epsilon_of(patient, DELTA) == pytest.approx(epsilon, rel=1e-6)
        found = spending_of(ledger, delta=DELTA)
    assert max(map(len, events.values())) == 3
    greatest = max(direct.values())
    assert greatest <= found.greatest * (1 + 1e-9)
    assert found.greatest == pytest.approx(greatest, rel=1e-3)
    total = read(tmp_path / "2" / "ledger.json")["total"]
    assert total["studies"] == 3
    assert total["greatest_epsilon"] == pytest.approx(greatest, rel=1e-3)
    assert not list(tmp_path.glob("*/ledger.sqlite"))


def test_a_study_that_nobody_can_afford_is_refused_and_touches_nothing(study_of, tmp_path):
    limit(8.0)
    study = study_of(privacy={"epsilon": 5.0})
    run(study, tmp_path / "run")
    before, charged = files(tmp_path / "run"), charges_in(own_ledger())
    for name, out, fresh in (("tiny", "run", True), ("renamed", "other", False)):
        again = study_of(study={"name": name}, privacy={"epsilon": 5.0})
        with raises_code(BudgetExhausted, "budget-exhausted"):
            run(again, tmp_path / out, fresh=fresh)
    assert files(tmp_path / "run") == before
    assert not (tmp_path / "other").exists()
    assert charges_in(own_ledger()) == charged


def test_an_unfinished_run_keeps_what_it_foresees_and_can_go_on(study_of, tmp_path):
    """After one round of four the next study is refused, and the first can still spend all that it was promised."""
    limit(8.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=1)
    with raises_code(BudgetExhausted, "budget-exhausted"):
        run(study_of(study={"name": "next"}, privacy={"epsilon": 5.0}), tmp_path / "next")
    assert resumed(tmp_path / "run").certificate["statement"]["epsilon"] <= 5


# The ledger of a resumed run -----------------------------------------------------------------------------


def gone(ledger, _):
    ledger.unlink()


def older(ledger, copy):
    """The file alone: its mark tells."""
    shutil.copy(copy / ledger.name, ledger)


def older_with_its_mark(ledger, copy):
    """Both: the run's own record tells."""
    older(ledger, copy)
    shutil.copy(copy / f"{ledger.name}.mark", ledger.with_name(f"{ledger.name}.mark"))


def another(ledger, copy):
    ledger.unlink()
    ledger.with_name(f"{ledger.name}.mark").unlink()
    LedgerFile(ledger).close()


def shorter(ledger, _):
    ledger.with_name(f"{ledger.name}.mark").unlink()
    with closing(sqlite3.connect(ledger)) as file:
        file.execute("DROP TRIGGER entries_never_deleted")
        file.execute("DELETE FROM entries WHERE sequence = (SELECT MAX(sequence) FROM entries)")
        file.commit()


@pytest.mark.parametrize(
    ("damage", "kind", "code"),
    [
        (gone, RecordError, "record-ledger-gone"),
        (older, LedgerError, "ledger-older"),
        (older_with_its_mark, LedgerError, "ledger-older"),
        (another, LedgerError, "ledger-older"),
        (shorter, LedgerError, "ledger-removed"),
    ],
)
def test_a_run_does_not_go_on_with_a_ledger_that_lost_its_charges(study_of, tmp_path, damage, kind, code):
    ledger, copy = own_ledger(), tmp_path / "copy"
    run(study_of(study={"name": "before"}), tmp_path / "before")
    shutil.copytree(ledger.parent, copy)
    stopped(study_of(), tmp_path / "run")
    damage(ledger, copy)
    before = files(tmp_path / "run")
    with raises_code(kind, code):
        resume_run(tmp_path / "run", Silent())
    assert files(tmp_path / "run") == before


def test_a_run_goes_on_with_its_ledger_wherever_that_of_today_is(study_of, tmp_path, monkeypatch):
    stopped(study_of(), tmp_path / "run")
    ledger = own_ledger()
    charged = {name: len(charges) for name, charges in charges_in(ledger).items()}
    (tmp_path / "elsewhere" / "wardround").mkdir(parents=True)
    shutil.copy(ledger.with_name("record-key.pem"), tmp_path / "elsewhere" / "wardround")  # the same person
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    resume_run(tmp_path / "run", Silent())
    assert not own_ledger().exists()
    for name, charges in charges_in(ledger).items():
        assert len(charges) == charged[name] + (name in charged)


# Copies of a run folder ----------------------------------------------------------------------------------


def test_two_continuations_of_one_copied_run_both_charge(study_of, tmp_path):
    """Rounds 1 to 3 were made once; each copy makes rounds 3 and 4 with noise of its own, charged to one account."""
    stopped(study_of(privacy={"epsilon_limit": 20.0}), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    once = {name: len(charges) for name, charges in charges_in(own_ledger()).items()}
    with pytest.raises(KeyboardInterrupt):
        resume_run(tmp_path / "run", Stopping(4))
    certificate = resumed(tmp_path / "copy").certificate
    charged = {name: len(charges) for name, charges in charges_in(own_ledger()).items()}
    assert charged == {hospital: count + 4 for hospital, count in once.items()}
    assert certificate["rounds"] == 4
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent))
    assert max(spent) > 3.0, "both copies' releases are in the certificate"
    with raises_code(LedgerError, "ledger-ended"):
        resumed(tmp_path / "run")


def test_a_copy_of_a_run_that_has_ended_does_not_go_on(study_of, tmp_path):
    """Its rounds would be charged beyond the certificate of the first, under a cap of their own."""
    stopped(study_of(), tmp_path / "run", round=2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    certificate = resumed(tmp_path / "run").certificate
    before, charged = files(tmp_path / "copy"), charges_in(own_ledger())
    with raises_code(LedgerError, "ledger-ended"):
        resumed(tmp_path / "copy")
    assert files(tmp_path / "copy") == before
    assert charges_in(own_ledger()) == charged
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent))


def test_a_run_killed_between_its_end_and_its_certificate_is_written_down(study_of, tmp_path, monkeypatch):
    note = Accounts.note

    def killed(accounts, folder, materials=None):
        if materials is not None:
            raise KeyboardInterrupt
        note(accounts, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Accounts, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            run(study_of(), tmp_path / "run")
    charged = charges_in(own_ledger())
    certificate = resumed(tmp_path / "run").certificate
    assert charges_in(own_ledger()) == charged
    for ledger in certificate["ledgers"].values():
        assert ledger["epsilon_spent"] == pytest.approx(certificate["statement"]["epsilon"])


@pytest.mark.parametrize("first", ["stopped again", "ended"])
def test_of_two_continuations_of_correlated_rounds_the_second_is_refused(study_of, tmp_path, first):
    """The run was charged once, for one series of noise: a second one would show what the first hides."""
    correlated = {"plan": "correlated-noise", "cohorts": 2}
    stopped(study_of(privacy=correlated), tmp_path / "run", round=2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    if first == "ended":
        resume_run(tmp_path / "run", Silent())
    else:
        with pytest.raises(KeyboardInterrupt):
            resume_run(tmp_path / "run", Stopping(4))
    charged = charges_in(own_ledger())
    if first == "ended":
        with raises_code(LedgerError, "ledger-ended"):
            resumed(tmp_path / "copy")
    else:
        with raises_code(FederationError, "federation"):
            resumed(tmp_path / "copy")
        assert "has another one: a copy" in (tmp_path / "copy" / "hospitals.log").read_text()
    added = {
        charge.release
        for name, charges in charges_in(own_ledger()).items() for charge in charges[len(charged[name]) :]
    }  # fmt: skip
    assert added <= {"2/gradient-sum/1"}, "the answer of round 2 is sent again; of round 3 no line is written"


# Ledgers that go with the run ----------------------------------------------------------------------------


def test_a_rehearsal_leaves_the_lasting_ledger_alone_and_says_so(study_of, tmp_path):
    run(study_of(), tmp_path / "run")
    before = files(own_ledger().parent)
    noted = read(tmp_path / "run" / "ledger.json")
    assert noted["ledger"] == str(own_ledger())
    assert noted["total"]["studies"] == 1
    run(study_of(), tmp_path / "rehearsal", rehearsal=True)
    stopped(study_of(), tmp_path / "resumed")
    after = files(own_ledger().parent)
    with pytest.raises(KeyboardInterrupt):
        run(study_of(), tmp_path / "stopped", Stopping(3), rehearsal=True)
    resume_run(tmp_path / "stopped", Silent())
    assert files(own_ledger().parent) == after != before
    for name in ("rehearsal", "stopped"):
        noted = read(tmp_path / name / "ledger.json")
        assert (noted["ledger"], noted["total"]) == (None, None)
        assert set(charges_in(tmp_path / name / "ledger.sqlite")) == {"hospital-1", "hospital-2", "hospital-3"}


@pytest.mark.parametrize("name", ["pictures", "phantoms"])
def test_a_fresh_run_removes_no_ledger_from_its_folder(study_of, tiny_study, tmp_path, name):
    study = (study_of if name == "pictures" else tiny_study)(federation={"rounds": 1})
    out = tmp_path / "run"
    for _ in range(2):
        run_study(study, out, Silent(), fresh=True, rehearsal=True)
    first = (out / "ledger.sqlite").read_bytes()
    with closing(sqlite3.connect(out / "ledger.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 1")
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert before["ledger.sqlite"] != first
    with raises_code(LedgerError, "ledger-version"):
        run_study(study, out, Silent(), fresh=True, rehearsal=True)
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_phantoms_never_touch_the_lasting_ledger(tiny_study, tmp_path, own_state):
    with pytest.raises(KeyboardInterrupt):
        run(tiny_study(study={"seed": None}), tmp_path / "run", Stopping(2))
    resume_run(tmp_path / "run", Silent())
    assert read(tmp_path / "run" / "ledger.json")["ledger"] is None
    assert [path.name for path in own_state.rglob("*") if path.is_file()] == ["record-key.pem"]


# Persons who are left out --------------------------------------------------------------------------------


def charge_before(persons, study):
    """An earlier study of some persons, at another hospital's name."""
    with LedgerFile(own_ledger()) as ledger:
        account = ledger.begin(
            run="earlier", study="earlier", name="earlier", hospital="elsewhere", persons=persons,
            foreseen=GaussianEvent(EARLIER), epsilon=math.inf, delta=DELTA,
        )  # fmt: skip
        account.charge(GaussianEvent(EARLIER), release="1", purpose="gradient-sum")
        account.end()
        ledger.set_limit(8.0, DELTA, by="a test", reason="enough")


@pytest.mark.parametrize("left_out", ["some", "a whole hospital"])
def test_who_cannot_afford_a_study_is_left_out_and_the_hospital_answers_all_the_same(study_of, tmp_path, left_out):
    study = study_of(privacy={"epsilon": 4.0})
    mine = trained(study)["hospital-1"]
    out = mine if left_out == "a whole hospital" else mine[:2]
    charge_before(out, study)
    listening = Listening()
    record = run(study, tmp_path / "run", listening)
    [said] = [text for text in listening.said if "left out" in text]
    assert said.startswith(f"{len(out)} patients are left out")
    assert record.certificate["rounds"] == 4
    counts = {name: len(charges) for name, charges in charges_in(own_ledger()).items() if name != "elsewhere"}
    assert counts == dict.fromkeys(counts, 4)
    assert len(counts) == 3, "an empty hospital is asked, charged, and sends its noise"
    with LedgerFile(own_ledger()) as ledger:
        book = ledger.book()
        [begun] = [part.begun for part in book.parts.values() if part.begun.hospital == "hospital-1"]
        assert begun.offered != begun.cohort
        for person in out:
            assert ledger.epsilon_of(person, DELTA) == pytest.approx(epsilon_of(GaussianEvent(EARLIER), DELTA))


def test_nothing_of_a_persons_other_studies_stands_in_the_shared_record(study_of, tmp_path, monkeypatch):
    """Two seeded runs, one on a ledger where two patients have spent: the record differs by their absence alone."""
    study = study_of(study={"seed": 7}, privacy={"epsilon": 4.0})
    records = {}
    for name in ("clean", "spent"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"state-{name}"))
        limit(8.0)
        if name == "spent":
            charge_before(trained(study)["hospital-1"][:2], study)
        records[name] = run(study, tmp_path / name)
    clean, spent = (records[name].path for name in ("clean", "spent"))

    def differing(one, other, path=""):
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            return {at for key in one for at in differing(one[key], other[key], f"{path}/{key}")}
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            return {
                at for n, pair in enumerate(zip(one, other, strict=True)) for at in differing(*pair, f"{path}/{n}")
            }
        return set() if one == other else {path}

    certificate = differing(read(clean / "certificate.json"), read(spent / "certificate.json"))
    heads = {f"/ledgers/hospital-{k}/head" for k in (1, 2, 3)}
    assert certificate == {"/model_sha256", *heads}
    results = differing(read(clean / "results.json"), read(spent / "results.json"))
    of_the_model = {at for at in results if at.startswith(("/metrics/", "/models/", "/calibration/"))}
    assert results == of_the_model, results ^ of_the_model
    tables = [(path / "patients.csv").read_text().splitlines() for path in (clean, spent)]
    places = [sorted(line.split(",", 1)[1] for line in lines) for lines in tables]
    assert places[0] == places[1]
    lines = [[json.loads(line) for line in (p / "rounds.jsonl").read_text().splitlines()] for p in (clean, spent)]
    rounds = {
        at for at in differing(*lines) if "/metrics/" not in at and not at.endswith(("/seconds", "/sum_norm"))
    }
    assert rounds == set()
    card = differing(read(clean / "model.json"), read(spent / "model.json"))
    assert all(at.endswith("sha256") for at in card), card
