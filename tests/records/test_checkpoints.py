"""Checkpoints of a run: which is found, how many are kept, and what of a damaged one is noticed."""

import numpy as np
import pytest
from tests.errors import raises_code
from tests.records.damaged import ARRAYS, damaged

from wardround.errors import RecordError
from wardround.records.folder import RunFolder
from wardround.records.reading import read_lines


def checkpoints(folder):
    return sorted((folder.path / "checkpoints").glob("round-*"))


def test_the_last_checkpoint_is_the_one_that_is_found(folder):
    for round in (9, 10, 11):
        folder.append_round({"round": round})
        folder.write_checkpoint(round, {"state:weights": np.full(3, round, dtype=np.float32)})
    round, arrays = folder.latest_checkpoint()
    assert round == 11
    assert arrays["state:weights"].tolist() == [11, 11, 11]


def test_a_few_checkpoints_are_kept_and_no_more(folder):
    for round in range(20):
        folder.write_checkpoint(round, ARRAYS)
    assert len(checkpoints(folder)) <= 2


def test_every_checkpoint_is_kept_where_that_is_asked_for_and_the_last_one_is_found(folder, monkeypatch):
    waited: list[int] = []
    monkeypatch.setattr("os.fsync", waited.append)
    folder.keeps_every_round = True
    for round in range(20):
        folder.append_round({"round": round})
        folder.write_checkpoint(round, ARRAYS)
    assert [path.name for path in checkpoints(folder)] == [f"round-{r:06d}.safetensors" for r in range(20)]
    assert len(waited) == 20, "a power cut leaves each of them whole"
    assert folder.latest_checkpoint()[0] == 19
    folder.close()
    folder.write_text("study.toml", "")
    again = RunFolder.create(folder.path, fresh=True)
    assert checkpoints(again) == []
    again.close()


def test_there_is_no_checkpoint_before_the_first(folder):
    assert folder.latest_checkpoint() is None


@pytest.mark.parametrize("at", [4, -1], ids=["header", "last number"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(folder, at):
    for round in (1, 2):
        folder.append_round({"round": round})
        folder.write_checkpoint(round, {"state:weights": np.full(3, round, dtype=np.float32)})
    assert len(checkpoints(folder)) == 2, "the first was waited for, so it is kept beside the second"
    damaged(checkpoints(folder)[-1], at)

    round, arrays = folder.latest_checkpoint()

    assert round == 1
    assert arrays["state:weights"].tolist() == [1, 1, 1]
    assert read_lines(folder.path / "rounds.jsonl") == [{"round": 1}], "the history ends where the run goes on"


def test_when_every_checkpoint_is_damaged_the_run_does_not_begin_anew_in_silence(folder):
    for round in (1, 2):
        folder.write_checkpoint(round, ARRAYS)
    for path in checkpoints(folder):
        path.write_bytes(b"")
    with pytest.raises(RecordError, match="all 2 are damaged"):
        folder.latest_checkpoint()


def test_a_checkpoint_cuts_the_history_that_ran_ahead_of_it(folder):
    folder.append_round({"round": 1})
    folder.write_checkpoint(1, ARRAYS)
    folder.append_round({"round": 2})
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "seco')
    assert folder.latest_checkpoint()[0] == 1
    assert (folder.path / "rounds.jsonl").read_text() == '{"round": 1}\n'


@pytest.mark.parametrize(
    "name", ["round-000001.safetensors", "round-000009.safetensors", "round-999999.safetensors"]
)
def test_a_checkpoint_whose_name_lies_about_its_round_is_refused(folder, name):
    folder.write_checkpoint(5, ARRAYS)
    (path,) = checkpoints(folder)
    path.rename(path.with_name(name))
    with raises_code(RecordError, "record-renamed"):
        folder.latest_checkpoint()
    path.with_name(name).rename(path)
    assert folder.latest_checkpoint()[0] == 5


def test_a_checkpoint_with_arrays_of_another_type_is_refused(folder):
    folder.write_checkpoint(1, {"state:weights": np.zeros(3)})
    with pytest.raises(RecordError, match="float32"):
        folder.latest_checkpoint()


@pytest.mark.parametrize("line", ["{}", '{"round": "1"}', '{"round": true}'])
def test_a_history_without_rounds_is_refused(folder, line):
    folder.write_checkpoint(1, ARRAYS)
    (folder.path / "rounds.jsonl").write_text(line + "\n")
    with pytest.raises(RecordError, match="name its round"):
        folder.latest_checkpoint()
