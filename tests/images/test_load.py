"""The one way in, from a folder to patients with pictures."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wardround.errors import DataError
from wardround.images.decode import pillow
from wardround.images.layouts.chest_xray import patient_of_name
from wardround.images.layouts.phantom import PhantomOptions
from wardround.images.layouts.readers import LAYOUTS
from wardround.images.listing import NO_OPTIONS
from wardround.images.load import list_entries, load_images
from wardround.images.quality.inspection import inspect
from wardround.images.rows import pixels
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe
from wardround.images.store import Store, open_store
from wardround.images.table import read_metadata

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))
CHEST = DATA / "chest_xray"
SHADES = {"well/p1/a.png": 10, "well/p2/b.png": 20, "ill/p3/c.png": 30, "ill/p3/d.png": 40}


@pytest.fixture
def root(tmp_path):
    for file, shade in SHADES.items():
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (10, 8), shade).save(path)
    return tmp_path / "data"


@pytest.fixture
def decodings(monkeypatch):
    """Counts the pictures that are decoded."""
    count = [0]
    honest = pillow.decode_in_thread

    def counted(*args, **kwargs):
        count[0] += 1
        return honest(*args, **kwargs)

    monkeypatch.setattr(pillow, "decode_in_thread", counted)
    return count


def load(root, image_size=4, channels=1, fit=Fit.CROP, **options):
    recipe = PictureRecipe(image_size, channels, fit)
    return load_images("folder", root, cache_dir=root.parent / "cache", recipes=[recipe], **options)


def test_rows_point_at_the_pictures_of_their_files(root):
    image_set = load(root)
    assert [patient.id for patient in image_set.patients] == ["p1", "p2", "p3"]
    assert image_set.pixels.shape == (4, 1, 4, 4)
    for patient in image_set.patients:
        for image in patient.images:
            assert (image_set.pixels[image.row] == SHADES[image.file]).all()


def test_a_second_load_decodes_nothing_and_is_the_same(root, decodings):
    first, second = load(root), load(root)
    assert decodings == [4]
    assert first.patients == second.patients
    assert first.digest == second.digest
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_a_changed_picture_or_size_is_decoded_anew(root, decodings):
    first = load(root)
    changed = root / "well/p1/a.png"
    when = changed.stat().st_mtime_ns
    Image.new("L", (10, 8), 11).save(changed)
    os.utime(changed, ns=(when, when))
    second = load(root)
    assert (second.pixels[second.patients[0].rows[0]] == 11).all()
    assert first.digest != second.digest
    assert load(root, image_size=3).digest == second.digest
    assert decodings == [12]


def test_three_channels_are_made_of_grey_pictures(root):
    assert load(root, channels=3).pixels.shape == (4, 3, 4, 4)


def test_unreadable_pictures_are_listed_together_and_can_be_left_out(root, decodings):
    (root / "ill/p3/c.png").write_bytes(b"no picture")
    (root / "ill/p4").mkdir()
    (root / "ill/p4/e.jpeg").write_text("patient,label")
    with pytest.raises(
        DataError, match=r"2 of 5 are not: cannot be read: .*\(2: ill/p3/c\.png, ill/p4/e\.jpeg.*skip_unreadable"
    ):
        load(root)
    image_set = load(root, skip_unreadable=True)
    assert decodings == [5]
    assert image_set.findings.unreadable == ("ill/p3/c.png", "ill/p4/e.jpeg")
    assert [len(patient.images) for patient in image_set.patients] == [1, 1, 1]


def test_a_class_whose_pictures_are_all_unreadable_is_an_error(root):
    for name in ("c", "d"):
        (root / f"ill/p3/{name}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="got none of: ill"):
        load(root, skip_unreadable=True)


def test_identical_pictures_join_no_patients(root):
    (root / "ill/p3/c.png").write_bytes((root / "well/p2/b.png").read_bytes())
    image_set = load(root)
    assert [patient.id for patient in image_set.patients] == ["p1", "p2", "p3"]
    assert len(image_set.findings.conflicting_duplicates) == len(image_set.findings.shared_pictures) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data folder must exist, got .*nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", sorted({*LAYOUTS} - {"dicom", "phantom"}))  # which names no file, ever
def test_an_empty_folder_says_what_was_expected_and_which_layouts_there_are(layout, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=rf"{layout} must look like.*lies: nothing\..*phantom"):
        load_images(layout, tmp_path / "data", cache_dir=tmp_path / "cache")


def test_another_layout_says_what_lies_there(root, tmp_path):
    with pytest.raises(DataError, match=r"must look like \{train,test\}.*lies: ill/, well/ \(\d pictures\)\."):
        load_images("chest_xray", root, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "triage"}, "the task of folder must be one of classification, binary, got 'triage'"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"image_size": 0}, "image_size must lie between"),
    ],
)
def test_an_option_that_does_not_hold_is_refused(root, options, said):
    with pytest.raises(DataError, match=said):
        load(root, **options)


def test_an_unknown_layout_names_the_known_ones(root, tmp_path):
    with pytest.raises(DataError, match=r"chest_xray, folder, .*, phantom, got 'dicm'"):
        load_images("dicm", root, cache_dir=tmp_path)


def test_a_file_that_changes_between_hashing_and_decoding_is_an_error(root, monkeypatch):
    read, reads = Store.read, itertools.count()
    monkeypatch.setattr(Store, "read", lambda store, name: read(store, name) + str(next(reads)).encode())
    monkeypatch.setattr(pixels, "_MOST_KEPT", 0)  # a file that is kept is decoded as it was hashed
    with pytest.raises(DataError, match="must not change while they are read"):
        load(root)
    assert list((root.parent / "cache").iterdir()) == []


def test_a_small_file_is_read_once_for_its_hash_and_its_picture(root, monkeypatch):
    head, reads = Store.head, Counter[str]()

    def counted(store, name, most):
        reads[name] += 1
        return head(store, name, most)

    monkeypatch.setattr(Store, "head", counted)
    load(root)
    assert {count for name, count in reads.items() if name.endswith(".png")} == {1}


def test_the_phantom_needs_no_folder_and_is_cached(tmp_path, monkeypatch):
    options = PhantomOptions(patients=8, image_size=32, sites=2)

    def generated():
        return load_images("phantom", options, recipes=[PictureRecipe(16, 1)], cache_dir=tmp_path)

    first = generated()
    monkeypatch.setattr(pixels, "draw_phantom", None)
    second = generated()
    assert len(first.patients) == 8
    assert first.pixels.shape[1:] == (1, 16, 16)
    assert first.digest == second.digest
    np.testing.assert_array_equal(first.pixels, second.pixels)
    with pytest.raises(DataError, match="phantom must have no folder"):
        load_images("phantom", tmp_path, cache_dir=tmp_path)


@pytest.mark.real_data
@pytest.mark.skipif(not CHEST.is_dir(), reason="the real chest X-rays lie beside the project; here they do not")
class TestRealChestXrays:
    def test_names_and_table_agree_on_every_patient(self):
        rows = read_metadata(open_store(CHEST), ("file", "patient_id"), NO_OPTIONS).rows.values()
        assert len(rows) == 5840
        assert [
            row.values for row in rows if patient_of_name(row.values["file"]) != row.values["patient_id"]
        ] == []
        assert len({row.values["patient_id"] for row in rows}) == 2775

    @pytest.mark.thorough
    def test_counts_are_the_known_ones_and_a_second_load_decodes_nothing(self, tmp_path, decodings):
        image_set = load_images("chest_xray", CHEST, recipes=[PictureRecipe(16, 1)], cache_dir=tmp_path)
        assert decodings == [5840]
        # Of 32 copies one lies under two names, and joins nobody; the others are dropped.
        assert sum(len(patient.images) for patient in image_set.patients) == 5840 - 31
        assert len(image_set.patients) == 2775
        assert max(len(patient.images) for patient in image_set.patients) == 31
        found = image_set.findings.summary()
        assert (found["straddling"], found["repeated_pictures"], found["shared_pictures"]) == (264, 32, 1)
        rows = read_metadata(open_store(CHEST), ("file", "dup_group"), NO_OPTIONS).rows.values()
        groups = {row.values["dup_group"] for row in rows}
        assert len({image.digest for patient in image_set.patients for image in patient.images}) == len(groups)
        subtypes = load_images(
            "chest_xray", CHEST, recipes=[PictureRecipe(16, 1)], cache_dir=tmp_path, task="subtype"
        )
        labels = [label for patient in subtypes.patients for label in patient.labels]
        assert [labels.count(label) for label in range(3)] == [1572, 2752, 1485], "31 copies less"
        assert decodings == [5840]


def test_pictures_that_are_mostly_cut_off_are_a_finding(root):
    Image.new("L", (30, 8), 90).save(root / "ill/p3/c.png")
    for fit, count in ((Fit.CROP, 1), (Fit.PAD, 0)):
        image_set = load(root, fit=fit)
        assert image_set.findings.summary()["cut_off"] == count
        notices = {notice.code: notice for notice in inspect(image_set).notices}
        assert ("cut_off" in notices) is (count > 0)


def test_a_table_of_another_name_beside_pictures_is_pointed_at(tmp_path):
    (tmp_path / "labels.csv").write_text("filename,diagnosis\n")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"A table such as labels\.csv is read by the layout manifest"):
        list_entries("folder", open_store(tmp_path), None)
