"""A folder, a .zip or a .tar: the same files by the same names, and links that lead nowhere else."""

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.errors import raises_code
from tests.images.packed import FILES, in_folder, in_tar, in_zip

from wardround.errors import DataError, MachineError
from wardround.images import store as store_room
from wardround.images.store import open_store

PASSED_OVER = {".hidden": b"x", "__MACOSX/a.png": b"x", "deep/._b": b"x", ".git/config": b"x"} | {
    f"{above}{folder}/deep/old.png": b"x"
    for folder in (
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "@eaDir",
        "#recycle",
        "@Recycle",
        "~snapshot",
    )
    for above in ("", "deep/")
}


@pytest.fixture(params=["folder", "zip", "tar"])
def opened(request, tmp_path):
    """FILES, and what is passed over, in every kind of store."""
    files = FILES | PASSED_OVER
    if request.param == "folder":
        path = in_folder(tmp_path / "data", files)
    else:
        path = (in_zip if request.param == "zip" else in_tar)(tmp_path / f"data.{request.param}", files)
    with contextlib.closing(open_store(path)) as store:
        yield store


def test_every_kind_of_store_holds_the_same_files(opened):
    assert opened.names() == sorted(FILES)
    assert {name: opened.read(name) for name in opened.names()} == FILES
    assert {name: opened.size(name) for name in opened.names()} == {n: len(c) for n, c in FILES.items()}
    assert "a.png" in opened
    assert ".hidden" not in opened
    assert opened.head("deep/er/b.dcm", 3) == b"\0\1\2"


def test_a_file_answers_to_a_name_that_says_nothing(opened):
    assert opened.alias("deep/c") == "file 2 of 3"
    assert opened.read("file 3 of 3") == FILES["deep/er/b.dcm"]
    assert "file 3 of 3" in opened
    assert opened.alias("file 3 of 3") == "file 3 of 3"


def test_a_file_at_the_top_answers_in_another_case_unless_two_do(tmp_path):
    for name in ("Patients.CSV", "Labels.csv", "LABELS.csv", "manifest.csv", "deep/Patients.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    store = open_store(tmp_path)
    assert store.read("patients.csv") == b"Patients.CSV"
    assert store.size("patients.csv") == 12
    assert [name in store for name in ("MANIFEST.csv", "labels.csv", "deep/patients.csv")] == [True, False, False]


@pytest.mark.parametrize("name", ["gone", ".hidden", "../a.png", "/etc/passwd", "deep", "file 4 of 3"])
def test_what_is_not_listed_is_not_read(opened, name):
    with raises_code(DataError, "data-file-missing"):
        opened.read(name)


def test_threads_read_at_once(opened):
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(opened.read, ["a.png", "deep/er/b.dcm"] * 50))
    assert contents == [FILES["a.png"], FILES["deep/er/b.dcm"]] * 50


def test_a_file_above_the_limit_is_refused_by_what_it_holds_not_by_what_is_said(opened, monkeypatch):
    monkeypatch.setattr(store_room, "MAX_BYTES", 100)
    with raises_code(DataError, "data-file-size"):
        opened.read("deep/er/b.dcm")
    opened._sizes["deep/er/b.dcm"] = 5  # what the store believes
    with raises_code(DataError, "data-file-size"):
        opened.read("deep/er/b.dcm")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.txt", "x.7z", "gone.zip"])
def test_anything_else_is_refused(tmp_path, name):
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    with raises_code(DataError, "data-no-folder" if name == "gone.zip" else "data-no-store"):
        open_store(tmp_path / name)


def test_a_link_that_leads_out_of_the_folder_is_refused_and_one_within_is_a_file(tmp_path):
    root = in_folder(tmp_path / "data", {"a": b"1"})
    (root / "b").symlink_to(root / "a")
    (root / "loop").symlink_to(root)
    assert open_store(root).names() == ["a", "b"]
    (tmp_path / "secret").write_bytes(b"2")
    (root / "c").symlink_to(tmp_path / "secret")
    with raises_code(DataError, "data-link-outside"):
        open_store(root)


def test_links_to_folders_within_are_followed_and_circles_end(tmp_path):
    root = in_folder(tmp_path / "data", {".raw/x/1": b"1", "deep/y/2": b"22", "plain/3": b"3"})
    (root / "ill").symlink_to(root / ".raw" / "x")
    (root / "plain" / "well").symlink_to("../deep/y")
    (root / "deep" / "back").symlink_to(root / "plain")
    (root / "deep" / "y" / "up").symlink_to(root / "deep")
    store = open_store(root)
    reached = ["deep/back/3", "deep/back/well/2", "deep/y/2", "ill/1", "plain/3", "plain/well/2"]
    assert store.names() == reached
    assert store.read("plain/well/2") == b"22"


@pytest.mark.parametrize("target", ["outside", "outside/deep"])
def test_a_link_to_a_folder_outside_is_refused_in_a_sentence(tmp_path, target):
    root = in_folder(tmp_path / "data", {"ill/1": b"1"})
    in_folder(tmp_path / "outside", {"deep/2": b"2"})
    (root / "well").symlink_to(tmp_path / target)
    with raises_code(DataError, "data-link-outside"):
        open_store(root)


def test_a_link_that_leads_nowhere_is_refused_and_so_are_links_without_end(tmp_path, monkeypatch):
    root = in_folder(tmp_path / "data", {"ill/1": b"1"})
    (root / "ill" / "2").symlink_to(root / "gone")
    with raises_code(DataError, "data-link-broken"):
        open_store(root)
    farm = in_folder(tmp_path / "farm", {f"{n}/file": b"" for n in range(16)})
    for n in range(15):
        for name in "ab":
            (farm / str(n) / name).symlink_to(farm / str(n + 1))
    monkeypatch.setattr(store_room, "_MAX_LINKS", 500)
    with raises_code(DataError, "data-links"):
        open_store(farm)


def test_who_only_looks_is_told_of_all_links_at_once_and_goes_on(tmp_path):
    root = in_folder(tmp_path / "data", {"a": b"1"})
    for name in "bcd":
        (root / name).symlink_to(tmp_path / ("gone" if name == "d" else ".."))
    os.mkfifo(root / "pipe")
    store = open_store(root, looking=True)
    assert store.names() == ["a"]
    assert [error.code for error in store.refusals] == ["data-link-outside", "data-link-broken"]
    assert "got 2 links" in str(store.refusals[0])
    assert len(store.left_out) == 1
    with raises_code(DataError, "data-several"):
        open_store(root)


def test_a_file_that_becomes_a_link_to_elsewhere_is_not_read(tmp_path):
    root = in_folder(tmp_path / "data", {"a": b"1"})
    store = open_store(root)
    (tmp_path / "secret").write_bytes(b"2")
    (root / "a").unlink()
    (root / "a").symlink_to(tmp_path / "secret")
    with raises_code(DataError, "data-file-unreadable"):
        store.read("a")


def test_a_file_called_as_files_are_counted_is_refused(tmp_path):
    with raises_code(DataError, "data-file-name"):
        open_store(in_folder(tmp_path / "data", {"file 1 of 1": b""}))


@pytest.mark.parametrize("pack", ["folder", "tar"])
def test_a_disk_that_is_gone_leaves_no_picture_out(tmp_path, monkeypatch, pack):
    """A file that its disk cannot give is no damaged one: training would go on without its patient."""
    root = in_folder(tmp_path / "data", FILES) if pack == "folder" else in_tar(tmp_path / "data.tar", FILES)
    store = open_store(root)

    def gone(*_arguments):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(store._source, "read", gone)
    with raises_code(MachineError, "machine-mount"):
        store.read("a.png")
    store.close()
    monkeypatch.setattr("os.scandir", gone)
    monkeypatch.setattr("wardround.images.store.open_archive", gone)
    with raises_code(MachineError, "machine-mount"):
        open_store(root)
