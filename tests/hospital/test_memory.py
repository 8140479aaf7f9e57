"""A hospital's notes: what a repeated round finds is what the first one found, or a refusal."""

import numpy as np
import pytest

from wardround.errors import RecordError
from wardround.hospital.kept.memory import Memory


@pytest.fixture(params=["in this process", "on disk"])
def folder(request, tmp_path):
    return None if request.param == "in this process" else tmp_path / "notes"


def note(value):
    return {"replica": np.full(3, value, dtype=np.float32)}


def value_of(notes):
    return float(notes["replica"][0]) if notes else None


def test_a_round_sees_the_notes_of_the_last_round_before_it(folder):
    memory = Memory(folder)
    assert memory.before(1) == {}
    memory.write(2, note(2))
    memory.write(5, note(5))
    assert [value_of(memory.before(round)) for round in (1, 2, 3, 5, 6, 99)] == [None, None, 2, 2, 5, 5]
    assert [value_of(memory.of(round)) for round in (1, 2, 5)] == [None, 2, 5]


def test_a_round_that_is_repeated_overwrites_its_own_note_alone(folder):
    memory = Memory(folder)
    memory.write(2, note(2))
    memory.write(5, note(5))
    memory.write(5, note(50))
    assert value_of(memory.before(5)) == 2
    assert value_of(memory.before(6)) == 50


def test_what_was_forgotten_is_missed_and_not_taken_for_a_first_visit(folder):
    memory = Memory(folder)
    for round in (2, 5, 7):
        memory.write(round, note(round))
    assert value_of(memory.before(7)) == 5
    with pytest.raises(RecordError, match="before round 5"):
        memory.before(5)


def test_notes_are_kept_in_single_and_double_precision(folder):
    memory = Memory(folder)
    arrays = {name: np.array([1 / 3], dtype=name) for name in ("float32", "float64")}
    memory.write(1, arrays)
    for name, array in memory.before(2).items():
        assert array.dtype == name
        assert array == arrays[name]


def test_another_process_finds_the_notes(tmp_path):
    for round in (1, 2, 3):
        Memory(tmp_path).write(round, note(round))
    assert value_of(Memory(tmp_path).before(4)) == 3
    with pytest.raises(RecordError, match="start a new run"):
        Memory(tmp_path).before(2)


def test_a_note_that_was_half_written_is_not_there(tmp_path):
    memory = Memory(tmp_path)
    memory.write(1, note(1))
    (tmp_path / "00000002.partial").write_bytes(b"half")
    assert value_of(memory.before(9)) == 1
    memory.write(2, note(2))
    assert value_of(memory.before(9)) == 2


def test_a_damaged_note_is_refused(tmp_path):
    memory = Memory(tmp_path)
    memory.write(1, note(1))
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(RecordError, match="round 1 must be readable"):
        memory.before(2)
