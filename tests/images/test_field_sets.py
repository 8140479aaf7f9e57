"""Sets as people publish them: masks beside pictures, other formats, shortened ids, arrays of other shapes."""

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.errors import raises_code
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.decode.nifti import NIFTI
from wardround.images.entries import Entry
from wardround.images.listing import ByTable, Classes, ReaderOptions
from wardround.images.load import list_entries, load_images, open_layout
from wardround.images.store import open_store
from wardround.images.table import Files


def picture(root, name, seed=0):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).integers(0, 255, (9, 9)).astype(np.uint8)
    Image.fromarray(drawn).save(root / name)


def listed(root, layout="folder", **options):
    with open_layout(layout, root) as store:
        return list_entries(layout, store, None, ReaderOptions(**options))


def manifest(root, *rows, header="image,patient,label,site"):
    (root / "manifest.csv").write_text("\n".join((header, *rows)) + "\n")


@pytest.mark.parametrize("mark", ["_mask", "_mask_1", "-mask", " segmentation", ".seg", "_GT"])
def test_masks_that_lie_beside_their_pictures_are_no_pictures(tmp_path, mark):
    for name in ("benign/benign (1)", "malignant/malignant (1)"):
        picture(tmp_path, f"{name}.png")
        picture(tmp_path, f"{name}{mark}.png")
    picture(tmp_path, "benign/a_mask.png")  # a mask of no picture may be a picture
    listing = listed(tmp_path)
    assert [entry.file for entry in listing.entries] == [
        "benign/a_mask.png", "benign/benign (1).png", "malignant/malignant (1).png",
    ]  # fmt: skip
    assert {one.cause for one in listing.left_out} == {"masks beside their pictures, by their names"}
    assert len(listing.left_out) == 2


@pytest.mark.parametrize("ending", ["webp", "DCM", "nii.gz"])
def test_a_class_in_another_format_is_named_and_does_not_vanish(tmp_path, ending):
    for name in ("ill/a.png", "well/b.png"):
        picture(tmp_path, name)
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / f"c.{ending}").write_bytes(b"other")
    assert listed(tmp_path).class_names == ("ill", "well", "worse")
    with raises_code(DataError, "data-empty-class") as caught:
        load_images("folder", tmp_path, cache_dir=tmp_path / ".cache")
    assert "files that are not read here" in str(caught.value)


def test_a_table_without_rows_is_said(tmp_path):
    picture(tmp_path, "a.png")
    manifest(tmp_path)
    with raises_code(DataError, "data-no-rows"):
        listed(tmp_path, "manifest")


def test_names_in_a_table_may_differ_in_case_where_one_file_has_them(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path, name)
    manifest(tmp_path, "A.PNG,p,x,", "b.png,q,y,")
    assert [entry.file for entry in listed(tmp_path, "manifest").entries] == ["a.png", "b.png"]
    picture(tmp_path, "A.png")
    with raises_code(DataError, "data-rows"):
        listed(tmp_path, "manifest")
    manifest(tmp_path, "A.png,p,x,", "a.png,q,y,")
    assert [entry.file for entry in listed(tmp_path, "manifest").entries] == ["A.png", "a.png"]


def test_shortened_ids_and_sites_that_look_alike_are_noted(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path, name)
    manifest(tmp_path, "a.png,1.23457E+11,x,North", "b.png,1.23457E+11,y,north", "c.png,E+12,x,South")
    shortened, alike = listed(tmp_path, "manifest").notes
    assert shortened.startswith("1 patient has an id such as 1.2E+11")
    assert alike == "sites whose names look alike: North = north"
    manifest(tmp_path, "a.png,123457000000,x,North", "b.png,7e2,y,East", "c.png,E12,x,South")
    assert listed(tmp_path, "manifest").notes == ()


def test_a_case_of_nnunet_may_be_named_without_its_channel(tmp_path):
    picture(tmp_path, "ill/x_0000.png")
    picture(tmp_path, "well/y_0001.png")
    (tmp_path / "patients.csv").write_text("picture,patient\nx,p\ny_0001,q\n")
    assert [entry.patient for entry in listed(tmp_path).entries] == ["p", "q"]


def arrays(root, images, labels):
    np.savez(root / "set.npz", train_images=images, train_labels=labels)
    (root / "README.md").write_text("of the set")
    return listed(root, "medmnist")


def test_arrays_with_one_grey_channel_are_pictures_and_with_four_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (4, 9, 9)).astype(np.uint8)
    names = [entry.file for entry in arrays(tmp_path, images, [0, 1, 0, 1]).entries]
    grey = arrays(tmp_path, images[..., None], [0, 1, 0, 1])
    assert not grey.volumes
    assert [entry.file for entry in grey.entries] == names
    with raises_code(DataError, "data-medmnist"):
        arrays(tmp_path, np.stack([images] * 4, axis=3), [0, 1, 0, 1])


def test_minus_one_in_arrays_is_no_label_unless_the_study_lists_it(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (4, 9, 9)).astype(np.uint8)
    with raises_code(DataError, "data-missing-class"):
        arrays(tmp_path, images, [-1, 1, 0, 1])
    assert listed(tmp_path, "medmnist", leave_out=("-1",)).class_names == ("0", "1")
    assert len(listed(tmp_path, "medmnist", classes=Classes(("-1", "0", "1"))).entries) == 4


def test_volumes_that_bids_does_not_read_are_counted(tmp_path):
    names = (
        "sub-1/anat/sub-1_T1w",
        "sub-2/anat/sub-2_T1w",
        "sub-2/anat/sub-1_T1w",
        "sub-1/func/sub-1_task-x_bold",
    )
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 9, (3, 3, 3)).astype(np.int16)
        (tmp_path / f"{name}.nii.gz").write_bytes(nifti_bytes(values, np.eye(4)))
    (tmp_path / "participants.tsv").write_text("participant_id\tdx\nsub-1\ta\nsub-2\tb\n")
    listing = listed(tmp_path, "bids")
    assert len(listing.entries) == 2
    assert listing.notes == ("passed over: 2 volumes outside of anat, or not named as their folder's participant",)


def test_three_classes_are_not_binary(tmp_path):
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        picture(tmp_path, name)
    with open_layout("folder", tmp_path) as store:
        assert len(list_entries("folder", store, "classification").class_names) == 3
        with raises_code(DataError, "data-binary"):
            list_entries("folder", store, "binary")
        looked = list_entries("folder", store, "binary", ReaderOptions(looking=True))
        assert [error.code for error in looked.refusals] == ["data-binary"]


def test_one_link_that_leads_outside_is_one(tmp_path):
    picture(tmp_path, "data/ill/a.png")
    (tmp_path / "data" / "other").symlink_to(tmp_path)
    with raises_code(DataError, "data-link-outside") as caught:
        open_store(tmp_path / "data")
    assert "got 1 link that leads outside of it" in str(caught.value)


def test_a_stray_folder_of_other_files_is_no_class_where_the_classes_are_known(tmp_path):
    for name in ("ill/a.png", "well/b.png"):
        picture(tmp_path, f"stated/{name}")
        picture(tmp_path, f"parts/train/{name}")
        picture(tmp_path, f"parts/test/{name}")
    for stray in ("stated/originals/1.dcm", "parts/docs/figure.gif"):
        (tmp_path / stray).parent.mkdir()
        (tmp_path / stray).write_bytes(b"other")
    stated = listed(tmp_path / "stated", classes=Classes(("ill", "well")))
    assert (stated.class_names, stated.refusals) == (("ill", "well"), ())
    parts = listed(tmp_path / "parts")
    assert (parts.class_names, parts.refusals) == (("ill", "well"), ())


def test_a_patient_of_another_picture_is_not_taken_for_a_name_with_four_digits(tmp_path):
    for name in ("ill/0012_0034.png", "well/b.png"):
        picture(tmp_path, name)
    table = tmp_path / "patients.csv"
    table.write_text("picture,patient\n0012,OTHER\nb,p1\n")
    with raises_code(DataError, "data-some-unnamed"):
        load_images("folder", tmp_path, cache_dir=tmp_path / ".cache", options=ReaderOptions(names=ByTable(table)))


def test_an_exact_name_in_a_table_wins_over_one_of_another_case(tmp_path):
    for name in ("a.png", "b.png", "tables/A.png"):
        picture(tmp_path, name)
    manifest(tmp_path / "tables", "a.png,p0,ill,", "b.png,p1,well,")
    names = Files(open_store(tmp_path), tmp_path / "tables" / "manifest.csv")
    assert names.find("a.png") == ("a.png", None)


def test_a_volume_whose_grid_is_no_number_has_no_size_of_a_voxel():
    values, affine = np.zeros((8, 8, 8), np.int16), np.diag([2.0, 2.0, 2.0, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    image.header["srow_x"] = [np.nan, 0.0, 0.0, 0.0]
    image.header["sform_code"] = 1
    broken = image.header.binaryblock + bytes(4)
    assert NIFTI.extent(Entry("a.nii", 0, "a"), [nifti_bytes(values, affine)], 1).voxel_mm3 == 8.0
    assert NIFTI.extent(Entry("a.nii", 0, "a"), [broken], 1).voxel_mm3 is None, "a recipe multiplies it"


@pytest.mark.parametrize("written", ["x/a", "/kaggle/input/a.png", "C:\\sets\\a.PNG", "a.jpg", "ill/../b.c.png"])
def test_a_file_that_is_missing_is_named_where_it_lies(tmp_path, written):
    """Tables of public sets name pictures with other endings, or below another person's folders."""
    for name in ("ill/a.png", "ill/1.2.png", "ill/b.c.png", "ill/twice.png", "well/twice.png"):
        picture(tmp_path, name)
    manifest(tmp_path, f"{written},p,x,", "ill/twice.png,q,y,")
    with raises_code(DataError, "data-rows") as caught:
        listed(tmp_path, "manifest")
    right = "ill/b.c.png" if written[0] == "i" else "ill/a.png"
    assert f" ({right} is there)" in str(caught.value)


def test_a_check_of_a_study_says_what_its_table_leaves_out(tmp_path):
    for name in "abc":
        picture(tmp_path, f"{name}.png")
    manifest(tmp_path, "a.png,p,x,", "b.png,q,y,", header="image,patient,label,")
    said = [*listed(tmp_path, "manifest").noticed()]
    assert said == ["passed over: 1 image in the folder without a row in manifest.csv"]
