"""Faults of the machine: every cause has its code, its sentence names file, cause and remedy, and files stay whole."""

import errno
import os
import sqlite3

import pytest
from tests.errors import raises_code

from wardround.boundary.documents import read_regular
from wardround.boundary.machine import machine_error, of_sqlite
from wardround.boundary.private import appears_whole, make_private_folder
from wardround.errors import DataError, MachineError

CAUSES = {
    errno.ENOSPC: "machine-full", errno.EDQUOT: "machine-quota", errno.EFBIG: "machine-file-size",
    errno.EROFS: "machine-read-only", errno.EIO: "machine-disk", errno.EMFILE: "machine-files",
    errno.ENOMEM: "machine-memory", errno.ESTALE: "machine-mount", errno.ENOTCONN: "machine-mount",
    errno.EACCES: "machine-permission", errno.ENOENT: "machine-path", errno.EPROTO: "machine-disk",
}  # fmt: skip


def failing(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", CAUSES)
def test_a_cause_has_its_code_and_its_sentence_the_systems_words(number):
    fault = machine_error(OSError(number, os.strerror(number), "the/file"))
    assert fault is not None
    assert fault.code == CAUSES[number]
    assert str(fault).startswith(f"the/file could not be read or written ({os.strerror(number)}); ")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_that_is_used_up_is_a_fault(error):
    fault = machine_error(error)
    assert fault is not None
    assert fault.code == "machine-memory"


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), OSError("truncated"), KeyError(1), DataError("x")]
)
def test_a_mistake_is_no_fault(error):
    assert machine_error(error) is None


@pytest.mark.parametrize("step", ["open", "fdopen", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_written_stands_as_it_was(tmp_path, monkeypatch, step, number):
    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace" if step == "replace" else f"os.{step}", failing(number))
        with raises_code(MachineError, CAUSES[number]) as caught, appears_whole(path) as file:
            file.write(b"new")
    assert str(path) in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", failing(errno.EROFS))
    with raises_code(MachineError, "machine-read-only") as caught:
        make_private_folder(tmp_path / "a" / "b")
    assert str(tmp_path / "a" / "b") in str(caught.value)


def test_reading_tells_a_disk_that_fails_from_a_wrong_path(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 10)
    (tmp_path / "file").write_text("content")
    assert read_regular(tmp_path / "file", 10) == b"content"
    monkeypatch.setattr("os.open", failing(errno.ESTALE))
    with raises_code(MachineError, "machine-mount"):
        read_regular(tmp_path / "file", 10)


def test_the_disk_is_asked_why_sqlite_was_refused(tmp_path, monkeypatch):
    refused, path = sqlite3.OperationalError("disk I/O error"), tmp_path / "ledger"
    by_itself = of_sqlite(refused, path)
    assert by_itself is not None
    assert by_itself.code == "machine-disk"
    assert of_sqlite(sqlite3.OperationalError('near "x": syntax error'), path) is None
    assert of_sqlite(sqlite3.DatabaseError("file is not a database"), path) is None
    monkeypatch.setattr("os.fsync", failing(errno.EDQUOT))
    asked = of_sqlite(refused, path)
    assert asked is not None
    assert asked.code == "machine-quota"
