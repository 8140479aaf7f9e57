"""Files are read again only if the system says that they may have changed, or did so a moment ago."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from wardround.errors import DataError
from wardround.images.load import load_images
from wardround.images.rows import known as module
from wardround.images.rows.kept import forget, kept_in
from wardround.images.rows.known import FOLDER, KnownDigests
from wardround.images.rows.recipe import PictureRecipe
from wardround.images.store import Store

FILES = ("ill/p1/a.png", "ill/p2/b.png", "well/p3/c.png")


@pytest.fixture
def root(tmp_path):
    for shade, file in enumerate(FILES):
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True)
        Image.new("L", (10, 8), 10 + shade).save(path)
    return tmp_path / "data"


@pytest.fixture
def years_later(monkeypatch):
    """Files count as old at once; without, those of a test are too fresh to be believed."""
    monkeypatch.setattr(module, "_FRESH_NS", -(10**15))


@pytest.fixture
def reads(monkeypatch):
    found, head = Counter[str](), Store.head

    def counted(store, name, most):
        found[name] += 1
        return head(store, name, most)

    monkeypatch.setattr(Store, "head", counted)
    return found


def load(root):
    return load_images("folder", root, recipes=[PictureRecipe(4, 1)], cache_dir=root.parent / "cache")


def packed(root):
    return shutil.make_archive(str(root.parent / "packed"), "zip", root)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.usefixtures("years_later")
def test_files_that_did_not_change_are_not_read_again(root, reads, form):
    place = root if form == "folder" else root.parent / os.path.basename(packed(root))
    first = load(place)
    assert sum(reads[file] for file in FILES) == 3
    again = load(place)
    assert sum(reads[file] for file in FILES) == 3
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.pixels, first.pixels)


def test_fresh_files_are_read_again(root, reads):
    load(root)
    load(root)
    assert [reads[file] for file in FILES] == [2, 2, 2]
    assert not (root.parent / "cache" / FOLDER).exists()


@pytest.mark.usefixtures("years_later")
def test_another_content_of_equal_size_and_time_is_noticed(root):
    """Setting the time of the content back is a change of its own, with a time that nobody can set."""
    Image.new("L", (10, 8), 100).save(root / FILES[0])
    first, before = load(root), (root / FILES[0]).stat()
    changed = (root / FILES[0]).read_bytes()[:-1] + b"\x83"
    (root / FILES[0]).write_bytes(changed)
    os.utime(root / FILES[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (root / FILES[0]).stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
    assert load(root).digest != first.digest


@pytest.mark.usefixtures("years_later")
def test_another_file_of_that_name_and_an_exchange_of_two_are_noticed(root):
    first = load(root)
    one, other = root / FILES[0], root / FILES[1]
    kept = root.parent / "kept"
    one.rename(kept)
    other.rename(one)
    kept.rename(other)
    exchanged = load(root)
    shown = {image.file: exchanged.pixels[image.row].max() for p in exchanged.patients for image in p.images}
    assert (shown[FILES[0]], shown[FILES[1]]) == (11, 10)
    assert exchanged.digest != first.digest


@pytest.mark.usefixtures("years_later")
def test_a_file_that_is_gone_is_forgotten_and_no_name_is_kept(root):
    load(root)
    (path,) = (root.parent / "cache" / FOLDER).iterdir()
    assert np.load(path).shape == (3, 48)
    assert path.stat().st_mode & 0o077 == 0
    names = {
        part for file in FILES for part in (file, *file.split("/")) if len(part) > 3
    }  # two bytes come by chance
    assert names
    assert not any(name.encode() in path.read_bytes() for name in names)
    (root / FILES[1]).unlink()
    (root / "ill/p2").rmdir()
    load(root)
    assert np.load(path).shape == (2, 48)


@pytest.mark.parametrize("content", [b"", b"no array", "object", "another", "()   ", "(  "])
@pytest.mark.usefixtures("years_later")
def test_a_damaged_table_is_made_again(root, reads, content):
    first = load(root)
    (path,) = (root.parent / "cache" / FOLDER).iterdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content.startswith("("):
        path.write_bytes(
            path.read_bytes().replace(b"'|u1' ", content.encode()).replace(b"'|u1'", content.encode())
        )
    else:
        np.save(path, np.array([{}]) if content == "object" else np.zeros((3, 47), np.uint8), allow_pickle=True)
    assert load(root).digest == first.digest
    assert [reads[file] for file in FILES] == [2, 2, 2]
    assert np.load(path).shape == (3, 48)


@pytest.mark.usefixtures("years_later")
def test_a_wrong_digest_is_refused_once_and_then_forgotten(root):
    """As after a bit of the table was lost: the pictures are decoded under it, and are not its content."""
    first = load(root)
    (path,) = (root.parent / "cache" / FOLDER).iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="must not change while they are read"):
        load(root)
    assert load(root).digest == first.digest


@pytest.mark.usefixtures("years_later")
def test_a_folder_that_cannot_be_written_is_done_without(root, reads):
    (root.parent / "cache").mkdir()
    (root.parent / "cache" / FOLDER).write_text("in its place")
    assert load(root).digest == load(root).digest
    assert [reads[file] for file in FILES] == [2, 2, 2]


@pytest.mark.usefixtures("years_later")
def test_the_cache_lists_and_forgets_them(root):
    load(root)
    cache = root.parent / "cache"
    [digests] = [kept for kept in kept_in(cache) if kept.kind == "digests"]
    forget(digests)
    assert not list((cache / FOLDER).iterdir())


def test_a_file_that_changes_while_it_is_read_is_not_entered(tmp_path, monkeypatch):
    """Its stamp is of before, so that the stamp of afterwards finds nothing."""
    monkeypatch.setattr(module, "_FRESH_NS", 0)
    known = KnownDigests(tmp_path, tmp_path)
    known.note("a.png", (10, 5, 5, 1, 1), "0" * 64)
    known.note("b.png", (10, 2**62, 5, 1, 1), "1" * 64)
    known.keep()
    later = KnownDigests(tmp_path, tmp_path)
    assert later.of("a.png", (10, 5, 5, 1, 1)) == "0" * 64
    assert later.of("a.png", (10, 5, 6, 1, 1)) is None
    assert later.of("b.png", (10, 2**62, 5, 1, 1)) is None
