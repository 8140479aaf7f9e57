"""Keys, ledger and notes of a masked run's hospitals: kept, refused when lost, and enough to go on after a kill."""

import json
import shutil
import stat

import pytest
from tests.cases import family
from tests.errors import raises_code
from tests.simulation.killed import begun, killed_after
from tests.simulation.runs import (
    InterruptingRound,
    charges,
    interrupted,
    read_json,
    resume_run,
    run_study,
    what_counts,
)

from wardround.errors import FederationError, LedgerError, RecordError, WardroundError
from wardround.ledger.file import LedgerFile
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.masked import own_folder
from wardround.types import HospitalName

MASKED = {"sum": "masked", "num_patients": 32}


def test_a_hospital_keeps_to_its_folder_whatever_its_name(tmp_path):
    names = ["north", "a/b", "a b", "..", ".", "Søndre", "a%2Fb"]
    folders = [own_folder(tmp_path, HospitalName(name)) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder is not None and folder.resolve().parent == tmp_path.resolve() for folder in folders)
    assert own_folder(None, HospitalName("north")) is None


def test_every_hospital_has_a_key_of_its_own_and_the_others_pinned(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    folders = sorted((out / "hospitals").iterdir())
    assert [folder.name for folder in folders] == ["hospital-1", "hospital-2", "hospital-3"]
    assert len({(folder / "identity.pem").read_bytes() for folder in folders}) == 3
    for folder in folders:
        assert stat.S_IMODE((folder / "identity.pem").stat().st_mode) == 0o600
        assert (folder / "pins.toml").read_text().count(" = ") == 2
        assert json.loads((folder / "notes.json").read_text())["round"] == 2


def test_in_earnest_an_interrupted_round_is_charged_again_and_the_run_is_completed(tiny_study, tmp_path):
    study = tiny_study(privacy={**MASKED, "epsilon_limit": 20.0}, study={"seed": None})
    interrupted(study, tmp_path / "run", InterruptingRound(3))
    record = resume_run(tmp_path / "run")
    assert record.certificate["rounds"] == 4
    assert {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()} == {5}
    assert record.certificate["statement"]["epsilon"] > 8.0, "five releases were charged"


@pytest.mark.thorough
def test_a_run_goes_on_from_a_checkpoint_older_than_its_hospitals_notes(tiny_study, tmp_path):
    study, out = tiny_study(privacy=MASKED), tmp_path / "run"
    run_study(study, tmp_path / "whole")
    interrupted(study, out, InterruptingRound(4))
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-4])  # as after a power cut
    resume_run(out)
    assert what_counts(out) == what_counts(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, None], ids=["seeded", "in earnest"])
def test_killed_without_a_warning_it_resumes_and_nothing_is_forgotten(study_file, tmp_path, wardround, seed):
    rounds = {"rounds": 100, "evaluate_every": 100, "learning_rate": 0.01}
    privacy = {**MASKED, "epsilon": None, "noise_multiplier": 20.0, "epsilon_limit": 50.0}
    out = tmp_path / "run"
    file = study_file(study={"seed": seed}, federation=rounds, privacy=privacy)
    for lines in (10, 40, 70):
        process = begun("resume", out) if out.exists() else begun("run", file, "--out", out)
        assert killed_after(process, out, lines), "it was killed in the middle"
    assert wardround("resume", out).code == 0
    certificate = read_json(out / "certificate.json")
    assert certificate["rounds"] == 100
    asked = {len(charged) for charged in charges(out / "ledger.sqlite").values()}
    assert asked == {100} if seed else max(asked) <= 103, "each of three kills may cost one release"
    assert certificate["statement"]["releases"] == max(asked)


def test_a_key_that_was_replaced_is_refused_on_resume(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    (out / "hospitals" / "hospital-2" / "identity.pem").unlink()
    SigningKey.new(system_entropy).write(out / "hospitals" / "hospital-2" / "identity.pem")
    with pytest.raises(FederationError, match="keep to the protocol"):
        resume_run(out)
    assert "key that is pinned" in (out / "hospitals.log").read_text()


def test_a_ledger_that_was_emptied_is_refused_on_resume(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    (out / "ledger.sqlite").unlink()
    with raises_code(RecordError, "record-ledger-gone"):
        resume_run(out)
    LedgerFile(out / "ledger.sqlite.new").close()
    (out / "ledger.sqlite.new").rename(out / "ledger.sqlite")
    with raises_code(LedgerError, "ledger-older"):
        resume_run(out)
    (out / "ledger.sqlite.mark").unlink()
    with raises_code(LedgerError, "ledger-older"):
        resume_run(out)


def file_in_place_of(own):
    shutil.rmtree(own.parent)
    own.parent.touch()


@pytest.mark.parametrize(
    ("damage", "why"),
    family(
        [
            (lambda own: (own / "identity.pem").unlink(), r"identity\.pem is missing; restore it"),
            (lambda own: shutil.rmtree(own), r"identity\.pem is missing; restore it"),
            (
                lambda own: (own / "pins.toml").write_text("# nobody\n"),
                r"pins\.toml must have the key of hospital-1",
            ),
            (
                lambda own: (own / "pins.toml").write_bytes(b"\xff\xfe"),
                r"pins\.toml must be a TOML file of pinned keys .* restore it",
            ),
            (lambda own: (own / "notes.json").write_text("[1, 2]"), r"notes\.json .* no JSON object"),
            (file_in_place_of, "a file is in the place of a folder"),
        ]
    ),
    ids=["no key", "no folder", "no pins", "other pins", "other notes", "no folders"],
)
def test_what_hospitals_keep_is_refused_by_its_file_if_it_is_lost_or_damaged(tiny_study, tmp_path, damage, why):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    before = charges(out / "ledger.sqlite")
    damage(out / "hospitals" / "hospital-2")
    with pytest.raises(WardroundError, match=why):
        resume_run(out)
    assert charges(out / "ledger.sqlite") == before


@pytest.mark.thorough
def test_a_run_killed_while_keys_were_made_makes_the_rest(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(1))
    for folder in (out / "hospitals").iterdir():
        (folder / "pins.toml").unlink()
        (folder / "notes.json").unlink()  # nobody announces a ledger before all keys are there
    (out / "hospitals" / "hospital-3" / "identity.pem").unlink()
    assert resume_run(out).certificate["rounds"] == 4


def test_masks_that_cannot_be_made_are_refused_before_a_file_is_written(tiny_study, tmp_path):
    with pytest.raises(WardroundError, match=r"fewer patients \(num_patients\)"):
        run_study(tiny_study(privacy={**MASKED, "num_patients": 10**15}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
