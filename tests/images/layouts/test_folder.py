"""Any folder of pictures, by its table or by its sub-folders."""

import pytest
from PIL import Image
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images.entries import Task
from wardround.images.layouts.folder import read_folder
from wardround.images.load import list_entries
from wardround.images.store import open_store

FILES = ("ill/p1/a.png", "ill/p1/deep/b.png", "ill/p2/a.png", "well/p1/c.png", "well/lone.png")


@pytest.fixture
def root(tmp_path):
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4)).save(tmp_path / file)
    return tmp_path


def table(root, *lines):
    (root / "metadata.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return root


def read(root):
    return read_folder(open_store(root), Task.CLASSIFICATION)


def test_the_first_folder_is_the_class_and_the_second_the_patient(root):
    listing = read(root)
    assert listing.class_names == ("ill", "well")
    assert [(entry.file, entry.label, entry.patient) for entry in listing.entries] == [
        ("ill/p1/a.png", 0, "p1"),
        ("ill/p1/deep/b.png", 0, "p1"),
        ("ill/p2/a.png", 0, "p2"),
        ("well/lone.png", 1, None),
        ("well/p1/c.png", 1, "p1"),
    ]


def test_a_picture_without_a_patient_beside_others_is_refused(root):
    """Removing one picture of a patient who has two is no change of one record: the set promises nothing to either."""
    with raises_code(DataError, "data-some-unnamed") as caught:
        list_entries("folder", open_store(root), None)
    assert "1 of 5 that name nobody: well/lone.png" in str(caught.value)


def test_a_table_gives_label_patient_and_site(root):
    table(root, "file,label,patient_id,site", "ill/p1/a.png,10,ann,north", " well/lone.png , 9 , bob ,")
    listing = read(root)
    assert listing.class_names == ("9", "10")
    assert [(e.file, e.label, e.patient, e.site) for e in listing.entries] == [
        ("ill/p1/a.png", 1, "ann", "north"),
        ("well/lone.png", 0, "bob", None),
    ]
    assert listing.notes == ("passed over: 3 pictures in the folder without a row in metadata.csv",)


def test_everything_wrong_with_a_table_is_said_at_once(root):
    table(
        root,
        "file,label,patient_id",
        "ill/p1/a.png,1,",
        ",,ann",
        "ill/gone.png,0,ann",
        "../secret.png,0,ann",
        "ill/p2/a.png,0,ann",
        "ill/p2/a.png,0,bob",
    )
    with pytest.raises(DataError) as caught:
        read(root)
    for problem in (
        "5 problems",
        "line 2 has no patient_id",
        "line 3 has no file and no label",
        "line 4: ill/gone.png is missing",
        "line 5: ../secret.png lies outside",
        "line 7: ill/p2/a.png is in line 6 already",
    ):
        assert problem in str(caught.value)


def test_missing_columns_are_named_with_those_that_were_found(root):
    with pytest.raises(DataError, match="missing: label, patient_id, found: file, person"):
        read(table(root, "file,person", "ill/p1/a.png,ann"))


def test_an_empty_table_is_an_error(root):
    with pytest.raises(DataError, match="found: none"):
        read(table(root, ""))


def test_a_table_that_is_no_text_is_an_error(root):
    (root / "metadata.csv").write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(DataError, match="UTF-8"):
        read(root)


def test_one_class_is_not_enough(tmp_path):
    (tmp_path / "only").mkdir()
    Image.new("L", (2, 3)).save(tmp_path / "only/a.png")
    with raises_code(DataError, "data-one-class"):
        list_entries("folder", open_store(tmp_path), None)
