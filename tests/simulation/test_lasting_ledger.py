"""Whole runs on the lasting ledger of the person who simulates: what all of them together cost each patient."""

import json
import math
import shutil
import sqlite3
from contextlib import closing

import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.errors import raises_code
from tests.simulation.runs import InterruptingRound, files, interrupted, read_json, resume_run, run_study, stopped

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent, Event, GaussianEvent, from_json
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, LedgerError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.ledger.spending import spending_of
from wardround.records.folder import RunFolder
from wardround.simulation.materials import gather

DELTA = 1e-3
EARLIER = 0.5  # noise multiplier of an earlier study


class Listening(Silent):
    """Remembers what is said on the screen."""

    def __init__(self):
        self.said = []

    def stage(self, text):
        self.said.append(text)


def stop(*_):
    raise KeyboardInterrupt


def limit(epsilon):
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(epsilon, DELTA, by="a test", reason="enough")


def trained(study):
    """The patients who train, by hospital."""
    places = gather(study, Silent()).split.hospitals
    return {name: [patient.id for patient in patients] for name, patients in places.items()}


# What is spent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others",
    family(
        [
            pytest.param([{"federation": {"strategy": "pooled"}}, {"hospitals": {"count": 4}}], id="pooled"),
            pytest.param([{"study": {"name": "again"}}, {"study": {"name": "third"}}], id="renamed"),
            pytest.param([{"hospitals": {"count": 2}}, {"hospitals": {"count": 5}}], id="count"),
            pytest.param([{"hospitals": {"split_seed": 1}}, {"hospitals": {"split_seed": 2}}], id="split seed"),
        ]
    ),
)
def test_runs_on_the_same_patients_add_up_whatever_they_are_called_and_however_dealt(study_of, tmp_path, others):
    """Each patient's figure is the direct composition of the certified events of the runs that they trained in."""
    events: dict[str, list[Event]] = {}
    for number, sections in enumerate([{}, *others]):
        study = study_of(**sections)
        certificate = run_study(study, tmp_path / str(number)).certificate
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
    total = read_json(tmp_path / "2" / "ledger.json")["total"]
    assert total["studies"] == 3
    assert total["greatest_epsilon"] == pytest.approx(greatest, rel=1e-3)
    assert not list(tmp_path.glob("*/ledger.sqlite"))


def test_a_study_that_nobody_can_afford_is_refused_and_touches_nothing(study_of, tmp_path):
    limit(8.0)
    study = study_of(privacy={"epsilon": 5.0})
    run_study(study, tmp_path / "run")
    before, charged = files(tmp_path / "run"), charges_in(own_ledger())
    for name, out, fresh in (("tiny", "run", True), ("renamed", "other", False)):
        again = study_of(study={"name": name}, privacy={"epsilon": 5.0})
        with raises_code(BudgetExhausted, "budget-exhausted"):
            run_study(again, tmp_path / out, fresh=fresh)
    assert files(tmp_path / "run") == before
    assert not (tmp_path / "other").exists()
    assert charges_in(own_ledger()) == charged


def test_an_unfinished_run_keeps_what_it_foresees_and_can_go_on(study_of, tmp_path):
    """After one round of four the next study is refused, and the first can still spend all that it was promised."""
    limit(8.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=1)
    with raises_code(
        BudgetExhausted, "budget-exhausted-kept"
    ):  # what would help is to end the first, and no limit
        run_study(study_of(study={"name": "next"}, privacy={"epsilon": 5.0}), tmp_path / "next")
    assert resume_run(tmp_path / "run").certificate["statement"]["epsilon"] <= 5


def test_a_run_that_is_replaced_spends_what_it_was_charged(study_of, tmp_path):
    """Its releases stay charged, what it reserved beside them is free, and a copy of it cannot go on."""
    limit(8.0)
    study = study_of(privacy={"epsilon": 5.0})
    stopped(study, tmp_path / "run", round=1)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    before = charges_in(own_ledger())
    other = study_of(study={"name": "next"}, privacy={"epsilon": 5.0})
    with raises_code(BudgetExhausted, "budget-exhausted-kept"):
        run_study(other, tmp_path / "next")
    run_study(other, tmp_path / "run", fresh=True)
    after = charges_in(own_ledger())
    for hospital, charged in before.items():
        assert after[hospital][: len(charged)] == charged
        assert len(charged) == 1
    with raises_code(LedgerError, "ledger-ended"):
        resume_run(tmp_path / "copy")


def test_a_run_that_was_stopped_before_its_study_file_was_there_keeps_nothing(study_of, tmp_path, monkeypatch):
    """It cannot be resumed: the next run in its folder takes its place, without being told to."""
    limit(8.0)
    study = study_of(privacy={"epsilon": 5.0})
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "begin", stop)
        interrupted(study, tmp_path / "run", Silent())
    with raises_code(BudgetExhausted, "budget-exhausted-kept"):
        run_study(study, tmp_path / "other")
    run_study(study, tmp_path / "run")


def test_a_refused_run_gives_up_nothing(study_of, tmp_path):
    """The run that it would replace goes on, with all that was kept for it."""
    limit(8.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=3)
    before = charges_in(own_ledger())
    with raises_code(BudgetExhausted, "budget-exhausted"):
        run_study(study_of(privacy={"epsilon": 7.0}), tmp_path / "run", fresh=True)
    assert charges_in(own_ledger()) == before
    assert resume_run(tmp_path / "run").certificate["statement"]["epsilon"] <= 5


def test_a_rehearsal_in_the_place_of_a_charged_run_keeps_nothing_for_it(study_of, tmp_path):
    """The charged run's files are gone: nothing can go on with what was kept for it, and the rehearsal charges none."""
    limit(8.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=1)
    before = charges_in(own_ledger())
    run_study(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", fresh=True, rehearsal=True)
    assert charges_in(own_ledger()) == before, "what left stays charged"
    run_study(study_of(study={"name": "next"}, privacy={"epsilon": 5.0}), tmp_path / "next")


@pytest.mark.parametrize("rehearsal", [True, False])
def test_a_run_begun_afresh_in_a_copy_leaves_the_original_what_was_kept_for_it(study_of, tmp_path, rehearsal):
    limit(12.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=1)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    run_study(study_of(privacy={"epsilon": 1.0}), tmp_path / "copy", fresh=True, rehearsal=rehearsal)
    with raises_code(BudgetExhausted, "budget-exhausted-kept"):
        run_study(study_of(study={"name": "next"}, privacy={"epsilon": 9.0}), tmp_path / "next")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert resume_run(tmp_path / "moved").certificate["statement"]["epsilon"] <= 5


def test_a_run_that_was_moved_is_replaced_where_it_is(study_of, tmp_path):
    limit(8.0)
    stopped(study_of(privacy={"epsilon": 5.0}), tmp_path / "run", round=1)
    (tmp_path / "run").rename(tmp_path / "moved")
    run_study(study_of(study={"name": "next"}, privacy={"epsilon": 5.0}), tmp_path / "moved", fresh=True)


def test_a_seeded_run_that_is_replaced_can_begin_again(study_of, tmp_path):
    """It is known by its study: after another run in its folder it repeats its releases, and makes the others."""
    seeded = study_of(study={"seed": 7})
    stopped(seeded, tmp_path / "run", round=2)
    run_study(study_of(), tmp_path / "run", fresh=True)
    again = run_study(seeded, tmp_path / "run", fresh=True)
    assert again.certificate["statement"]["epsilon"] <= 3


def test_an_unfinished_run_of_strangers_is_no_advice(study_of, tmp_path):
    """To end a run frees nothing for persons who are not in it: only runs of this study's persons are counted."""
    limit(8.0)
    run_study(study_of(privacy={"epsilon": 5.0}), tmp_path / "run")
    with LedgerFile(own_ledger()) as ledger:
        ledger.begin(
            run="strange", study="strange", name="strange", hospital="elsewhere", persons=["stranger", "another"],
            foreseen=GaussianEvent(EARLIER), epsilon=math.inf, delta=DELTA,
        )  # fmt: skip
    again = study_of(study={"name": "again"}, privacy={"epsilon": 5.0})
    with raises_code(BudgetExhausted, "budget-exhausted"):
        run_study(again, tmp_path / "again")


# Ledgers that go with the run ----------------------------------------------------------------------------


def test_a_rehearsal_leaves_the_lasting_ledger_alone_and_says_so(study_of, tmp_path):
    run_study(study_of(), tmp_path / "run")
    before = files(own_ledger().parent)
    noted = read_json(tmp_path / "run" / "ledger.json")
    assert noted["ledger"] == str(own_ledger())
    assert noted["total"]["studies"] == 1
    run_study(study_of(), tmp_path / "rehearsal", rehearsal=True)
    stopped(study_of(), tmp_path / "resumed")
    after = files(own_ledger().parent)
    with pytest.raises(KeyboardInterrupt):
        run_study(study_of(), tmp_path / "stopped", InterruptingRound(3), rehearsal=True)
    resume_run(tmp_path / "stopped")
    assert files(own_ledger().parent) == after != before
    for name in ("rehearsal", "stopped"):
        noted = read_json(tmp_path / name / "ledger.json")
        assert (noted["ledger"], noted["total"]) == (None, None)
        assert set(charges_in(tmp_path / name / "ledger.sqlite")) == {"hospital-1", "hospital-2", "hospital-3"}


@pytest.mark.parametrize("name", ["pictures", "phantoms"])
def test_a_fresh_run_removes_no_ledger_from_its_folder(study_of, tiny_study, tmp_path, name):
    study = (study_of if name == "pictures" else tiny_study)(federation={"rounds": 1})
    out = tmp_path / "run"
    for _ in range(2):
        run_study(study, out, fresh=True, rehearsal=True)
    first = (out / "ledger.sqlite").read_bytes()
    with closing(sqlite3.connect(out / "ledger.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 1")
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert before["ledger.sqlite"] != first
    with raises_code(LedgerError, "ledger-version"):
        run_study(study, out, fresh=True, rehearsal=True)
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_phantoms_never_touch_the_lasting_ledger(tiny_study, tmp_path, own_state):
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(study={"seed": None}), tmp_path / "run", InterruptingRound(2))
    resume_run(tmp_path / "run")
    assert read_json(tmp_path / "run" / "ledger.json")["ledger"] is None
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
    record = run_study(study, tmp_path / "run", listening)
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
        records[name] = run_study(study, tmp_path / name)
    clean, spent = (records[name].path for name in ("clean", "spent"))

    def differing(one, other, path=""):
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            return {at for key in one for at in differing(one[key], other[key], f"{path}/{key}")}
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            return {
                at for n, pair in enumerate(zip(one, other, strict=True)) for at in differing(*pair, f"{path}/{n}")
            }
        return set() if one == other else {path}

    certificate = differing(read_json(clean / "certificate.json"), read_json(spent / "certificate.json"))
    heads = {f"/ledgers/hospital-{k}/head" for k in (1, 2, 3)}
    assert certificate == {"/model_sha256", *heads}
    results = differing(read_json(clean / "results.json"), read_json(spent / "results.json"))
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
    card = differing(read_json(clean / "model.json"), read_json(spent / "model.json"))
    assert all(at.endswith("sha256") for at in card), card
