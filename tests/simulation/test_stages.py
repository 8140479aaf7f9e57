"""Every strategy and every trust, from the study file to the record."""

import hashlib
import json
import math
import re
from typing import ClassVar

import numpy as np
import pytest
from tests.cases import family
from tests.charges import begun_in, charges_in

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent, from_json
from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.errors import DataError, StudyError
from wardround.ledger.entry import Charge
from wardround.ledger.file import LedgerFile
from wardround.records.arrays import arrays_from_file
from wardround.records.folder import RunRecord
from wardround.records.signer import sealed
from wardround.simulation import run as simulation
from wardround.simulation.own_key import own_key

LOCAL: dict[str, dict[str, object]] = {
    "fedavg": {"strategy": "fedavg", "local_steps": 2},
    "fraction": {"strategy": "fedavg", "local_steps": 2, "fraction": 0.6},
    "server adam": {"strategy": "fedavg", "server_optimizer": "adam", "server_learning_rate": 0.1},
    "weighted hospitals": {"strategy": "fedavg", "hospital_weights": [1.0, 2.0, 3.0]},
    "fedprox": {"strategy": "fedprox", "local_steps": 2, "optimizer_state": "travels"},
    "scaffold": {"strategy": "scaffold", "local_steps": 2},
    "round-robin": {"strategy": "round-robin", "local_steps": 2, "optimizer_state": "travels"},
    "cycles": {"strategy": "random-order", "cycles": 2, "rounds": None},
    "single-pass": {"strategy": "single-pass", "local_steps": 2, "rounds": None},
    "proportional": {"strategy": "random-order", "local_steps": 3, "repair": "proportional"},
    "weighted-loss": {"strategy": "round-robin", "repair": "weighted-loss"},
    "weighted-sampling": {"strategy": "fedavg", "repair": "weighted-sampling"},
    "stochastic": {"strategy": "stochastic", "local_steps": 2},
    "asynchronous": {"strategy": "asynchronous", "local_steps": 2, "staleness": 1},
    "selective": {"strategy": "selective", "local_steps": 2, "turns": "random", "selection": "random"},
}
PRIVATE: dict[str, dict[str, dict[str, object]]] = {
    "coordinator": {"privacy": {"trust": "coordinator"}},
    "secure-aggregation": {"privacy": {"trust": "secure-aggregation"}},
    "nobody": {"privacy": {"trust": "nobody"}},
    "dropouts": {"privacy": {"trust": "secure-aggregation", "colluders": 1, "dropouts": 1}},
    **{name: {"privacy": {"trust": "nobody"}, "federation": settings} for name, settings in LOCAL.items()},
    "alone": {"federation": {"strategy": "alone"}},
    "ensemble": {"federation": {"strategy": "ensemble"}},
    "pooled": {"federation": {"strategy": "pooled"}},
    "sampled": {"privacy": {"sampling_prob": 0.5}},
    "public size": {"privacy": {"num_patients": 32}},
    "noise given": {"privacy": {"epsilon": None, "noise_multiplier": 2.0}},
    "unseeded": {"study": {"seed": None}},
}
KEPT = [
    "coordinator",
    "nobody",
    "dropouts",
    "fedavg",
    "round-robin",
    "proportional",
    "selective",
    "alone",
    "pooled",
    "unseeded",
]
"""One setting of each kind of promise."""

SOME_MORE_OFTEN = {
    "fraction", "round-robin", "proportional", "weighted-loss", "stochastic", "asynchronous", "selective",
}  # fmt: skip
NOT_PRIVATE = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}
STRATEGIES = {
    "fedsgd": {},
    **{name: LOCAL[name] for name in ("fedavg", "scaffold", "round-robin", "asynchronous", "selective")},
    "ensemble": {"strategy": "ensemble"},
    "alone": {"strategy": "alone"},
    "pooled": {"strategy": "pooled"},
}


def run_study(study, out, observer=None, **options):
    return simulation.run_study(study, out, observer or Silent(), **options)


def read_json(path):
    return json.loads(path.read_text())


def rounds_of(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def texts(value):
    """Every text anywhere in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


@pytest.fixture(scope="module")
def private(tiny_study, tmp_path_factory):
    """The finished private run of a setting; each is made once."""
    made = {}

    def run(setting):
        if setting not in made:
            out = tmp_path_factory.mktemp("private") / "run"
            made[setting] = run_study(tiny_study(**PRIVATE[setting]), out)
        return made[setting]

    return run


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_a_private_run_keeps_its_promise_to_every_patient(private, setting):
    record = private(setting)
    statement = record.certificate["statement"]
    assert record.certificate["rounds"] == {"cycles": 6, "single-pass": 3}.get(setting, 4)
    assert record.certificate["stopped"] is None
    if setting != "noise given":
        assert 7.9 < statement["epsilon"] <= 8
    assert statement["delta"] == 1e-3
    assert record.certificate["unit"] == "patient"
    event = from_json(record.certificate["event"])
    assert epsilon_of(event, 1e-3, AccountantKind.RDP) == pytest.approx(statement["epsilon"])


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_no_ledger_holds_less_than_the_certificate_states(private, setting):
    record = private(setting)
    spent = [ledger["epsilon_spent"] for ledger in record.certificate["ledgers"].values()]
    assert len(spent) == (1 if setting == "pooled" else 3)
    stated = record.certificate["statement"]["epsilon"]
    if setting in SOME_MORE_OFTEN:  # the statement is that of the hospital that was asked most often
        assert max(spent) <= stated * (1 + 1e-6)
        assert setting == "proportional" or max(spent) == pytest.approx(stated)
        assert min(spent) < stated
    else:
        assert spent == pytest.approx([stated] * len(spent))


def purposes_in(record):
    """What each hospital was charged for, in order."""
    return [
        [charge.purpose for charge in charged] for charged in charges_in(record.path / "ledger.sqlite").values()
    ]


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_the_certificate_is_about_the_model_and_the_ledgers_beside_it(private, setting):
    record = private(setting)
    model = (record.path / "model.safetensors").read_bytes()
    assert hashlib.sha256(model).hexdigest() == record.certificate["model_sha256"]
    noted, run = read_json(record.path / "ledger.json"), record.certificate["ledgers"]
    parts = begun_in(record.path / "ledger.sqlite")
    assert {(part.run, part.study, part.name) for part in parts} == {
        (noted["run"], record.certificate["study_digest"], record.certificate["study"])
    }
    assert sorted(part.hospital for part in parts) == sorted(run)
    with LedgerFile(record.path / "ledger.sqlite") as ledger:
        charged = [n for n, line in enumerate(ledger.entries(), start=1) if isinstance(line, Charge)]
        head = ledger.head_after(charged[-1])
        assert head is not None
        assert {hospital["head"] for hospital in run.values()} == {sealed(head, own_key())}
        assert ledger.position() == (noted["entries"], noted["head"])


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_every_epsilon_of_a_record_has_its_delta_and_its_unit(private, setting):
    record = private(setting)
    said = [text for text in texts(record.certificate) if re.search(r"epsilon\s*=", text)]
    assert len(said) >= 2
    for text in said:
        assert re.search(r"epsilon = \S+ at delta = 0\.001\b", text), text
        assert "patient" in text, text
    for row in record.rounds:
        if "epsilon" in row:
            assert 0 < row["epsilon"] <= record.certificate["statement"]["epsilon"] + 1e-9


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_a_seeded_run_is_stamped_wherever_it_states_something(private, setting):
    record = private(setting)
    seeded = setting != "unseeded"
    assert record.certificate["seeded"] is seeded
    assert ("reproducible, not private" in record.certificate["short"]) is seeded
    assert ("reproducible, not private" in record.certificate["sentence"]) is seeded
    assert {part.seeded for part in begun_in(record.path / "ledger.sqlite")} == {seeded}


@pytest.mark.parametrize("setting", family(PRIVATE, keep=KEPT))
def test_everyone_is_in_one_place(private, setting):
    record = private(setting)
    places = [line.split(",")[1] for line in (record.path / "patients.csv").read_text().splitlines()[1:]]
    assert len(places) == 40
    assert places.count("test") == record.results["test"]["patients"] == 8
    assert sum(hospital["patients"] for hospital in record.results["hospitals"]) == 32


def test_trust_says_against_whom_the_promise_is(private):
    def epsilons(setting):
        return {row["adversary"]: row["epsilon"] for row in private(setting).certificate["insiders"]}

    assert epsilons("coordinator")["the coordinator"] == "infinity", "it sees the sums before the noise"
    assert max(epsilons("nobody").values()) <= 8, "every hospital adds all of the noise itself"
    shared = epsilons("secure-aggregation")
    assert 7.9 < shared["the coordinator with 1 hospital"] <= 8 < shared["the coordinator with 2 hospitals"]
    for trust in ("coordinator", "nobody", "secure-aggregation"):
        assert private(trust).certificate["statement"]["trust"] == trust


def test_a_hospital_alone_has_a_model_of_its_own(private):
    models = arrays_from_file(private("alone").path / "model.safetensors")
    weights = [f"hospital-{k}/classifier.0.weight" for k in (1, 2, 3)]
    assert set(weights) < set(models)
    assert len({models[name].tobytes() for name in weights}) == 3
    assert private("alone").results["metrics"]["models"] == 3


@pytest.mark.parametrize("setting", family([name for name in PRIVATE if name not in ("alone", "ensemble")]))
def test_a_federation_has_one_model(private, setting):
    models = arrays_from_file(private(setting).path / "model.safetensors")
    assert sorted(models) == ["classifier.0.bias", "classifier.0.weight"]
    assert all(np.isfinite(array).all() for array in models.values())


def test_the_count_of_patients_is_charged_unless_their_number_is_public(private):
    for setting, counted in (("secure-aggregation", True), ("public size", False)):
        record = private(setting)
        for purposes in purposes_in(record):
            assert purposes == ["count"] * counted + ["gradient-sum"] * 4
        released = {row["what"] for row in record.results["released"]}
        assert ("the number of training patients" in released) is counted


def test_local_steps_are_all_charged(private):
    record = private("fedavg")
    assert purposes_in(record) == [["count"] + ["local-steps"] * 4] * 3
    assert record.certificate["statement"]["releases"] == 1 + 4 * 2


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


def test_without_a_seed_no_two_runs_make_the_same_model(tiny_study, private, tmp_path):
    again = run_study(tiny_study(study={"seed": None}), tmp_path / "again")
    assert again.certificate["model_sha256"] != private("unseeded").certificate["model_sha256"]


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
    assert {"torch", "numpy"} <= set(environment["packages"])
    assert not re.search(r"[/\\]", " ".join(texts(environment)))


def test_metrics_are_looked_at_as_often_as_the_study_says(finished):
    rounds = rounds_of(finished)
    assert [line["round"] for line in rounds if "metrics" in line] == [2, 4]
    promised = read_json(finished / "certificate.json")["statement"]["epsilon"]
    assert math.isclose(rounds[-1]["epsilon"], promised)


def test_an_ensemble_is_judged_by_its_models_together(private):
    """The models of hospitals alone, evaluated as one row."""
    record = private("ensemble")
    assert record.results["metrics"]["models"] == 1
    assert len(arrays_from_file(record.path / "model.safetensors")) == 6


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
