"""A folder, a .zip or a .tar: the same files by the same names, and hostile archives refused with one sentence."""

import contextlib
import errno
import io
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.errors import raises_code

from wardround.errors import DataError, MachineError
from wardround.images import archives
from wardround.images import store as store_room
from wardround.images.findings import by_cause
from wardround.images.store import open_store

FILES = {"a.png": b"first", "deep/er/b.dcm": bytes(range(256)) * 40, "deep/c": b""}
PASSED_OVER = {".hidden": b"x", "__MACOSX/a.png": b"x", "deep/._b": b"x", ".git/config": b"x"}


def in_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def in_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def in_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


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


@pytest.mark.parametrize(
    "name",
    [
        "/abs.png",
        "../up.png",
        "a/../../up.png",
        "a\\b.png",
        "C:evil.png",
        "C:/evil.png",
        "a//b",
        "a/./b",
        "new\nline",
    ],
)
@pytest.mark.parametrize("pack", [in_zip, in_tar])
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path, pack, name):
    path = pack(tmp_path / f"x.{'zip' if pack is in_zip else 'tar'}", {"good.png": b"1", name: b"2"})
    with raises_code(DataError, "data-archive-name") as caught:
        open_store(path)
    assert name not in str(caught.value)


@pytest.mark.parametrize("pair", [("a.png", "A.PNG"), ("\u00e9.png", "e\u0301.png"), ("x/a", "./x/a")])
@pytest.mark.parametrize("pack", [in_zip, in_tar])
def test_two_members_of_one_name_refuse_the_archive(tmp_path, pack, pair):
    path = pack(tmp_path / f"x.{'zip' if pack is in_zip else 'tar'}", dict.fromkeys(pair, b""))
    with raises_code(DataError, "data-archive-name-twice"):
        open_store(path)


def tar_of(path, *members):
    """A tar of members, each a name, a type, a target and a content."""
    with tarfile.open(path, "w") as archive:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "deep/../../x", "..", "C:/x"])
def test_a_link_that_leads_outside_refuses_a_tar(tmp_path, kind, target):
    path = tar_of(tmp_path / "x.tar", ("innocent.png", kind, target, b""))
    with raises_code(DataError, "data-archive-link"):
        open_store(path)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_refuse_a_tar(tmp_path, kind):
    path = tar_of(tmp_path / "x.tar", ("innocent.png", kind, "", b""))
    with raises_code(DataError, "data-archive-device"):
        open_store(path)


def test_links_within_a_tar_are_the_file_or_left_out_with_the_cause(tmp_path):
    path = tar_of(
        tmp_path / "x.tar",
        ("deep/a.png", tarfile.REGTYPE, "", b"first"),
        ("./b.png", tarfile.LNKTYPE, "./deep/a.png", b""),
        ("deep/c.png", tarfile.SYMTYPE, "../b.png", b""),
        ("d.png", tarfile.LNKTYPE, "later.png", b""),
        (".hidden", tarfile.SYMTYPE, "b.png", b""),
        ("e.png", tarfile.GNUTYPE_SPARSE, "", b""),
        ("later.png", tarfile.REGTYPE, "", b"second"),
    )
    with contextlib.closing(open_store(path)) as store:
        assert store.names() == ["b.png", "deep/a.png", "later.png"]
        assert {store.read(name) for name in ("b.png", "deep/a.png")} == {b"first"}
        found = by_cause(store.left_out)
    assert sorted(found.values()) == [("member 3",), ("member 4",), ("member 6",)]


def test_a_file_with_holes_in_a_tar_is_left_out(tmp_path):
    holes = tmp_path / "holes"
    with holes.open("wb") as file:
        file.truncate(50_000_000)
    (tmp_path / "a").write_bytes(b"1")
    subprocess.run(["tar", "-S", "-cf", "x.tar", "a", "holes"], cwd=tmp_path, check=True)
    with contextlib.closing(open_store(tmp_path / "x.tar")) as store:
        assert (store.names(), len(store.left_out)) == (["a"], 1)


def zip_of_one(path, kind, content):
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("deep/innocent.png")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("kind", "target", "code"),
    [
        (stat.S_IFLNK, "/etc/passwd", "data-archive-link"),
        (stat.S_IFLNK, "../../x", "data-archive-link"),
        (stat.S_IFCHR, "", "data-archive-device"),
        (stat.S_IFIFO, "", "data-archive-device"),
    ],
)
def test_devices_and_links_that_lead_outside_refuse_a_zip(tmp_path, kind, target, code):
    with raises_code(DataError, code):
        open_store(zip_of_one(tmp_path / "x.zip", kind, target))


def test_a_link_within_a_zip_is_left_out(tmp_path):
    with contextlib.closing(open_store(zip_of_one(tmp_path / "x.zip", stat.S_IFLNK, "../a.png"))) as store:
        assert (store.names(), len(store.left_out)) == ([], 1)


def test_an_encrypted_member_refuses_a_zip(tmp_path):
    data = bytearray(in_zip(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    at = data.index(b"PK\1\2") + 8
    data[at] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with raises_code(DataError, "data-archive-encrypted"):
        open_store(tmp_path / "x.zip")


def test_a_method_whose_output_cannot_be_bounded_refuses_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", bytes(1000))
    with raises_code(DataError, "data-archive-method"):
        open_store(tmp_path / "x.zip")


def test_too_many_members_too_large_or_too_well_packed_refuse_an_archive(tmp_path, monkeypatch):
    path = in_zip(tmp_path / "x.zip", {"a": bytes(300_000), "b": b""})
    monkeypatch.setattr(archives, "_SMALL_BYTES", 1000)
    with raises_code(DataError, "data-archive-ratio"):
        open_store(path)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 200_000)
    with raises_code(DataError, "data-archive-total-size"):
        open_store(path)
    monkeypatch.setattr(archives, "MAX_BYTES", 200_000)
    with raises_code(DataError, "data-archive-member-size"):
        open_store(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 0)
    with raises_code(DataError, "data-archive-members"):
        open_store(path)
    monkeypatch.setattr(archives._Bounded, "bound", 50)
    with raises_code(DataError, "data-archive-directory"):
        open_store(path)


def test_a_zip_that_lies_about_a_size_is_damaged_not_unpacked(tmp_path):
    data = bytearray(in_zip(tmp_path / "x.zip", {"a": bytes(5_000_000)}).read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    (tmp_path / "x.zip").write_bytes(data)
    with (
        contextlib.closing(open_store(tmp_path / "x.zip")) as store,
        raises_code(DataError, "data-file-unreadable"),
    ):
        store.read("a")


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


@pytest.mark.parametrize("pack", [in_zip, in_tar])
def test_no_damaged_archive_gets_past_the_one_exception(tmp_path, pack):
    generator = np.random.default_rng(3)
    path = tmp_path / f"x.{'zip' if pack is in_zip else 'tar'}"
    whole = pack(path, FILES | {"more/d": bytes(3000)}).read_bytes()
    for _ in range(300):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)] if generator.random() < 0.3 else whole)
        for place in generator.integers(0, len(damaged), 6):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError), contextlib.closing(open_store(path)) as store:
            for name in store.names():
                with contextlib.suppress(DataError):
                    assert len(store.read(name)) <= len(whole) * 1100


@pytest.mark.parametrize("size", [-1, -512, -(2**60), 2**62, 2**80], ids=str)
def test_a_tar_member_with_a_size_that_no_file_has_refuses_the_archive(tmp_path, size):
    path = in_tar(tmp_path / "data.tar", FILES)
    content = path.read_bytes()
    header = bytearray(content[:512])
    header[124:136] = (size % 2**96).to_bytes(12, "big")
    header[124] |= 0x80
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(bytes(header) + content[512:])
    with pytest.raises(DataError, match=r"overlap|whole"):
        open_store(path)


def test_tar_members_that_overlap_refuse_the_archive(tmp_path, monkeypatch):
    path = in_tar(tmp_path / "data.tar", FILES)
    honest = tarfile.TarFile.next

    def overlapping(archive):
        info = honest(archive)
        if info is not None and archive.offset > 2048:
            info.offset_data = 512  # as of a header that sends the reader back
        return info

    with contextlib.closing(open_store(path)):
        pass
    monkeypatch.setattr(tarfile.TarFile, "next", overlapping)
    with pytest.raises(DataError, match="overlap"):
        open_store(path)


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
