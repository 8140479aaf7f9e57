"""Agents as separate processes behind sockets, and a coordinator: the same weights as the simulation, bit for bit."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
from tests.errors import raises_code
from tests.transport.consortium import ALONE, MASKED, NAMES, Forked, command_line
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError
from wardround.federation.messages import Receipt
from wardround.federation.receipts import sign_receipt
from wardround.records.arrays import arrays_to_bytes
from wardround.records.signer import sha256_of_bytes, signed_again
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.own_key import own_pin
from wardround.simulation.run import run_study
from wardround.simulation.verification import verify_run

LOCAL = {"strategy": "fedavg", "rounds": 2, "local_steps": 2}
STUDIES = {
    "masked": (MASKED, {"rounds": 3}, {"level": "noised", "epsilon": 3.0}),
    "masked, counted": ({**MASKED, "num_patients": None}, {"rounds": 2}),
    "nobody": (ALONE, LOCAL),
    "nobody, evaluated": (ALONE, LOCAL, {"level": "noised", "epsilon": 3.0}),
    "nobody, unprotected": (ALONE, LOCAL, {"level": "unprotected"}),
    "a ring": (ALONE, {"strategy": "round-robin", "rounds": 4}),
}


def check_signed_record(between):
    """The run verifies; after a change, and under another person's key, it is neither reported nor gone on with."""
    run = between.folder / "run"
    coordinator = {"the coordinator": between.coordinator.public}
    found = verify_run(run, coordinator | between.keys, key=between.coordinator)
    assert found.signed.is_finished
    assert found.unchecked == ()
    assert "3 hospitals signed" in found.checks[-1]
    [unpinned] = verify_run(run, coordinator).unchecked
    assert unpinned.startswith("receipts: the keys of site-1, site-2, site-3 are not pinned here")
    assert {"receipts.json", "certificate.json"} <= json.loads((run / "record.json").read_text())["files"].keys()
    last = max((run / "checkpoints").iterdir())
    for path, code in ((run / "receipts.json", "record-edited-receipts-json"), (last, "record-edited-checkpoint")):
        content = path.read_bytes()
        path.write_bytes(arrays_to_bytes({}) if path == last else content + b" ")
        with raises_code(RecordError, code):
            between.run()
        path.write_bytes(content)
    check_keys(between)
    certificate = (run / "certificate.json").read_bytes()
    for text in (certificate, None):
        if text is None:
            (run / "certificate.json").unlink()  # a run that is to go on
        with raises_code(RecordError, "record-key"):
            between.run(key=SigningKey.new(system_entropy))
    (run / "certificate.json").write_bytes(certificate)


def check_keys(between):
    """A hospital verifies the run by what it has pinned; a record that another hospital signed anew is none."""
    run = between.folder / "run"
    for home in map(between.home, NAMES):
        found = CliRunner().invoke(app, ["verify", str(run), "--pins", str(home), "--json"])
        said = json.loads(found.stdout)
        assert (said["signer"], said["unchecked"]) == ("the coordinator", [])
    record = json.loads((run / "record.json").read_text())
    forged, thief = run.parent / "forged", SigningKey.read(between.home(NAMES[1]) / "identity.pem")
    shutil.copytree(run, forged)
    body = {**record, "public_key": thief.public.hex()}
    (forged / "record.json").write_bytes(signed_again(body, record["files"], thief))
    found = CliRunner().invoke(app, ["verify", str(forged), "--pins", str(between.home(NAMES[0]))])
    assert isinstance(found.exception, RecordError)
    assert found.exception.code == "record-key"
    with raises_code(RecordError, "record-key"):
        verify_run(run, own_pin())


def check_evaluation(between, record, simulated, level):
    """The coordinator has what the level lets leave; each hospital has its own exact figures."""
    page = (between.folder / "run" / "report.html").read_text()
    tested = [json.loads(next((between.home(name) / "evaluation").glob("*.json")).read_text()) for name in NAMES]
    patients = sum(each["test_patients"] for each in tested)
    exact: Any = simulated.results
    assert patients == exact["test"]["patients"] > 0
    found, promise = record.results["evaluation"], record.certificate["evaluation"]
    if level == "none":
        assert (found, promise) == (None, None)
        assert "no figure of a test patient" in page
        return
    assert promise["statement"]["guarantee"] == (level == "noised")
    assert promise["sentence"] in page.replace("&#34;", '"').replace("&#39;", "'")
    figures = found["figures"]
    if level == "unprotected":
        assert "released without protection" in record.certificate["sentence"] or "without protection" in page
        assert figures["patients"]["value"] == pytest.approx(patients)
        assert any("exact histograms" in row["what"] for row in record.certificate["unprotected"])
    else:
        assert promise["statement"]["epsilon"] <= 3.0
        receipts = between.receipts().values()
        assert {receipt["evaluations"] for receipt in receipts} == {1}
        assert all(0 < receipt["evaluation_epsilon"] <= 3.0 for receipt in receipts)
        check_charges_of_figures(between)
        assert abs(figures["patients"]["value"] - patients) < 6 * figures["patients"]["noise_error"]


def check_charges_of_figures(between):
    """Figures that a hospital says it was not charged for, or too much, do not verify, whoever signs."""
    run, name = between.folder / "run", NAMES[2]
    identity = Identity(name, SigningKey.read(between.home(name) / "identity.pem"))
    content = {path: path.read_bytes() for path in (run / "receipts.json", run / "record.json")}
    for changed in ({"evaluations": 0}, {"evaluation_epsilon": 3.5}):
        receipts = {
            name: Receipt(**each | {key: bytes.fromhex(each[key]) for key in ("public_key", "signature")})
            for name, each in between.receipts().items()
        }
        receipts[name] = sign_receipt(replace(receipts[name], **changed), identity)
        written = json.dumps({name: receipt.to_json() for name, receipt in receipts.items()}).encode()
        (run / "receipts.json").write_bytes(written)
        record = json.loads(content[run / "record.json"])
        files = record["files"] | {"receipts.json": sha256_of_bytes(written)}
        (run / "record.json").write_bytes(signed_again(record, files, between.coordinator))
        with raises_code(RecordError, "record-receipt"):
            verify_run(run, {"the coordinator": between.coordinator.public})
    for path, before in content.items():
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("masked", Forked),
        *(pytest.param(name, command_line, marks=pytest.mark.thorough) for name in STUDIES),
    ],
)
def test_three_agents_give_the_weights_of_the_simulation(consortium, without_charts, name, begin):
    privacy, federation, *level = STUDIES[name]
    between = consortium(privacy, federation, begin=begin, evaluation=level[0] if level else None)
    for agent in NAMES:
        with (between.home(agent) / "policy.toml").open("a") as file:
            file.write('metrics = "unprotected"\n')
    between.accept()
    between.start()
    record = between.run()
    between.stop()
    simulated = run_study(between.study, between.folder / "simulated", Silent())
    statement: Any = record.certificate["statement"]
    promised: Any = simulated.certificate["statement"]
    weights = [(between.folder / out / "model.safetensors").read_bytes() for out in ("run", "simulated")]
    assert weights[0] == weights[1], "identical"
    assert record.certificate["model_sha256"] == simulated.certificate["model_sha256"]
    assert statement["epsilon"] == promised["epsilon"]
    assert not statement["simulated"]
    check_signed_record(between)
    assert set(json.loads((between.folder / "run" / "receipts.json").read_text())) == set(NAMES)
    check_evaluation(between, record, simulated, level[0]["level"] if level else "none")
    for agent in NAMES:
        home = between.home(agent)
        assert not (home / "agent.sock").exists(), "it has ended by itself"
        lines = [json.loads(line) for line in (home / "agent.log").read_text().splitlines()]
        assert any("give-receipt" in line["text"] or "receipt" in line["text"] for line in lines)
        assert not any("patient-0" in json.dumps(line) for line in lines)
        for file in ("model.safetensors", "model.json", "certificate.json"):
            kept = home / "finished" / between.study.digest / file
            assert kept.read_bytes() == (between.folder / "run" / file).read_bytes()
            assert kept.stat().st_mode & 0o777 == 0o600
