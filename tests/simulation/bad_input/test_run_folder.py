"""Run folders in the way, and damaged records: one sentence, and nothing is changed."""

import errno
import os

import pytest
from tests.simulation.bad_input.refusals import contents, refusal


def test_a_folder_with_a_run_is_refused_without_fresh(study_file, wardround, earlier):
    before = contents(earlier)
    ended = wardround("run", study_file(), "--out", earlier)
    message = refusal(ended)
    assert "reading pictures" not in ended.err, "what can be told at once is told at once"
    assert "--fresh" in message
    assert "wardround resume" in message
    assert contents(earlier) == before


def test_a_folder_with_other_files_is_refused(study_file, wardround, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.tex").write_text("chapter one")
    before = contents(out)
    assert "other files" in refusal(wardround("run", study_file(), "--out", out))
    assert contents(out) == before


def test_a_folder_that_cannot_be_written_is_refused(study_file, wardround, tmp_path, monkeypatch):
    # Tests may run as root, whom permissions do not stop: here the system refuses instead.
    def refuse(path, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = study_file()
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    message = refusal(wardround("run", path, "--out", tmp_path / "out"))
    assert "could not be read or written (Permission denied)" in message
    assert not (tmp_path / "out").exists()


def test_a_file_as_run_folder_is_refused(study_file, wardround, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert "in the place of a folder" in refusal(wardround("run", study_file(), "--out", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_that_is_no_run_is_refused(wardround, tmp_path, command):
    (tmp_path / "notes.txt").write_text("")
    assert "study.toml" in refusal(wardround(command, tmp_path))
    assert "study.toml" in refusal(wardround(command, tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_report_of_an_unfinished_run_is_refused(wardround, earlier):
    (earlier / "certificate.json").unlink()
    before = contents(earlier)
    assert "must be finished" in refusal(wardround("report", earlier))
    assert contents(earlier) == before


@pytest.mark.parametrize("command", ["resume", "report"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["certificate.json", "results.json"])
def test_a_damaged_record_is_refused_by_its_name(wardround, earlier, command, name, content):
    (earlier / name).write_text(content)
    assert name in refusal(wardround(command, earlier))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_an_unfinished_run_whose_environment_is_damaged_is_refused(wardround, earlier, content):
    (earlier / "certificate.json").unlink()
    (earlier / "environment.json").write_text(content)
    refusal(wardround("resume", earlier))


def test_an_unfinished_run_whose_checkpoints_are_all_damaged_is_refused(wardround, earlier):
    (earlier / "certificate.json").unlink()
    for path in (earlier / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refusal(wardround("resume", earlier))
