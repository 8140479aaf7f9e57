"""`wardround agent` and `wardround coordinate` on the command line: words, figures, and codes of refusals."""

import json

import pytest
from tests.hospital.deployed import NAMES, make_folders, study_of

from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy

ALONE = {"plan": "dp-sgd", "epsilon": 2.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}
STUDY = study_of(ALONE, {"rounds": 2})


@pytest.fixture
def north(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY.to_toml())
    folders, keys = make_folders(tmp_path)
    (tmp_path / "consortium").mkdir()
    SigningKey.new(system_entropy).write(tmp_path / "consortium" / "identity.pem")
    Pins(keys).write(tmp_path / "consortium" / "pins.toml")
    return folders["north"]


def test_a_study_is_reviewed_and_accepted(wardround, north, tmp_path):
    study = tmp_path / "study.toml"
    said = wardround("agent", "review", study, "--home", north)
    assert said.code == 0
    assert f"digest {STUDY.digest}" in said.out
    assert "12 of 12 patients can afford it" in said.out
    promise = [line for line in said.out.splitlines() if line.startswith("- ")]
    assert "- Each hospital adds all of the noise itself; nobody else is trusted." in promise
    assert max(map(len, promise)) <= 100
    said = wardround("agent", "accept", study, "--home", north, "--by", "Dr. North", "--json")
    found = json.loads(said.out)
    assert (found["digest"], found["by"]) == (STUDY.digest, "Dr. North")
    assert "[accepted]" in (north / "accepted" / f"{STUDY.digest}.toml").read_text()


def test_a_study_that_was_changed_after_its_review_is_not_accepted(wardround, north, tmp_path):
    changed = study_of(ALONE, {"rounds": 3})
    (tmp_path / "study.toml").write_text(changed.to_toml())
    accept = ("agent", "accept", tmp_path / "study.toml", "--home", north, "--digest")
    assert wardround(*accept, STUDY.digest).error.code == "study-other-digest"
    assert wardround(*accept, changed.digest[:12]).error.code == "study-other-digest", "all of it, or nothing"
    assert not (north / "accepted").exists() or not list((north / "accepted").glob(f"{changed.digest}*"))
    assert wardround(*accept, changed.digest).code == 0


def test_a_study_that_the_policy_forbids_is_not_accepted(wardround, north, tmp_path):
    with (north / "policy.toml").open("a") as file:
        file.write("least_hospitals = 9\n")
    said = wardround("agent", "accept", tmp_path / "study.toml", "--home", north)
    assert (said.code, said.error.code) == (2, "privacy-policy-least-hospitals")
    said = wardround("agent", "review", tmp_path / "study.toml", "--home", north)
    assert "refused (privacy-policy-least-hospitals)" in said.out


def test_an_agent_needs_a_home_and_opens_accepted_studies_only(wardround, north, tmp_path):
    assert wardround("agent").error.code == "study-no-home"
    said = wardround("agent", "--home", north, "--study", tmp_path / "study.toml")
    assert (said.code, said.error.code) == (2, "study-not-accepted")


@pytest.mark.parametrize(
    "hospitals",
    [["north=a"], ["north=a", "south=b", "west=c"], ["north=a", "south=b", "east"], ["north=a"] * 3],
    ids=["too few", "another", "no socket", "twice"],
)
def test_a_coordinator_needs_a_socket_of_each_hospital(wardround, north, tmp_path, hospitals):
    options = [part for hospital in hospitals for part in ("--hospital", hospital)]
    said = wardround("coordinate", tmp_path / "study.toml", *options, "--out", tmp_path / "run")
    assert (said.code, said.error.code) == (2, "study-hospital-sockets")


def test_hospitals_that_are_away_are_named(wardround, north, tmp_path):
    options = [part for name in NAMES for part in ("--hospital", f"{name}={tmp_path / name}.sock")]
    run = tmp_path / "run"
    home = ("--home", tmp_path / "consortium")
    said = wardround("coordinate", tmp_path / "study.toml", *options, *home, "--out", run, "--patience", "0")
    assert (said.code, said.error.code) == (2, "federation-silent-hospital")
    assert "gone" in said.err
    assert "See that its agent runs" in said.err  # its log has nothing of a question that it never heard
    assert "log says why" not in said.err
    assert not run.exists()
