"""Who reads a hospital's numbers: with one shared key the server and any hospital, elsewhere nobody."""

import sys

import numpy as np
import pytest

from wardround.coordinator.observer import Silent
from wardround.errors import FederationError, MissingExtra
from wardround.reproduce.encrypted_sum import readers
from wardround.reproduce.encrypted_sum.readers import read_masks, read_shared_key, read_threshold
from wardround.reproduce.table import Origin
from wardround.secure_aggregation.round.masks import Masks

HOSPITALS = 4


@pytest.fixture
def numbers():
    return list(np.random.default_rng(0).integers(-200, 201, (HOSPITALS, 5_000)))


@pytest.fixture
def tenseal():
    return pytest.importorskip("tenseal", reason="TenSEAL is not installed")


def test_with_one_key_the_server_and_one_hospital_read_everything(numbers, tenseal):
    found = read_shared_key(numbers)
    assert (found.alone, found.together) == (0.0, 1.0)


def test_under_masks_the_server_and_one_hospital_read_by_chance_only(numbers):
    found = read_masks(numbers)
    # 15,000 numbers, each read with chance 2^-16: more than 5 of them less than once in 10^7 runs.
    assert found.alone <= 5 / 15_000
    assert found.together <= 5 / 15_000
    assert found.upload_bytes == pytest.approx(2 * 5_000, abs=200)


def test_taking_off_one_mask_of_two_hospitals_reads_the_other(numbers):
    """With two hospitals the attack succeeds, as it must: what is measured with more is the masks."""
    assert read_masks(numbers[:2]).together == 1.0


def test_a_sum_that_is_not_exact_is_no_demonstration(numbers, monkeypatch):
    hide = Masks.hide
    monkeypatch.setattr(Masks, "hide", lambda self, vector: hide(self, vector + vector.dtype.type(1)))
    with pytest.raises(FederationError, match="opened sum must be that of all hospitals"):
        read_masks(numbers)


def test_under_a_threshold_key_one_holder_reads_nothing(numbers):
    pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")
    found = read_threshold(numbers)
    assert found.together <= 5 / 15_000


def test_the_table_shows_the_flaw_and_says_what_it_left_out(tenseal, monkeypatch, tmp_path):
    from wardround.reproduce.request import Request, Scale

    monkeypatch.setitem(sys.modules, "openfhe", None)
    monkeypatch.setattr(readers, "HOSPITALS", 3)
    table = readers.table(Request(None, tmp_path, Scale(0.001), Silent()))
    published, masks = table.rows
    assert published.origin is Origin.AS_PUBLISHED
    assert (published.scores["alone"].mean, published.scores["together"].mean) == (0.0, 1.0)
    assert masks.scores["together"].mean < 1e-3
    assert published.scores["bytes"].mean > 5 > 1 > masks.scores["bytes"].mean
    assert not any(row.holds for row in table.rows), "no noise, no promise"
    assert any("Left out: threshold BFV" in note and "OpenFHE" in note for note in table.notes)
    assert table.shrunk[0].used == "5000"


def test_without_tenseal_there_is_no_table(monkeypatch, tmp_path):
    from wardround.reproduce.request import Request, Scale

    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(MissingExtra, match=r"wardround\[encrypted\]"):
        readers.table(Request(None, tmp_path, Scale(0.001), Silent()))
