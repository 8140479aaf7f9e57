"""Pseudonyms: one for one under a key, nothing without it; and a key that only its owner reads."""

import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from wardround.errors import DataError
from wardround.images.dicom.pseudonyms import load_or_create_key, pseudonym

KEY = bytes(range(32))


def test_a_pseudonym_is_the_hmac_under_the_key_with_its_kind_in_front():
    expected = hmac.new(KEY, b"wardround\0patient\0Ann", sha256).hexdigest()
    found = pseudonym(KEY, "patient", "Ann")
    assert expected.startswith(found)
    assert len(found) >= 16


def test_another_key_kind_or_value_is_another_pseudonym():
    names = {
        pseudonym(key, kind, value) for key in (KEY, bytes(32)) for kind in ("a", "b") for value in ("1", "2")
    }
    assert len(names) == 8


def test_the_padding_of_dicom_does_not_count():
    assert (
        pseudonym(KEY, "study", "1.2.3\0")
        == pseudonym(KEY, "study", " 1.2.3 ")
        == pseudonym(KEY, "study", "1.2.3")
    )


def test_any_text_has_a_pseudonym():
    assert len({pseudonym(KEY, "patient", value) for value in ("", "\udcff", "Ä", "山", "x" * 10_000)}) == 5


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(load_or_create_key, [path] * 16))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["key"]


def test_two_hospitals_have_two_keys(tmp_path):
    assert load_or_create_key(tmp_path / "a") != load_or_create_key(tmp_path / "b")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    load_or_create_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(DataError, match="owner alone"):
        load_or_create_key(tmp_path / "key")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_refused(tmp_path, size):
    (tmp_path / "key").write_bytes(bytes(size))
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(DataError, match="32 bytes"):
        load_or_create_key(tmp_path / "key")


def test_a_key_that_cannot_be_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="key for pseudonyms"):
        load_or_create_key(tmp_path)
