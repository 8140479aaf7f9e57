"""Hostile and damaged archives, refused with one sentence."""

import contextlib
import io
import stat
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from tests.errors import raises_code
from tests.images.packed import FILES, in_tar, in_zip

from wardround.errors import DataError
from wardround.images import archives
from wardround.images.findings import by_cause
from wardround.images.store import open_store


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
