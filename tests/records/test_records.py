"""What a run leaves on disk: whole or not at all, readable again, and free of names."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.errors import raises_code
from tests.records.damaged import ARRAYS, damaged

from wardround.boundary.private import write_whole
from wardround.errors import MachineError, RecordError
from wardround.records.arrays import arrays_from_file, arrays_to_bytes
from wardround.records.folder import RunFolder, RunRecord
from wardround.records.reading import read_json, read_lines


def test_arrays_survive_the_round_trip_bit_for_bit(tmp_path):
    path = tmp_path / "arrays.safetensors"
    path.write_bytes(arrays_to_bytes(ARRAYS))
    read = arrays_from_file(path)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == np.float32
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


def test_equal_arrays_make_equal_files():
    assert arrays_to_bytes(ARRAYS) == arrays_to_bytes({name: array.copy() for name, array in ARRAYS.items()})


def test_one_turned_bit_anywhere_in_an_array_file_is_noticed(tmp_path):
    path = tmp_path / "arrays.safetensors"
    whole = arrays_to_bytes(ARRAYS)
    for at in range(len(whole)):
        path.write_bytes(whole)
        damaged(path, at)
        try:
            read = arrays_from_file(path)
        except RecordError:
            continue
        # A turned bit in the header's padding changes nothing that is read.
        assert all(np.array_equal(read[name], array) for name, array in ARRAYS.items()), at


def test_a_file_cut_off_anywhere_is_noticed(tmp_path):
    path = tmp_path / "arrays.safetensors"
    whole = arrays_to_bytes(ARRAYS)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            arrays_from_file(path)


def test_json_survives_the_round_trip(folder):
    content = {"epsilon": 8.0, "name": "Krankenhaus Süd", "rounds": [1, 2], "none": None, "tiny": 1e-300}
    folder.write_json("results.json", content)
    assert read_json(folder.path / "results.json") == content


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_takes_no_number_that_json_does_not_know(folder, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("results.json", {"auroc": number})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append_round({"round": 1, "auroc": number})
    assert not (folder.path / "results.json").exists()
    assert read_lines(folder.path / "rounds.jsonl") == []


def test_rounds_survive_the_round_trip(folder):
    entries = [{"round": 1, "seconds": 0.5}, {"round": 2, "metrics": {"auroc": None}}]
    for entry in entries:
        folder.append_round(entry)
    assert read_lines(folder.path / "rounds.jsonl") == entries


def test_a_last_line_cut_off_anywhere_is_left_out(tmp_path):
    path = tmp_path / "rounds.jsonl"
    first, last = '{"round": 1}\n', '{"round": 2, "text": "a}b"}\n'
    for length in range(len(last) - 1):
        path.write_text(first + last[:length])
        assert read_lines(path) == [{"round": 1}], length
    path.write_text(first + last)
    assert len(read_lines(path)) == 2


@pytest.mark.parametrize("line", ["{", "3", '"a text"', "", "\x00"])
def test_a_damaged_earlier_line_is_an_error(tmp_path, line):
    path = tmp_path / "rounds.jsonl"
    path.write_text(f'{{"round": 1}}\n{line}\n{{"round": 3}}\n')
    with pytest.raises(RecordError, match="damaged at line 2"):
        read_lines(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff"])
def test_a_file_that_holds_no_json_object_is_an_error(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=re.escape("results.json")):
        read_json(path)


def crash_at_replace(monkeypatch):
    def crash(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)


def full_disk_at_replace(monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)


def test_a_crash_while_writing_leaves_the_old_file(folder, monkeypatch):
    folder.write_text("results.json", "old")
    with monkeypatch.context() as patch:
        crash_at_replace(patch)
        with pytest.raises(KeyboardInterrupt):
            folder.write_text("results.json", "new")
    assert (folder.path / "results.json").read_text() == "old"


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(folder, monkeypatch):
    folder.write_text("results.json", "old")
    before = sorted(folder.path.iterdir())
    with monkeypatch.context() as patch:
        full_disk_at_replace(patch)
        with raises_code(MachineError, "machine-full"):
            folder.write_text("results.json", "new")
    assert (folder.path / "results.json").read_text() == "old"
    assert sorted(folder.path.iterdir()) == before


def test_what_a_killed_process_left_half_written_is_cleared_away(folder, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at_replace(patch)
        with pytest.raises(KeyboardInterrupt):
            folder.write_checkpoint(1, ARRAYS)
        with pytest.raises(KeyboardInterrupt):
            folder.write_text("study.toml", "half")
    folder.close()

    again = RunFolder.create(folder.path)  # not refused: the rests are ours
    again.close()
    assert sorted(p.name for p in folder.path.rglob("*")) == [".lock", "checkpoints"]


def test_a_crash_while_replacing_leaves_one_checkpoint_or_the_other(folder, monkeypatch):
    folder.write_checkpoint(1, ARRAYS)
    with monkeypatch.context() as patch:
        crash_at_replace(patch)
        with pytest.raises(KeyboardInterrupt):
            folder.write_checkpoint(2, ARRAYS)
    found = folder.latest_checkpoint()
    assert found is not None
    assert found[0] == 1


def test_one_process_at_a_time_writes_a_folder(folder):
    folder.write_text("study.toml", "")
    with pytest.raises(RecordError, match="another one does"):
        RunFolder.open(folder.path)
    with pytest.raises(RecordError, match="another one does"):
        RunFolder.create(folder.path, fresh=True)
    folder.close()
    RunFolder.open(folder.path).close()


def test_a_folder_with_a_run_is_refused_and_untouched(folder):
    folder.write_text("study.toml", "[study]")
    folder.close()
    with pytest.raises(RecordError, match="--fresh"):
        RunFolder.create(folder.path)
    assert (folder.path / "study.toml").read_text() == "[study]"


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    with pytest.raises(RecordError, match="other files"):
        RunFolder.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with raises_code(MachineError, "machine-path"):
            RunFolder.create(path)


def test_a_folder_that_cannot_be_locked_is_refused_in_a_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with raises_code(MachineError, "machine-path"):
        RunFolder.create(tmp_path)


def test_fresh_keeps_the_ledger_and_what_is_not_ours(folder):
    for name in ("study.toml", "results.json", "model.json", "ledger.sqlite", "notes.txt"):
        folder.write_text(name, "earlier")
    folder.write_checkpoint(3, ARRAYS)
    folder.close()
    RunFolder.create(folder.path, fresh=True).close()
    kept = sorted(path.name for path in folder.path.rglob("*"))
    assert kept == [".lock", "checkpoints", "ledger.sqlite", "notes.txt"]


def test_patients_are_written_as_a_table(folder):
    folder.write_patients(("patient", "place"), [("ab12", "test"), ("cd,34", "hospital-1")])
    assert (folder.path / "patients.csv").read_text() == 'patient,place\nab12,test\n"cd,34",hospital-1\n'


def test_a_finished_run_is_read_back(finished):
    record = RunRecord.read(finished)
    assert [line["round"] for line in record.rounds] == [1, 2, 3, 4]
    assert record.certificate["rounds"] == 4
    assert record.environment["study_digest"] == record.certificate["study_digest"]
    assert 'name = "tiny"' in record.study


@pytest.mark.parametrize("name", ["study.toml", "environment.json", "results.json", "certificate.json"])
def test_a_run_without_one_of_its_files_is_refused(finished, tmp_path, name):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / name).unlink()
    with pytest.raises(RecordError):
        RunRecord.read(copy)


def test_a_run_folder_holds_json_that_every_reader_takes(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    files = sorted(finished.glob("*.json"))
    assert files
    for path in files:
        json.loads(path.read_text(), parse_constant=refuse)
    for line in (finished / "rounds.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_run_without_privacy_leaves_json_that_every_reader_takes(tiny_study, tmp_path):
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    out = tmp_path / "run"
    run_study(
        tiny_study(privacy={"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}), out, Silent()
    )
    for path in [*out.glob("*.json"), out / "rounds.jsonl"]:
        assert not re.search(r"\b(NaN|Infinity)\b", path.read_text()), path.name
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["statement"]["epsilon"] == "infinity"


def test_no_name_of_a_patient_or_a_picture_is_anywhere_in_a_run_folder(tiny_study, make_pictures, tmp_path):
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    make_pictures(tmp_path / "data", patient="canary-person-{:02d}", picture="canary-view")
    study = tiny_study(
        study={"seed": None}, data={"layout": "folder", "path": str(tmp_path / "data")},
        federation={"rounds": 2, "compare": ["pooled", "alone-no-privacy"]},
    )  # fmt: skip
    out = tmp_path / "run"
    run_study(study, out, Silent())

    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"study.toml", "own.html", "patients.csv", "ledger.json", "certificate.json"} <= {
        path.name for path in files
    }
    for path in files:
        assert b"canary" not in path.read_bytes().lower(), path.name
    assert len((out / "patients.csv").read_text().splitlines()) == 1 + 24


@pytest.mark.usefixtures("without_charts")
def test_the_hashes_of_patients_differ_from_run_to_run(tiny_study, finished, tmp_path):
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    run_study(tiny_study(), tmp_path / "again", Silent())

    def hashes(folder):
        return {line.split(",")[0] for line in (folder / "patients.csv").read_text().splitlines()[1:]}

    assert len(hashes(finished)) == 40
    assert not hashes(finished) & hashes(tmp_path / "again"), "the key is forgotten at once"


def test_writing_durably_waits_for_the_disk(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_whole(tmp_path / "a", b"1", durable=True)
    assert len(synced) == 1
    write_whole(tmp_path / "b", b"1", durable=False)
    assert len(synced) == 1
