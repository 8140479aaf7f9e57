"""Evaluation across hospitals: the sum of all, its noise, a model from outside, and what the record says of it."""

import hashlib
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file as load
from safetensors.numpy import save
from tests.cases import family
from tests.charges import charges_of
from tests.errors import raises_code
from tests.hospital.bytes_channel import BytesChannel, reply_to
from tests.hospital.deployed import NAMES, open_from, study_of
from tests.hospital.evaluated import ALONE, MASKED, NOISED, REFUSED, WEIGHTS, asked_study

from wardround.accounting.events import GaussianEvent
from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.agreed.plans import plan_of
from wardround.coordinator.evaluation import evaluate as across
from wardround.coordinator.evaluation import noise_std
from wardround.coordinator.observer import Silent
from wardround.coordinator.opening import open_coordinator
from wardround.coordinator.run import coordinate
from wardround.errors import RecordError, StudyError
from wardround.federation.messages import Answer, Failure, FailureCode, Request, Stage
from wardround.hospital.hospital import Hospital
from wardround.privacy.plans.wording import evaluation_statement
from wardround.records.json_object import JsonObject
from wardround.simulation import verification
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.run import run_study
from wardround.simulation.verification import verify_run
from wardround.work import CountPatients, Evaluate, GradientSum


@pytest.mark.parametrize("spare", family([0, 1], keep=[1]))
def test_a_masked_sum_that_loses_a_hospital_is_charged_and_opens_nothing(folders, monkeypatch, spare):
    """Charged hospitals are charged again for another attempt, or refuse it; the model's run ends either way."""
    paths, keys = folders
    study = asked_study(MASKED | {"spare_attempts": spare})
    upload = Hospital.upload
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        opened = open_coordinator(study, BytesChannel(hospitals), keys)

        def evaluated() -> Any:
            return across(opened.coordinator, {"global": opened.weights}, ("clear", "lesion"))

        def charges():
            return [len(charges_of(hospital.agent.tested.account)) for hospital in hospitals.values()]

        lost = Failure(FailureCode.INTERNAL, Stage.TRAINING)
        with monkeypatch.context() as patch:
            patch.setattr(Hospital, "upload", lambda self: lost if self is hospitals["south"] else upload(self))
            first = evaluated()
        assert (first["figures"], first["missing"]) == (None, {"south": "internal"})
        assert charges() == [1, 1, 1]
        second = evaluated()
        assert charges() == [1 + spare] * 3
    assert (second["figures"] is not None) == bool(spare)
    assert set(second["missing"].values()) == (set() if spare else {"refused-spare"})


@pytest.mark.parametrize("kind", family(["masked", "nobody"]))
def test_the_sum_is_that_of_all_test_patients_with_the_noise_that_is_stated(folders, kind):
    """Federated is pooled: the sum of all hospitals less the rows of all their test patients is noise of that size."""
    paths, keys = folders
    study = asked_study(ALONE if kind == "nobody" else MASKED)
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        opened = open_coordinator(study, BytesChannel(hospitals), keys)
        coordinator = opened.coordinator
        weights = opened.weights
        found: Any = across(coordinator, {"global": weights}, ("clear", "lesion"))
        coordinator.close()
        exact = sum(h.agent.tested.histograms(h.agent.workbench, weights, 2) for h in hospitals.values())
        events = [charges_of(h.agent.tested.account) for h in hospitals.values()]
        own = [charges_of(h.agent.account) for h in hospitals.values()]
    part: Any = coordinator.plan.evaluation
    std = noise_std(part, 3)
    noise = np.array(found["figures"]["histograms"]).ravel() - exact
    assert found["missing"] == {}
    assert found["figures"]["noise_std"] == std
    statistic = (noise**2).sum() / std**2  # chi-squared, 32 degrees of freedom: beyond these twice in a million
    assert 7 < statistic < 86
    assert [len(charged) for charged in events] == [1, 1, 1]
    assert own == [[], [], []]


@pytest.mark.parametrize("trust", family(["nobody", "secure-aggregation"]))
def test_an_outside_model_is_evaluated_without_training(folders, tmp_path, without_charts, trust):
    """The whole program: the given weights are the model, the promise is to test patients, and nobody else is asked."""
    paths, keys = folders
    file = tmp_path / "outside.safetensors"
    weights = {"classifier.0.weight": WEIGHTS[:-2].reshape(2, -1), "classifier.0.bias": WEIGHTS[-2:]}
    file.write_bytes(save(weights))
    study = study_of(
        {"plan": "evaluation", "delta": 1e-3, "trust": trust, "spare_attempts": 1}
        | ({"colluders": 1} if trust == "secure-aggregation" else {}),
        {"strategy": "evaluation"},
        data={"test_fraction": 0.5},
        model={"weights": str(file), "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        evaluation=NOISED,
    )
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        channel = BytesChannel(hospitals)
        record = coordinate(study, channel, keys, own_key(), tmp_path / "run", Silent())
        exact = sum(h.agent.tested.histograms(h.agent.workbench, WEIGHTS, 2) for h in hospitals.values())
        spent = [h.agent.tested.account.spent() for h in hospitals.values()]
    certificate: Any = record.certificate
    figures: Any = record.results["evaluation"]
    assert load(tmp_path / "run" / "model.safetensors").keys() == weights.keys()
    assert np.array_equal(load(tmp_path / "run" / "model.safetensors")["classifier.0.bias"], WEIGHTS[-2:])
    noise = np.array(figures["figures"]["histograms"]).ravel() - exact
    assert 7 < (noise**2).sum() / figures["figures"]["noise_std"] ** 2 < 86
    assert certificate["statement"]["epsilon"] < 3.0, "one release; the spare one was not needed"
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent), rel=1e-6)
    assert "about the test patients" in certificate["sentence"]
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).signed.is_finished
    assert {GradientSum, CountPatients}.isdisjoint(channel.exchanges)
    refused = reply_to(hospitals["north"], Request(study.digest, 1, 2, GradientSum(WEIGHTS)))
    assert refused == REFUSED
    with raises_code(StudyError, "study-evaluation-only"):
        run_study(study, tmp_path / "simulated", Silent())


@pytest.mark.parametrize("odd", [1, 31, 33])
def test_a_hospital_that_sends_histograms_of_another_length_is_missing(odd):
    """One number would have been added to every bin, and any other length would have ended the run in an error."""
    study = asked_study()
    updates = {
        "north": np.ones(32, np.float32),
        "south": np.ones(odd, np.float32),
        "west": np.ones(32, np.float32),
    }

    def ask(requests, deadline_s):
        assert all(isinstance(request.work, Evaluate) for request in requests.values())
        return {name: Answer(update, GaussianEvent(1.0)) for name, update in updates.items()}, {}

    channel = SimpleNamespace(hospitals=tuple(updates), ask=ask)
    coordinator: Any = SimpleNamespace(study=study, plan=plan_of(study), masked=None, channel=channel)
    found: Any = across(coordinator, {"global": WEIGHTS}, ("clear", "lesion"))
    assert found["missing"] == {"south": "protocol"}
    assert found["figures"]["histograms"] == np.full((1, 2, 16), 2.0).tolist()


def unprotected_record(tmp_path):
    """The parts of a record whose test patients' figures left without protection, without figures."""
    study = asked_study(evaluation={"level": "unprotected"})
    said = evaluation_statement(plan_of(study), simulated=False, seeded=False)
    row = {"level": "unprotected", "statement": said.to_json(), "sentence": said.sentence(), "short": said.short()}
    results: dict[str, dict[str, Any]] = {"evaluation": {"level": "unprotected", "figures": None, "missing": {}}}
    return study, {"standing": "hospitals", "evaluation": row}, results


EDITS = {
    "level": ("certificate", lambda said, results: said["evaluation"].update(level="noised")),
    "guarantee": (
        "certificate",
        lambda said, results: said["evaluation"]["statement"].update(guarantee=True, epsilon=1.0, reason=""),
    ),
    "short": ("certificate", lambda said, results: said["evaluation"].update(short="epsilon = 1")),
    "none": ("certificate", lambda said, results: said.update(evaluation=None)),
    "standing": ("certificate", lambda said, results: said.update(standing="lasting")),
    "results": ("results", lambda said, results: results["evaluation"].update(level="noised")),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_signed_record_cannot_call_test_patients_protected_who_are_not(tmp_path, edit):
    study, certificate, results = unprotected_record(tmp_path)
    record: Any = SimpleNamespace(results=results)
    assert list(verification._evaluated(tmp_path, study, record, JsonObject(certificate, "certificate.json")))
    file, change = EDITS[edit]
    change(certificate, results)
    with raises_code(RecordError, f"record-{file}"):
        list(verification._evaluated(tmp_path, study, record, JsonObject(certificate, "certificate.json")))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"evaluation": {"level": "none"}}, "study-evaluation-only"),
        ({"model": None}, "study-evaluation-only"),
        ({"federation": {"rounds": 2}}, "study-plan-strategy"),
        ({"privacy": ALONE}, "study-plan-strategy"),
    ],
)
def test_a_study_that_evaluates_only_needs_a_model_and_a_level(changed, code):
    given = {
        "privacy": {"plan": "evaluation", "delta": 1e-3},
        "federation": {"strategy": "evaluation"},
        "model": {"weights": "outside.safetensors"},
        "evaluation": NOISED,
    }
    with raises_code(StudyError, code):
        study_of(**(given | changed))


@pytest.mark.parametrize("privacy", [ALONE, MASKED], ids=["nobody", "masked"])
def test_the_noise_is_worth_the_epsilon_by_the_closed_form(privacy):
    """An oracle beside the accountant: one Gaussian release (Balle and Wang 2018), of the honest hospitals' noise."""
    plan = plan_of(asked_study(privacy))
    part: Any = plan.evaluation
    honest = 3 - (privacy is MASKED)
    added = noise_std(part, honest) if privacy is MASKED else noise_std(part, 1)
    assert gaussian_epsilon(added / part.sensitivity, plan.delta) == pytest.approx(3.0, abs=2e-3)
    assert plan.evaluation_epsilon <= 3.0


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"data": {"classes": None}}, "study-evaluation-classes"),
        ({"data": {"test": "stratified"}}, "study-evaluation-test"),
        ({"federation": {"strategy": "alone", "rounds": 2}}, "study-evaluation-model"),
    ],
)
def test_a_level_needs_what_its_figures_are_made_of(changed, code):
    federation = changed.get("federation", {"rounds": 2})
    with raises_code(StudyError, code):
        study_of(ALONE, federation, data=changed.get("data"), evaluation=NOISED)
