"""What a whole run depends on, from the study file to the record: seeds, observers, ledgers, schemes."""

import json
import math
import re
from typing import ClassVar

import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.simulation.runs import purposes_in, read_json, run_study, texts
from tests.simulation.strategies import LOCAL, NOT_PRIVATE

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent
from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.errors import DataError, StudyError
from wardround.records.folder import RunRecord

STRATEGIES = {
    "fedsgd": {},
    **{name: LOCAL[name] for name in ("fedavg", "scaffold", "round-robin", "asynchronous", "selective")},
    "ensemble": {"strategy": "ensemble"},
    "alone": {"strategy": "alone"},
    "pooled": {"strategy": "pooled"},
}


def rounds_of(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", family(STRATEGIES, keep=["fedsgd", "fedavg", "pooled"]))
def test_a_run_without_privacy_says_infinity(tiny_study, tmp_path, strategy):
    study = tiny_study(privacy=NOT_PRIVATE, federation=STRATEGIES[strategy])
    record = run_study(study, tmp_path / "run")
    assert record.certificate["statement"]["epsilon"] == "infinity"
    for ledger in record.certificate["ledgers"].values():
        assert ledger["epsilon_spent"] == "infinity"
    assert "infinity" in record.certificate["short"] or "no guarantee" in record.certificate["short"]
    assert record.results["released"][0]["protected_by"].startswith("nothing")


def test_without_privacy_every_seed_makes_the_same_model(tiny_study, tmp_path):
    studies = [
        tiny_study(privacy=NOT_PRIVATE | {"num_patients": 32}, study={"seed": seed}) for seed in (1, 2, None)
    ]
    hashes = set()
    for number, study in enumerate(studies):
        record = run_study(study, tmp_path / str(number))
        hashes.add(record.certificate["model_sha256"])
    assert len(hashes) == 1


def test_the_same_seed_makes_the_same_model_and_another_makes_another(tiny_study, finished, tmp_path):
    def model(name, **sections):
        return run_study(tiny_study(**sections), tmp_path / name).certificate["model_sha256"]

    first = read_json(finished / "certificate.json")["model_sha256"]
    assert model("again") == first
    assert model("other", study={"seed": 8}) != first
    assert model("renamed", study={"name": "another"}) != first
    assert model("described", study={"description": "Another layout of the same study."}) == first


def test_an_observer_changes_nothing(tiny_study, finished, tmp_path):
    class Watching(Silent):
        stages: ClassVar[list[str]] = []
        rounds: ClassVar[list[tuple[int, int, str]]] = []

        def stage(self, text):
            self.stages.append(text)

        def progress(self, done, total, detail=""):
            self.rounds.append((done, total, detail))

    record = run_study(tiny_study(), tmp_path / "run", Watching())
    assert record.certificate["model_sha256"] == read_json(finished / "certificate.json")["model_sha256"]
    assert Watching.stages[0] == "computing the privacy plan"
    assert Watching.stages[-1] == "writing the report"
    assert Watching.rounds[-1][:2] == (4, 4)
    assert Watching.rounds[-1][2].startswith("ε 8.00")


def test_a_hospital_of_its_own_limit_stops_the_run_in_time(tiny_study, tmp_path):
    study = tiny_study(study={"seed": None}, privacy={"epsilon_limit": 5.0})
    record = run_study(study, tmp_path / "run")
    assert 1 <= record.certificate["rounds"] < 4
    assert "budget" in record.certificate["stopped"]
    assert record.certificate["statement"]["epsilon"] <= 5
    assert max(ledger["epsilon_spent"] for ledger in record.certificate["ledgers"].values()) <= 5


def test_two_studies_share_a_ledger_and_their_costs_add_up(tiny_study, tmp_path):
    def study(name):
        shared = {"ledger": str(tmp_path / "shared.sqlite")}
        return tiny_study(study={"name": name, "seed": None}, privacy=shared)

    spent, totals = [], []
    for name in ("first", "second"):
        record = run_study(study(name), tmp_path / name)
        assert not (tmp_path / name / "ledger.sqlite").exists()
        spent.append(record.certificate["ledgers"]["hospital-1"]["epsilon_spent"])
        totals.append(read_json(tmp_path / name / "ledger.json")["total"])
    assert spent == pytest.approx([8, 8], rel=2e-3), "a certificate is about its own run"
    assert [total["studies"] for total in totals] == [1, 2]
    one, both = (total["greatest_epsilon"] for total in totals)
    charged = charges_in(tmp_path / "shared.sqlite")["hospital-1"]
    assert both == pytest.approx(
        epsilon_of(ComposedEvent(tuple(charge.event for charge in charged)), 1e-3), rel=1e-3
    )
    assert one < 8 < both < 2 * one, "composition adds up, and less than linearly"


def test_hospitals_by_site_are_the_sites(tiny_study, make_pictures, tmp_path):
    data = make_pictures(tmp_path / "data")
    files = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    rows = [f"{file},{file.split('/')[0]},p{n},{('north', 'south')[n % 2]}" for n, file in enumerate(files)]
    (data / "metadata.csv").write_text("\n".join(["file,label,patient_id,site", *rows]))
    sections = {"data": {"layout": "folder", "path": str(data)}, "hospitals": {"scheme": "site", "count": 2}}
    record = run_study(tiny_study(**sections), tmp_path / "run")
    assert [hospital["name"] for hospital in record.results["hospitals"]] == ["north", "south"]
    with pytest.raises(DataError, match="number of sites"):
        run_study(
            tiny_study(**sections | {"hospitals": {"scheme": "site", "count": 5}}), tmp_path / "no", Silent()
        )


@pytest.mark.parametrize(
    "hospitals",
    [
        {"scheme": "dirichlet", "alpha": 0.3},
        {"scheme": "label-shards"},
        {"scheme": "sizes", "sizes": [3, 9, 12]},
        {"count": 1},
    ],
)
def test_every_scheme_runs(tiny_study, tmp_path, hospitals):
    privacy = {"colluders": 0} if hospitals.get("count") == 1 else {}
    record = run_study(tiny_study(hospitals=hospitals, privacy=privacy), tmp_path / "run")
    assert 7.9 < record.certificate["statement"]["epsilon"] <= 8


def test_fresh_replaces_a_run_of_phantoms_and_keeps_its_ledger(tiny_study, tmp_path):
    out = tmp_path / "run"
    for name in ("first", "second"):
        run_study(tiny_study(study={"name": name, "seed": None}), out, fresh=True)
    assert RunRecord.read(out).certificate["study"] == "second"
    charged = charges_in(out / "ledger.sqlite")
    assert len(charged) == 3
    assert all(len(charges) == 2 * (1 + 4) for charges in charged.values())


def test_the_environment_names_neither_machine_nor_person(finished):
    environment = read_json(finished / "environment.json")
    assert environment["threads"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", environment["date"])
    assert {"torch", "numpy"} <= set(environment["packages"])
    assert not re.search(r"[/\\]", " ".join(texts(environment)))


def test_metrics_are_looked_at_as_often_as_the_study_says(finished):
    rounds = rounds_of(finished)
    assert [line["round"] for line in rounds if "metrics" in line] == [2, 4]
    promised = read_json(finished / "certificate.json")["statement"]["epsilon"]
    assert math.isclose(rounds[-1]["epsilon"], promised)


def test_round_robin_with_one_cycle_is_a_single_pass(tiny_study, tmp_path):
    hashes = []
    for settings in ({"strategy": "round-robin", "cycles": 1}, {"strategy": "single-pass"}):
        study = tiny_study(privacy=NOT_PRIVATE, federation=settings | {"rounds": None, "local_steps": 2})
        assert study.rounds == 3
        hashes.append(run_study(study, tmp_path / settings["strategy"]).certificate["model_sha256"])
    assert len(set(hashes)) == 1


@pytest.mark.parametrize("trust", family(["nobody", "secure-aggregation"]))
def test_under_noised_updates_a_hospital_is_the_unit_of_every_sentence(tiny_study, tmp_path, trust):
    privacy = {"plan": "clipped-update", "trust": trust, "unit": None}
    study = tiny_study(privacy=privacy, federation={"strategy": "fedavg", "local_steps": 2})
    record = run_study(study, tmp_path / "run")
    assert record.certificate["unit"] == "hospital"
    assert 7.9 < record.certificate["statement"]["epsilon"] <= 8
    assert "hospital" in record.certificate["sentence"]
    assert purposes_in(record) == [["local-steps"] * 4] * 3


@pytest.mark.parametrize("plan", family(["dp-sgd", "clipped-update", "none"]))
def test_nothing_that_hospitals_keep_for_themselves_is_left_in_a_record(tiny_study, tmp_path, plan):
    privacy = NOT_PRIVATE if plan == "none" else {"plan": plan, "trust": "nobody"}
    record = run_study(tiny_study(privacy=privacy, federation=LOCAL["selective"]), tmp_path / "run")
    assert not (record.path / "hospitals").exists()


@pytest.mark.parametrize("repair", ["proportional", "weighted-loss", "weighted-sampling"])
def test_a_repair_that_nobody_would_count_for_is_refused(tiny_study, repair):
    federation = {"strategy": "fedavg", "repair": repair}
    for privacy in ({"num_patients": 32, "trust": "nobody"}, {"plan": "clipped-update", "trust": "nobody"}):
        with pytest.raises(StudyError, match=r"counted before round 1|\((count|class-counts)\), and does not"):
            plan_of(tiny_study(privacy=privacy, federation=federation))


def test_a_velocity_that_nothing_protects_is_refused_before_the_run(tiny_study):
    federation = {"strategy": "fedavg", "optimizer_state": "travels"}
    with pytest.raises(StudyError, match=r"\(local-steps\), and does not"):
        plan_of(tiny_study(privacy={"plan": "clipped-update", "trust": "nobody"}, federation=federation))
