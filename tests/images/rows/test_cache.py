"""Pictures decoded once: found again, made whole or not at all."""

import errno
import shutil
import stat
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.errors import raises_code

from wardround.errors import DataError, MachineError
from wardround.images.rows.cache import cache_key, cached_pictures
from wardround.images.rows.recipe import Prepared

PICTURES = np.arange(3 * 1 * 4 * 4, dtype=np.uint8).reshape(3, 1, 4, 4)


class Source:
    """Gives the three pictures and counts how often it is asked."""

    def __init__(self, *items):
        self.items = items or tuple(PICTURES)
        self.asked = 0

    def __call__(self):
        self.asked += 1
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item if isinstance(item, str) else Prepared(item[None], (0, 1))


def cached(folder, source, progress=None, key="key"):
    return cached_pictures(folder, key, PICTURES.shape, source, progress)


def test_pictures_are_made_once_and_opened_read_only_afterwards(tmp_path):
    source = Source()
    for _ in range(2):
        found = cached(tmp_path / "cache", source)
        np.testing.assert_array_equal(found.rows, PICTURES)
        assert isinstance(found.rows, np.memmap)
        assert not found.rows.flags.writeable
    assert source.asked == 1


def test_entries_that_are_cut_off_are_known_again_and_none_of_an_earlier_cache(tmp_path):
    def fill():
        for number, picture in enumerate(PICTURES):
            yield Prepared(picture[None], (0, 1), 0.39 + 0.02 * number)

    for _ in range(2):
        assert cached(tmp_path, fill).cut_off == {1, 2}
    [notes] = tmp_path.glob("*.notes.json")
    notes.write_text('{"unreadable": {}, "extents": {}}')
    assert cached(tmp_path, Source()).cut_off == frozenset()


def test_the_folder_is_for_its_owner_alone(tmp_path):
    cached(tmp_path / "deep" / "cache", Source())
    assert stat.S_IMODE((tmp_path / "deep" / "cache").stat().st_mode) == 0o700


def test_a_reason_stands_for_a_picture_that_could_not_be_decoded(tmp_path):
    source = Source(PICTURES[0], "damaged", PICTURES[2])
    for _ in range(2):
        found = cached(tmp_path, source)
        assert found.unreadable == {1: "damaged"}
        assert not found.rows[1].any()
        np.testing.assert_array_equal(found.rows[2], PICTURES[2])
    assert source.asked == 1


def test_entries_of_many_rows_keep_them_together_and_say_which_are_padding(tmp_path):
    rows = np.arange(2 * 3 * 1 * 2 * 2, dtype=np.uint8).reshape(2, 3, 1, 2, 2)

    def source():
        yield Prepared(rows[0], (1, 3))
        yield "damaged"
        yield Prepared(rows[1], (0, 3))

    for _ in range(2):
        found = cached_pictures(tmp_path, "key", (9, 1, 2, 2), source, None, rows_per_entry=3)
        np.testing.assert_array_equal(found.rows, np.concatenate([rows[0], np.zeros_like(rows[0]), rows[1]]))
        assert found.extents == {0: (1, 3)}
        assert found.unreadable == {1: "damaged"}


def test_progress_counts_every_picture(tmp_path):
    seen = []
    cached(tmp_path, Source(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(tmp_path):
    source = Source(PICTURES[0], OSError(errno.ENOSPC, "No space left on device"))
    with raises_code(MachineError, "machine-full"):
        cached(tmp_path, source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [False, True])
def test_a_disk_that_cannot_be_read_is_said_and_not_taken_for_another_cause(tmp_path, monkeypatch, before):
    """Nor are pictures decoded again where they are."""
    if before:
        cached_pictures(tmp_path, "key", PICTURES.shape, Source(), None)
    inner = np.lib.format.open_memmap

    def failing(path, **given):
        if path.exists():
            raise OSError(errno.EDQUOT, "quota")
        return inner(path, **given)

    monkeypatch.setattr(np.lib.format, "open_memmap", failing)
    source = Source()
    with raises_code(MachineError, "machine-quota"):
        cached_pictures(tmp_path, "key", PICTURES.shape, source, None)
    assert source.asked == (0 if before else 1)


def test_a_disk_without_room_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 53, 47))
    source = Source()
    with raises_code(DataError, "data-cache-room"):
        cached(tmp_path, source)
    assert source.asked == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt(), DataError("a file changed")])
def test_a_run_that_is_stopped_leaves_nothing_and_the_next_starts_again(tmp_path, end):
    with pytest.raises(type(end)):
        cached(tmp_path, Source(PICTURES[0], end))
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(cached(tmp_path, Source()).rows, PICTURES)


def test_a_cache_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("")
    with raises_code(MachineError, "machine-path"):
        cached(tmp_path / "cache", Source())


@pytest.mark.parametrize("suffix", [".npy", ".notes.json"])
@pytest.mark.parametrize("damage", [b"", b"[]", b"\x93NUMPY\x02\x00"])
def test_a_damaged_file_is_made_anew(tmp_path, suffix, damage):
    cached(tmp_path, Source())
    (tmp_path / f"key{suffix}").write_bytes(damage)
    np.testing.assert_array_equal(cached(tmp_path, Source()).rows, PICTURES)


def test_a_file_cut_short_is_made_anew(tmp_path):
    cached(tmp_path, Source())
    whole = (tmp_path / "key.npy").read_bytes()
    (tmp_path / "key.npy").write_bytes(whole[:-1])
    source = Source()
    np.testing.assert_array_equal(cached(tmp_path, source).rows, PICTURES)
    assert source.asked == 1


def test_runs_that_start_at_once_end_with_the_same_pictures(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: cached(tmp_path, Source()), range(16)):
            np.testing.assert_array_equal(found.rows, PICTURES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.notes.json", "key.npy"]


def test_the_key_knows_the_recipe_the_contents_and_their_order():
    keys = {
        cache_key(("a", 1), ["x", "y"]),
        cache_key(("a", 2), ["x", "y"]),
        cache_key(("a", 1), ["y", "x"]),
        cache_key(("a", 1), ["x"]),
        cache_key(("a",), ["1", "x", "y"][1:]),
    }
    assert len(keys) == 5
