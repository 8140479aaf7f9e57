"""Folders of public sets that are neither classes nor patients, and what the refusal of each says to do."""

import pytest
from tests.errors import raises_code
from tests.images.test_field_sets import listed, picture

from wardround.errors import DataError
from wardround.images.listing import ByPattern, Classes


@pytest.mark.parametrize(
    "folders",
    [
        ("a. Training Set", "b. Testing Set"),
        ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
        ("train_images", "test_images", "normal"),
        ("seg_train/seg_train/ill", "seg_test/seg_test/ill"),
        ("trainA", "testA"),
        ("train_images", "train_thumbnails"),
        ("Training_Set/Training", "Evaluation_Set/Validation", "Test_Set/Test"),
        ("one/1. Original/a. Training Set", "one/1. Original/b. Testing Set"),
    ],
)
def test_parts_of_any_name_are_no_classes(tmp_path, folders):
    """A model would learn to tell published training pictures from test pictures."""
    for folder in folders:
        picture(tmp_path, f"{folder}/1.png")
    with raises_code(DataError, "data-numbered-parts") as caught:
        listed(tmp_path)
    assert "call them train, val and test" in str(caught.value)


def test_parts_below_a_class_are_no_patients(tmp_path):
    for folder in ("ill/train_set", "ill/test_set", "well/p1"):
        picture(tmp_path, f"{folder}/1.png")
    with raises_code(DataError, "data-patient-in-every-class"):
        listed(tmp_path)


@pytest.mark.parametrize("folders", [("negative test", "positive test"), ("contest", "validity"), ("no", "yes")])
def test_classes_with_a_word_for_one_part_are_classes(tmp_path, folders):
    for folder in folders:
        picture(tmp_path, f"{folder}/1.png")
    assert listed(tmp_path).class_names == folders


@pytest.mark.parametrize("name", ["pred", "Unlabelled", "predictions"])
def test_a_folder_of_pictures_without_labels_is_no_class(tmp_path, name):
    for folder in ("no", "yes", name):
        picture(tmp_path, f"{folder}/1.png")
    with raises_code(DataError, "data-missing-class") as caught:
        listed(tmp_path)
    assert "`[site] leave_out`" in str(caught.value)
    assert listed(tmp_path, leave_out=(name,)).class_names == ("no", "yes")
    assert len(listed(tmp_path, classes=Classes(("no", "yes", name))).entries) == 3


def test_a_class_that_is_called_otherwise_in_the_test_part_is_no_class_of_its_own(tmp_path):
    """A public set of CT has `adenocarcinoma_left.lower.lobe` in train and valid, and `adenocarcinoma` in test."""
    for folder in ("train/cancer_left.lobe", "train/normal", "test/cancer", "test/normal"):
        picture(tmp_path, f"{folder}/1.png")
    with raises_code(DataError, "data-parts-differ") as caught:
        listed(tmp_path)
    assert "got only elsewhere: cancer; in training: cancer_left.lobe, normal" in str(caught.value)
    called = Classes(("cancer", "normal"), {"cancer_left.lobe": "cancer"})
    assert [entry.label for entry in listed(tmp_path, classes=called).entries].count(0) == 2


def test_parts_may_lack_a_class_of_the_training_part(tmp_path):
    for folder in ("train/ill", "train/well", "train/rare", "test/ill", "test/well"):
        picture(tmp_path, f"{folder}/1.png")
    assert len(listed(tmp_path).class_names) == 3


def test_kinds_below_a_class_propose_the_pattern_of_the_file_names(tmp_path):
    """A public set of slides has its patients in the names: `SOB_B_A-14-22549AB-40-001.png`."""
    for folder, kind in (("benign", "B_A"), ("malignant", "M_DC")):
        for slide in (22, 29):
            for number in (1, 2):
                picture(tmp_path, f"{folder}/SOB/{kind}/SOB_{kind}-14-{slide}AB-40-00{number}.png")
    with raises_code(DataError, "data-patient-in-every-class") as caught:
        listed(tmp_path)
    pattern = str(caught.value).rpartition("{pattern = '")[2].partition("'")[0]
    assert len({entry.patient for entry in listed(tmp_path, names=ByPattern(pattern)).entries}) == 4
