"""Reference runs: beside the main one, marked as unprotected, and charged to nobody."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.simulation.killed import Killed, KilledWrite

from wardround.agreed.plans import plan_of
from wardround.boundary.private import write_whole
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError
from wardround.records.added import write_reference
from wardround.records.signed import verified
from wardround.simulation import references
from wardround.simulation import run as simulation
from wardround.simulation.materials import gather
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.references import REFERENCES, pooled

COMMAND = (sys.executable, "-m", "wardround")

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


# Beside the main run, not before it -----------------------------------------------------------------------


class Ended(Silent):
    """Stops before the reference run with a number; `seen` has what was on disk before the first, `said` each stage."""

    def __init__(self, out, number):
        self.out, self.left, self.seen, self.said = out, number, set(), []

    def stage(self, text):
        self.said.append(text)
        if text.startswith("reference run"):
            self.seen = self.seen or {path.name for path in self.out.iterdir()}
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


COMPARE = ["no-privacy", "pooled"]


@pytest.mark.parametrize("number", family([2, 1]))
def test_the_run_is_finished_before_references_and_they_go_on(tiny_study, tmp_path, compared, number):
    """Model, certificate and signed record are whole at each interruption, and the end is that of a run without one."""
    out = tmp_path / "run"
    ended = Ended(out, number)
    with pytest.raises(KeyboardInterrupt):
        simulation.run_study(tiny_study(federation={"compare": COMPARE}), out, ended)
    assert {"model.safetensors", "model.json", "results.json", "certificate.json", "record.json"} <= ended.seen
    first = ended.said.index("reference run: no-privacy")
    assert ended.said[first - 2] == "writing the report"
    assert "ε = 8.00 at δ = 0.001, for one patient, AUROC" in ended.said[first - 1]
    record = verified(out, own_pin())
    assert record.outstanding == tuple(COMPARE[number - 1 :])
    assert record.results["metrics"] == compared.results["metrics"]
    before = charges(out / "ledger.sqlite")
    resumed = simulation.resume_run(out, Silent())
    rows = {name: compared.results["references"][name] for name in COMPARE}
    assert verified(out, own_pin()).results["references"] == resumed.results["references"] == rows
    assert charges(out / "ledger.sqlite") == before
    assert (out / "model.safetensors").read_bytes() == (compared.path / "model.safetensors").read_bytes()


def test_a_finished_reference_is_not_run_again(compared, monkeypatch):
    def refuse(*_):
        raise AssertionError("it was run again")

    monkeypatch.setattr(references, "run_reference", refuse)
    assert simulation.resume_run(compared.path, Silent()).results == compared.results


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("pooled", "{}", "record-edited-reference"), ("another", "{}", "record-added-reference")],
)
def test_a_reference_that_was_edited_or_added_is_refused(compared, tmp_path, name, content, code):
    shutil.copytree(compared.path, tmp_path / "run")
    (tmp_path / "run" / "references" / f"{name}.json").write_text(content)
    with pytest.raises(RecordError) as refused:
        verified(tmp_path / "run", own_pin())
    assert refused.value.code == code


@pytest.mark.parametrize("moment", [1, 2])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_reference_killed_between_two_writes_is_made_again(compared, tmp_path, monkeypatch, moment, after):
    shutil.copytree(compared.path, tmp_path / "run")
    out = tmp_path / "run"
    (out / "references" / "pooled.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("wardround.records.added.write_whole", KilledWrite(moment, after=after).of(write_whole))
        with pytest.raises(Killed):
            write_reference(out, "pooled", {"another": "run"}, own_key())
    assert verified(out, own_pin()).outstanding == (() if (moment, after) == (2, True) else ("pooled",))


@pytest.mark.thorough
@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_killed_in_its_references_has_finished_its_run(tiny_study, tmp_path, number):
    study = tiny_study(federation={"compare": [*COMPARE, "alone"], "rounds": 20, "evaluate_every": 20})
    (tmp_path / "study.toml").write_text(study.to_toml())
    out = tmp_path / "run"
    started = subprocess.Popen(
        [*COMMAND, "run", tmp_path / "study.toml", "--out", out], stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and not any(out.glob("references/*.json")):
        time.sleep(0.002)
    started.send_signal(number)
    _, said = started.communicate()
    assert started.returncode in (128 + number, -number), said
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert f"The run is finished. Go on with its reference runs with: wardround resume {out}" in said
    assert verified(out, own_pin()).outstanding
    assert (out / "report.html").exists()
    subprocess.run([*COMMAND, "report", out], check=True, capture_output=True)
    subprocess.run([*COMMAND, "resume", out], check=True, capture_output=True)
    whole = run_study(study, tmp_path / "whole")
    assert verified(out, own_pin()).results["references"] == whole.results["references"]
