"""Encodings that are kept: found again by pictures and encoder, resumed after an interruption, equal in every bit."""

import errno
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.errors import raises_code

from wardround.errors import DataError, MachineError
from wardround.models.catalogue import build
from wardround.training import encodings as module
from wardround.training.encodings import encoded, encodings

COUNT = 10


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 1, 16, 16), dtype=np.uint8)


def frozen(seed=0, **changed):
    """A frozen random network, small enough to be run often."""
    generator = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {"size": (16, 16), "channels": 1, "num_classes": 2, "init_generator": generator}
    return build("small_cnn", **(given | {"train": "head"} | changed))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 4)


def counted():
    """Progress, and the numbers that it was told."""
    told: list[tuple[int, int]] = []
    return told, lambda done, total: told.append((done, total))


def silent(done, total):
    pass


def test_rows_are_the_networks_own_and_are_computed_once(pixels, tmp_path):
    network, (told, progress) = frozen(), counted()
    first = encodings(network, pixels, tmp_path, progress)
    assert told == [(done, COUNT) for done in range(1, COUNT + 1)]
    expected = torch.cat([network.encode(torch.from_numpy(pixels[row : row + 1])) for row in range(COUNT)])
    assert torch.equal(first, expected)
    assert first.dtype == torch.float32
    again = encodings(frozen(), pixels, tmp_path, progress)  # built anew, as by another run
    assert len(told) == COUNT
    assert torch.equal(again, first)
    assert len(list((tmp_path / "encodings").iterdir())) == 1  # no part is left
    assert (tmp_path / "encodings").stat().st_mode & 0o777 == 0o700


def test_a_disk_that_cannot_be_read_is_one_sentence(pixels, tmp_path, monkeypatch):
    inner = np.lib.format.open_memmap

    def failing(path, **given):
        if path.exists() and path.parent.name == "encodings":
            raise OSError(errno.EIO, "input or output")
        return inner(path, **given)

    monkeypatch.setattr(np.lib.format, "open_memmap", failing)
    with raises_code(MachineError, "machine-disk"):
        encodings(frozen(), pixels, tmp_path, silent)


@pytest.mark.parametrize("change", ["a pixel", "the encoder", "the number"])
def test_another_picture_or_encoder_is_computed_anew(pixels, tmp_path, change):
    encodings(frozen(), pixels, tmp_path, silent)
    told, progress = counted()
    other = pixels.copy()
    if change == "a pixel":
        other[3, 0, 5, 5] ^= 1
    elif change == "the number":
        other = other[:-1]
    network = frozen(seed=1) if change == "the encoder" else frozen()
    found = encodings(network, other, tmp_path, progress)
    assert len(told) == len(other)
    assert torch.equal(found[3:4], network.encode(torch.from_numpy(other[3:4])))


def test_an_interrupted_encoding_goes_on_from_its_last_part(pixels, tmp_path):
    def interrupted(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encodings(frozen(), pixels, tmp_path, interrupted)
    assert not list((tmp_path / "encodings").glob("*.npy"))
    told, progress = counted()
    found = encodings(frozen(), pixels, tmp_path, progress)
    assert [done for done, _ in told] == [5, 6, 7, 8, 9, 10]
    assert torch.equal(found, encodings(frozen(), pixels, tmp_path / "whole", silent))


def test_a_second_run_on_the_same_pictures_waits_and_takes_what_the_first_made(pixels, tmp_path, monkeypatch):
    network, begun, honest = frozen(), threading.Event(), module._make
    made: list[int] = []

    def slow(*given):
        made.append(1)
        begun.set()
        time.sleep(0.2)
        honest(*given)

    monkeypatch.setattr(module, "_make", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(encodings, network, pixels, tmp_path, silent)
        begun.wait()
        second = encodings(network, pixels, tmp_path, silent)
        assert torch.equal(first.result(), second)
    assert made == [1]
    assert [path.suffix for path in (tmp_path / "encodings").iterdir()] == [".npy"]


def test_a_disk_without_room_is_refused_before_the_rest_is_computed(pixels, tmp_path, monkeypatch):
    told, progress = counted()
    row = encoded(frozen(), pixels[:1]).nbytes
    room = shutil.disk_usage(tmp_path)
    for free, is_enough in ((2 * COUNT * row - 1, False), (2 * COUNT * row, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: room._replace(free=free))
        if is_enough:
            encodings(frozen(), pixels, tmp_path, progress)
        else:
            with raises_code(DataError, "data-cache-room"):
                encodings(frozen(), pixels, tmp_path, progress)
            assert told[-1] == (4, COUNT)


def test_a_damaged_file_is_made_again(pixels, tmp_path):
    first = encodings(frozen(), pixels, tmp_path, silent).clone()
    (path,) = (tmp_path / "encodings").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(encodings(frozen(), pixels, tmp_path, silent), first)


def test_the_number_of_threads_changes_no_bit_and_is_restored(pixels, tmp_path):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(encodings(frozen(), pixels, tmp_path / str(threads), silent))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_cache_that_cannot_be_written_is_refused(pixels, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        encodings(frozen(), pixels, tmp_path / "file", silent)


def test_histograms_are_encoded_some_together_and_have_the_bits_of_each_alone(pixels, tmp_path, monkeypatch):
    network = build("features", size=(16, 16), channels=1, num_classes=2, init_generator=torch.Generator())
    alone = torch.cat([network.encode(torch.from_numpy(pixels[row : row + 1])) for row in range(COUNT)])
    sizes: list[int] = []
    network.encode.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 3)
    told, progress = counted()
    assert torch.equal(encodings(network, pixels, tmp_path, progress), alone)
    assert sorted(sizes) == [1, 1, 2, 3, 3]  # parts of 4
    assert [done for done, _ in told] == [3, 4, 7, 8, 10]
    assert torch.equal(encoded(network, pixels), alone)


def test_encodings_of_weights_from_a_file_follow_the_file(pixels, tmp_path):
    """Two files under one name are two encoders: the parameters count, not the name."""
    found = []
    for seed in (3, 4):
        body = frozen(seed=seed).parts.body
        save_file(body.state_dict(), tmp_path / "weights.safetensors")
        network = frozen(weights=tmp_path / "weights.safetensors")
        found.append(encodings(network, pixels, tmp_path / "cache", silent).clone())
    assert not torch.equal(*found)
