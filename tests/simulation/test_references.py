"""Reference runs: beside the main one, marked as unprotected, and charged to nobody."""

import json

import numpy as np
import pytest
from tests.charges import charges_in

from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.simulation import references
from wardround.simulation import run as simulation
from wardround.simulation.materials import gather
from wardround.simulation.references import REFERENCES, pooled

NOT_PRIVATE = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}


def run_study(study, out):
    return simulation.run_study(study, out, Silent())


def run_reference(name, study, plan, materials):
    return references.run_reference(name, study, plan, materials, Silent())


def charges(path):
    return {
        hospital: [(charge.release, charge.attempt, charge.event) for charge in charged]
        for hospital, charged in charges_in(path).items()
    }


@pytest.fixture(scope="module")
def compared(tiny_study, tmp_path_factory):
    """One finished run with every reference beside it."""
    study = tiny_study(federation={"compare": list(REFERENCES)})
    return run_study(study, tmp_path_factory.mktemp("compared") / "run")


@pytest.fixture(scope="module")
def materials(tiny_study):
    return gather(tiny_study(), Silent())


def test_pooled_holds_every_patient_of_every_hospital_once(materials):
    together = pooled(materials.hospitals)
    assert len(together) == sum(len(part) for part in materials.hospitals.values()) == 32
    rows = np.concatenate([part.rows for part in materials.hospitals.values()])
    labels = np.concatenate([part.labels for part in materials.hospitals.values()])
    np.testing.assert_array_equal(together.rows, rows)
    np.testing.assert_array_equal(together.labels, labels)
    assert len(set(together.rows.tolist())) == len(together.rows)


def test_pooled_keeps_the_pictures_of_a_patient_together(materials):
    together, number = pooled(materials.hospitals), 0
    for part in materials.hospitals.values():
        for patient in range(len(part)):
            mine = part.rows[part.starts[patient] : part.starts[patient + 1]]
            np.testing.assert_array_equal(
                together.rows[together.starts[number] : together.starts[number + 1]], mine
            )
            number += 1
    assert together.starts[-1] == len(together.rows)


def test_no_test_patient_is_in_the_pool(materials):
    assert not set(pooled(materials.hospitals).rows.tolist()) & set(materials.test.rows.tolist())


def test_every_reference_is_marked_as_released_without_protection(compared):
    assert list(compared.results["references"]) == list(REFERENCES)
    for row in compared.results["references"].values():
        assert row["released"].startswith("without protection")
        assert row["delta"] == 1e-3
    released = {row["what"]: row["protected_by"] for row in compared.results["released"]}
    assert released["reference runs and their metrics"].startswith("nothing")


def test_references_are_as_private_as_their_names_say(compared):
    for name, row in compared.results["references"].items():
        assert row["private"] is not name.endswith("no-privacy")
        if row["private"]:
            assert 0 < row["epsilon"] <= 8 + 1e-9
        else:
            assert row["epsilon"] == "infinity"


def test_references_charge_nothing_and_change_no_promise(compared, finished):
    assert charges(compared.path / "ledger.sqlite") == charges(finished / "ledger.sqlite")
    assert (
        compared.certificate["statement"] == json.loads((finished / "certificate.json").read_text())["statement"]
    )


def test_a_study_without_privacy_skips_references_that_say_nothing_new(tiny_study, tmp_path):
    study = tiny_study(privacy=NOT_PRIVATE, federation={"compare": list(REFERENCES)})
    record = run_study(study, tmp_path / "run")
    assert list(record.results["references"]) == ["pooled-no-privacy", "alone-no-privacy", "ensemble-no-privacy"]


def test_being_alone_is_one_model_a_hospital(compared):
    metrics = {name: row["metrics"] for name, row in compared.results["references"].items()}
    assert metrics["alone"]["models"] == metrics["alone-no-privacy"]["models"] == 3
    assert metrics["pooled"]["models"] == metrics["no-privacy"]["models"] == 1
    low, high = metrics["alone"]["accuracy_range"]
    assert low <= metrics["alone"]["accuracy"] <= high


def test_without_privacy_federated_and_pooled_are_the_same_training(tiny_study, materials):
    # One gradient sum over all hospitals is the gradient sum over all their patients.
    study = tiny_study(privacy={"num_patients": 32})
    plan = plan_of(study)
    federated, together = (
        run_reference(name, study, plan, materials) for name in ("no-privacy", "pooled-no-privacy")
    )
    # Sums are formed in another order: the accuracy is a count and must agree, the ranking may differ in ties.
    assert federated["metrics"]["accuracy"] == together["metrics"]["accuracy"]
    assert federated["metrics"]["auroc"] == pytest.approx(together["metrics"]["auroc"], abs=0.02)


def test_references_of_local_steps_compare_the_same_strategy(tiny_study, tmp_path):
    study = tiny_study(
        privacy={"trust": "nobody"},
        federation={"strategy": "fedavg", "local_steps": 2, "compare": ["no-privacy", "pooled", "alone"]},
    )
    record = run_study(study, tmp_path / "run")
    for row in record.results["references"].values():
        assert row["epsilon"] == "infinity" or row["epsilon"] <= 8 + 1e-9
