"""Validation patients: looked at in place of the test patients during training, and trained on by nobody."""

import csv

import numpy as np
import pytest

from wardround.coordinator.observer import Silent
from wardround.models.vectors import named_weights
from wardround.records.arrays import arrays_from_file
from wardround.simulation.evaluation import evaluate_models, summary_of
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study


@pytest.fixture(scope="module")
def validated(tiny_study, tmp_path_factory):
    study = tiny_study(data={"validation_fraction": 0.25})
    return study, run_study(study, tmp_path_factory.mktemp("validated") / "run", Silent())


def test_the_looks_are_of_validation_patients_and_the_last_one_is_the_final_model_s(validated):
    _, record = validated
    looks = [line for line in record.rounds if "metrics" in line]
    assert {line["measured_on"] for line in looks} == {"validation"}
    of_validation, of_test = record.results["validation"]["metrics"], record.results["metrics"]
    last = looks[-1]["metrics"]
    assert {key: last[key] for key in ("auroc", "accuracy")} == {
        key: of_validation[key] for key in ("auroc", "accuracy")
    }
    assert of_validation["auroc"] != of_test["auroc"]


def test_validation_metrics_are_of_exactly_those_patients(validated):
    """Predictions of the stored model on the validation rows alone, counted by hand."""
    study, record = validated
    materials = gather(study, Silent())
    weights = arrays_from_file(record.path / "model.safetensors")
    names = named_weights(materials.workbench.network, materials.workbench.initial_weights)
    vector = np.concatenate([weights[name].ravel() for name in names])
    again = evaluate_models({"model": vector}, materials, validation=True)["model"]
    rows = materials.validation
    predicted = materials.workbench.probabilities(vector, rows.rows).argmax(axis=1)
    assert record.results["validation"]["metrics"]["accuracy"] == pytest.approx((predicted == rows.labels).mean())
    assert summary_of({"model": again})["accuracy"] == pytest.approx((predicted == rows.labels).mean())


def test_nobody_trains_on_a_validation_patient(validated):
    study, record = validated
    materials = gather(study, Silent())
    trained = {row for patients in materials.hospitals.values() for row in patients.rows.tolist()}
    aside = set(materials.validation.rows.tolist())
    assert aside
    assert not aside & trained
    assert not aside & set(materials.test.rows.tolist())
    with (record.path / "patients.csv").open() as file:
        places = [row["place"] for row in csv.DictReader(file)]
    assert places.count("validation") == len(materials.validation) == record.results["validation"]["patients"]


def test_what_was_released_names_the_validation_patients(validated):
    _, record = validated
    said = [row["what"] for row in record.results["released"]]
    expected = "metrics on the validation patients, round by round, and on the test patients at the end"
    assert any(what.startswith(expected) for what in said)


def test_without_validation_patients_the_looks_are_of_test_patients(tiny_study, tmp_path):
    record = run_study(tiny_study(federation={"rounds": 1}), tmp_path / "run", Silent())
    assert {line["measured_on"] for line in record.rounds} == {"test"}
    assert record.results["validation"] is None
