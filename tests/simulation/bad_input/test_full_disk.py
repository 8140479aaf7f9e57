"""A full disk at any place: one sentence, and the run can go on."""

import errno
import os
import sqlite3

import pytest
from tests.cases import family
from tests.simulation.bad_input.refusals import refusal

from wardround.images.rows import cache as picture_cache
from wardround.ledger.store import LedgerStore
from wardround.records.folder import RunFolder


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def goes_on(wardround, study, out):
    """After a failure, resuming (or running once more, where nothing had begun) ends well."""
    again = ("resume", out) if (out / "study.toml").exists() else ("run", study, "--out", out)
    ended = wardround(*again)
    assert ended.code == 0, ended.err
    assert (out / "certificate.json").exists()


def test_a_disk_full_of_pictures_is_a_sentence(study_file, refused, tmp_path, monkeypatch):
    path = study_file(performance={"cache": str(tmp_path / "cache")})
    monkeypatch.setattr(picture_cache, "_write", full)
    message = refused(path)
    assert "No space left on device" in message
    assert list((tmp_path / "cache").iterdir()) == [], "no half picture cache"


@pytest.mark.parametrize(
    "name",
    family(
        [
            "environment.json",
            "patients.csv",
            "study.toml",
            "results.json",
            "certificate.json",
            "model.safetensors",
        ],
        keep=["study.toml", "certificate.json"],
    ),
)
def test_a_disk_full_at_any_file_of_the_record_is_a_sentence(study_file, wardround, tmp_path, monkeypatch, name):
    path, out = study_file(), tmp_path / "out"
    replace = type(out).replace

    def full_at(self, target):
        return full() if target.name == name else replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full_at)
        message = refusal(wardround("run", path, "--out", out))
    assert f"{name} could not be read or written (No space left on device)" in message
    assert not list(out.rglob("*.tmp"))
    goes_on(wardround, path, out)


@pytest.mark.parametrize("failing", family(["write_checkpoint", "append_round"]))
def test_a_disk_full_in_the_third_round_is_a_sentence(study_file, wardround, tmp_path, monkeypatch, failing):
    path, out = study_file(), tmp_path / "out"
    honest = getattr(RunFolder, failing)
    calls: list[None] = []

    def full_at_the_third(self, *args):
        calls.append(None)
        if len(calls) < 3:
            return honest(self, *args)
        with monkeypatch.context() as patch:
            patch.setattr("os.fdopen", full)
            return honest(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, failing, full_at_the_third)
        assert "No space left on device" in refusal(wardround("run", path, "--out", out))
    goes_on(wardround, path, out)


@pytest.mark.parametrize("statement", family(["INSERT", "COMMIT"], keep=["COMMIT"]))
def test_a_disk_full_under_the_ledger_is_a_sentence_and_releases_nothing(
    study_file, wardround, tmp_path, monkeypatch, statement
):
    path, out = study_file(), tmp_path / "out"
    prepare = LedgerStore._prepare

    class Full:
        """A connection on a disk that is full when a charge is written."""

        def __init__(self, connection):
            self._connection = connection

        def __getattr__(self, name):
            return getattr(self._connection, name)

        def execute(self, query, *parameters):
            if query.startswith(statement):
                raise sqlite3.OperationalError("database or disk is full")
            return self._connection.execute(query, *parameters)

    def prepared(self):
        prepare(self)
        self._connection = Full(self._connection)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "_prepare", prepared)
        refusal(wardround("run", path, "--out", out))
    assert not (out / "rounds.jsonl").exists(), "nothing was released"
    goes_on(wardround, path, out)
