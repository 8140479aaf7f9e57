"""Refusals of folders that no reader fits, and layouts that are guessed: each names the way that then works."""

import nibabel
import numpy as np
import pytest
from tests.errors import raises_code
from tests.images.test_field_sets import listed, picture

from wardround.errors import DataError
from wardround.images.layouts.guess import guess_layout
from wardround.images.load import load_images, open_layout
from wardround.images.rows.recipe import VolumeRecipe
from wardround.images.store import open_store


def refusal(root, layout="folder"):
    with pytest.raises(DataError) as caught:
        listed(root, layout)
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("subset0/1.mhd", "subset0/1.raw"), "WriteImage(ReadImage(old), new)"),
        (("disc1/1.hdr", "disc1/1.img"), "format .hdr"),
        (("train_x.h5", "train_y.h5"), "arrays (.h5) are not read"),
        (("train/axial/0000.npy",), "MedMNIST's form"),
        (("Videos/0X1.avi",), "films (.avi)"),
        (("slides/a.svs",), "cut them into .png"),
        (("a.npz", "b.npz"), "give the file itself as the data folder"),
    ],
)
def test_formats_that_are_not_read_come_with_the_way_to_one_that_is(tmp_path, files, said):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"other")
    assert said in refusal(tmp_path)


def test_the_file_of_arrays_that_is_named_is_read(tmp_path):
    for name in "ab":
        images = np.arange(4 * 81, dtype=np.uint8).reshape(4, 9, 9)
        np.savez(tmp_path / f"{name}.npz", train_images=images, train_labels=[0, 1, 0, 1])
    assert "give the file itself" in refusal(tmp_path)
    assert len(listed(tmp_path / "a.npz", "medmnist").entries) == 4


def test_the_table_that_names_the_pictures_is_named_and_then_read(tmp_path):
    for name in ("10_left", "13_right"):
        picture(tmp_path, f"train/{name}.jpeg")
    (tmp_path / "aa.csv").write_text("id,x\n1,2\n")
    table = tmp_path / "trainLabels.csv"
    table.write_text("image,level\n10_left,0\n13_right,1\n")
    assert "trainLabels.csv names the pictures: choose the layout manifest" in refusal(tmp_path)
    table.write_text("image,label,patient\n10_left,0,10\n13_right,1,13\n")
    assert len(listed(tmp_path, "manifest", labels=table).entries) == 2
    table.rename(tmp_path / "manifest.csv")
    assert "Its manifest.csv is read by the layout manifest" in refusal(tmp_path)


def test_one_class_is_refused_with_what_lies_beside_and_below_it(tmp_path):
    for number, name in enumerate(("01_TUMOR/1", "02_STROMA/2")):
        picture(tmp_path, f"tiles/{name}.png", number)
    (tmp_path / "labels.csv").write_text("id,kind\n1,a\n2,b\n")
    with raises_code(DataError, "data-one-class") as caught:
        listed(tmp_path)
    assert "labels.csv names the pictures" in str(caught.value)
    assert "2 folders below tiles are read as patients; if they are classes, give it" in str(caught.value)
    assert "TUMOR" not in str(caught.value), "they may be persons"
    assert listed(tmp_path / "tiles").class_names == ("01_TUMOR", "02_STROMA")


@pytest.mark.parametrize(
    ("header", "layout"),
    [("id_code,diagnosis", "aptos"), ('"Id Code";Diagnosis', "aptos"), ("image_id,isup_grade", "folder")],
)
def test_a_train_csv_of_another_set_beside_train_images_is_not_taken_for_aptos(tmp_path, header, layout):
    picture(tmp_path, "data/train_images/1.png")
    (tmp_path / "train.csv").write_text(f"{header}\n1{';' if ';' in header else ','}0\n")
    elsewhere = guess_layout(open_store(tmp_path / "data"), tmp_path / "train.csv")
    assert elsewhere == ("aptos" if layout == "aptos" else "manifest")
    (tmp_path / "train.csv").rename(tmp_path / "data/train.csv")
    assert guess_layout(open_store(tmp_path / "data")) == layout


def test_the_metadata_csv_of_an_archive_beside_dicom_is_no_table_of_pictures(tmp_path):
    (tmp_path / "metadata.csv").write_text("Series UID,Collection\n1.2,NSCLC\n")
    (tmp_path / "LUNG1-001").mkdir()
    (tmp_path / "LUNG1-001/1-001.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with open_layout(None, tmp_path) as store:
        assert guess_layout(store) == "dicom"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((8, 9), "Save it with a third axis of length 1"),
        ((8, 9, 4, 5), "Of a series over time save single volumes"),
    ],
)
def test_a_flat_volume_and_a_series_over_time_come_with_the_shape_that_is_read(tmp_path, shape, said):
    for number, label in enumerate(("ill", "well")):
        values = np.random.default_rng(number).integers(0, 99, shape).astype(np.int16)
        (tmp_path / f"{label}.nii").write_bytes(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
    (tmp_path / "manifest.csv").write_text("image,patient,label\nill,p,ill\nwell,q,well\n")
    with raises_code(DataError, "data-unreadable") as caught:
        load_images("manifest", tmp_path, cache_dir=tmp_path / ".cache", recipes=[VolumeRecipe((8, 8, 8))])
    assert said in str(caught.value)
