"""Public sets as people have them on disk: numbered parts, masks in folders of their own, tables of any name."""

import pytest
from tests.errors import raises_code
from tests.images.test_field_sets import listed, picture

from wardround.errors import DataError
from wardround.images.layouts.guess import guess_layout
from wardround.images.listing import Classes
from wardround.images.store import open_store


@pytest.mark.parametrize(
    "folders",
    [("images_001/images", "images_002/images"), ("HAM_part_1", "HAM_part_2"), ("fold_0/ill", "fold_1/ill")],
)
def test_numbered_parts_of_one_set_are_no_classes(tmp_path, folders):
    for folder in folders:
        picture(tmp_path, f"{folder}/{folder[:3]}{folder[-1]}.png")
    with raises_code(DataError, "data-numbered-parts"):
        listed(tmp_path)


def test_numbered_classes_are_classes(tmp_path):
    for name in ("grade_1/a", "grade_2/b", "normal/c"):
        picture(tmp_path, f"{name}.png")
    assert listed(tmp_path).class_names == ("grade_1", "grade_2", "normal")


def test_numbered_parts_that_the_study_names_are_classes(tmp_path):
    for name in ("set1/a", "set2/b"):
        picture(tmp_path, f"{name}.png")
    assert len(listed(tmp_path, classes=Classes(("set1", "set2"), {})).entries) == 2


@pytest.mark.parametrize("masks", ["ManualMask", "ManualMask/leftMask", "lung_masks", "Training_GroundTruth"])
def test_folders_of_masks_by_the_end_of_their_name_are_no_class(tmp_path, masks):
    for folder in ("CXR_png", masks):
        picture(tmp_path, f"{folder}/MCUCXR_0001_0.png")
    with raises_code(DataError, "data-masks-beside-images"):
        listed(tmp_path)


def test_classes_whose_names_end_in_mask_are_classes(tmp_path):
    for name in ("with_mask/1", "without_mask/1", "plain/2"):
        picture(tmp_path, f"{name}.png")
    assert listed(tmp_path).class_names == ("plain", "with_mask", "without_mask")


def test_folders_below_patients_are_noted(tmp_path):
    for number, body in enumerate(("elbow", "wrist", "elbow", "wrist")):
        for study in ("study1_negative", "study2_positive"):
            picture(tmp_path, f"{body}/patient{number}/{study}/image1.png")
    [note] = listed(tmp_path).notes
    assert "study1_negative, study2_positive" in note


def test_tables_of_any_name_that_name_pictures_are_noted(tmp_path):
    for name in ("ill/a", "well/b"):
        picture(tmp_path, f"{name}.png")
    (tmp_path / "Data_Entry.csv").write_text("No;Image Index;Labels\n1;a.png;Mass\n2;b.png;No Finding\n")
    (tmp_path / "other.csv").write_text("city\nRome\n")
    (tmp_path / "readings.xls").write_bytes(b"x")
    table, workbook = [note for note in listed(tmp_path).notes if "is not read;" in note]
    assert table.startswith("Data_Entry.csv names the pictures (column 'Image Index')")
    assert "readings.xls is a workbook" in workbook


def test_a_train_csv_without_train_images_is_not_taken_for_aptos(tmp_path):
    picture(tmp_path, "train/a.png")
    (tmp_path / "train.csv").write_text("image_id,class_name\na,Mass\n")
    assert guess_layout(open_store(tmp_path)) == "folder"
