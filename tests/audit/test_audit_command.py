"""`wardround audit`: one page, one JSON object, and an exit code of 3 where a claim is contradicted."""

import json

import pytest

from wardround.audit.broken import SCHEMES, try_one
from wardround.audit.findings import CLEAN, CONTRADICTION
from wardround.errors import WardroundError

STUDY = """
[study]
name = "audited"

[data]
layout = "phantom"

[hospitals]
count = 2

[model]
name = "linear"

[privacy]
plan = "dp-sgd"
noise_multiplier = 3.0
delta = 1e-5
num_patients = 300
sum = "simulated"

[federation]
strategy = "fedsgd"
rounds = 1
learning_rate = 1.0
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_an_audit_says_what_was_claimed_what_was_found_and_what_could_have_been(wardround, study, tmp_path):
    page = tmp_path / "page.html"
    said = wardround("audit", study, "--runs", 30, "--seed", 1, "--json", "--out", page)
    found = json.loads(said.out)
    assert (said.code, found["verdict"], found["contradictions"]) == (0, CLEAN, [])
    assert (found["claimed"]["unit"], found["claimed"]["relation"]) == ("patient", "add-or-remove-one")
    bounds = [bound for attack in found["attacks"] for bound in attack["bounds"]]
    assert [bound["method"] for bound in bounds] == ["one run", "one run, f-DP", "Clopper-Pearson", "GDP"]
    assert all(bound["epsilon"] <= bound["ceiling"] and bound["trials"] and bound["rule"] for bound in bounds)
    assert len(found["accounting"]) == 2
    text = page.read_text()
    assert "No contradiction found at this power" in text
    assert "<script" not in text


def test_a_contradiction_exits_with_three(wardround, study, monkeypatch):
    monkeypatch.setattr("wardround.privacy.plans.releases.hospital_std", lambda noiser, total: total / 20)
    said = wardround("audit", study, "--runs", 60, "--seed", 1, "--json")
    assert (said.code, json.loads(said.out)["verdict"]) == (3, CONTRADICTION)


def test_a_study_and_the_broken_schemes_at_once_are_refused(wardround, study):
    both, run = (study, "--broken"), (study.parent, "--data", study.parent)
    for arguments in (
        (),
        both,
        run,
        ("--broken", "--model"),
        ("--broken", "--keep", study.parent),
        (study, "--ledger", study),
    ):
        refused = wardround("audit", *arguments)
        assert refused.code == 2
        assert isinstance(refused.error, WardroundError)
        assert refused.error.code == "study-audit-what"


@pytest.mark.thorough
def test_exactly_the_broken_schemes_are_caught(wardround, tmp_path):
    page = tmp_path / "page.html"
    said = wardround("audit", "--broken", "--json", "--out", page)
    schemes = json.loads(said.out)["schemes"]
    assert said.code == 0
    assert len(schemes) == 2 * len(SCHEMES)
    assert all(one["caught"] == one["broken"] for one in schemes)
    assert page.read_text().count("caught") == len(SCHEMES)


@pytest.mark.thorough
def test_a_broken_scheme_that_is_missed_exits_with_three(wardround, monkeypatch):
    missed = try_one(SCHEMES[0], 0, 30, broken=True)  # too few runs to see it
    assert not missed.found.caught
    monkeypatch.setattr("wardround.audit.broken.try_all", lambda seed, runs: [missed])
    assert wardround("audit", "--broken", "--json").code == 3


@pytest.mark.parametrize(("given", "runs"), [((), 16_000), (("--runs", 40), 40)])
def test_the_broken_schemes_are_run_as_often_as_is_asked(wardround, monkeypatch, given, runs):
    asked = []

    def try_all(seed, runs):
        asked.append(runs)
        return []

    monkeypatch.setattr("wardround.audit.broken.try_all", try_all)
    assert wardround("audit", "--broken", *given).code == 0
    assert asked == [runs]


@pytest.mark.thorough
def test_a_finished_run_is_audited_with_its_certificate(wardround, study, tmp_path):
    run = tmp_path / "run"
    assert wardround("run", study, "--out", run).code == 0
    found = json.loads(wardround("audit", run, "--runs", 30, "--json").out)
    assert found["verdict"] == CLEAN
    assert [one["word"] for one in found["accounting"]] == 4 * ["claimed"] + 2 * ["charged"]


@pytest.mark.thorough
def test_a_run_of_kept_rounds_is_attacked_at_all_of_them(wardround, study, tmp_path):
    study.write_text(
        study.read_text().replace("rounds = 1", "rounds = 4") + '\n[performance]\nkeep = "every-round"\n'
    )
    run, page = tmp_path / "run", tmp_path / "page.html"
    assert wardround("run", study, "--out", run).code == 0
    said = wardround("audit", run, "--runs", 30, "--seed", 2, "--model", "--shadows", 12, "--json", "--out", page)
    found = json.loads(said.out)
    assert found["model"]["rounds"] == [1, 2, 3, 4]
    assert {one["attack"] for one in found["model"]["figures"]} == {"loss threshold", "LiRA", "RMIA"}
    assert any("ledger" in line for line in found["record"]["holds"])
    assert page.stat().st_mode & 0o777 == 0o600
    assert "Membership in the released model" in page.read_text()
