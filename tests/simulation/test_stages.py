"""Every strategy and every trust, from the study file to the record."""

import hashlib
import re

import numpy as np
import pytest
from tests.cases import family
from tests.charges import begun_in
from tests.simulation.runs import purposes_in, read_json, run_study, texts
from tests.simulation.strategies import LOCAL

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import from_json
from wardround.ledger.entry import Charge
from wardround.ledger.file import LedgerFile
from wardround.records.arrays import arrays_from_file
from wardround.records.signer import sealed
from wardround.simulation.own_key import own_key

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


def test_without_a_seed_no_two_runs_make_the_same_model(tiny_study, private, tmp_path):
    again = run_study(tiny_study(study={"seed": None}), tmp_path / "again")
    assert again.certificate["model_sha256"] != private("unseeded").certificate["model_sha256"]


def test_an_ensemble_is_judged_by_its_models_together(private):
    """The models of hospitals alone, evaluated as one row."""
    record = private("ensemble")
    assert record.results["metrics"]["models"] == 1
    assert len(arrays_from_file(record.path / "model.safetensors")) == 6
