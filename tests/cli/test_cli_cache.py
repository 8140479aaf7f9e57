"""`wardround cache` lists the files of runs, removes those alone, and a run makes them again."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.images.rows.cache import cache_key, cached_pictures
from wardround.images.rows.kept import forget, kept_in
from wardround.images.rows.recipe import Prepared


def call(*arguments):
    done = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    for name, count in (("a", 3), ("b", 2)):
        rows = [Prepared(np.zeros((1, 1, 4, 4), dtype=np.uint8), (0, 1))] * count
        cached_pictures(folder, cache_key([name], []), (count, 1, 4, 4), lambda rows=rows: iter(rows), None)  # type: ignore[misc]
    encodings = folder / "encodings"
    (encodings / f"{'c' * 40}.parts").mkdir(parents=True)
    (encodings / f"{'c' * 40}.parts" / "000000000.npy").write_bytes(b"x" * 10)
    return folder


def test_the_list_has_kinds_forms_and_bytes(cache):
    told = json.loads(call("list", "--cache", cache, "--json"))["kept"]
    assert {(one["kind"], None if one["shape"] is None else tuple(one["shape"])) for one in told} == {
        ("pictures", (3, 1, 4, 4)), ("pictures", (2, 1, 4, 4)), ("encodings", None),
    }  # fmt: skip
    sizes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert sum(one["bytes"] for one in told) == sizes
    assert "3 sets are kept" in call("list", "--cache", cache)


def test_only_files_of_runs_are_removed(cache, tmp_path):
    others = [cache / "patients.key", cache / "notes.txt", cache / f"{'d' * 39}.npy", tmp_path / "elsewhere"]
    for path in others:
        path.write_text("kept")
    (cache / f"{'e' * 40}.npy").symlink_to(tmp_path / "elsewhere")
    assert "4 sets are removed" in call("clear", "--cache", cache)
    assert kept_in(cache) == []
    assert all(path.read_text() == "kept" for path in others)


def test_what_was_used_lately_can_stay(cache):
    old = next(kept for kept in kept_in(cache) if kept.shape == (3, 1, 4, 4))
    for path in old.files:
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    assert "1 set is removed" in call("clear", "--cache", cache, "--unused", 5)
    assert {kept.shape for kept in kept_in(cache)} == {(2, 1, 4, 4), None}


def test_a_reader_that_has_mapped_pictures_goes_on(cache):
    rows = [Prepared(np.full((1, 1, 4, 4), 7, dtype=np.uint8), (0, 1))]
    mapped = cached_pictures(cache, cache_key(["a7"], []), (1, 1, 4, 4), lambda: iter(rows), None).rows
    for kept in kept_in(cache):
        forget(kept)
    assert (np.asarray(mapped) == 7).all()


def test_no_folder_is_an_empty_list(tmp_path):
    assert "0 sets are kept" in call("list", "--cache", tmp_path / "none")
    assert not Path(tmp_path / "none").exists()
