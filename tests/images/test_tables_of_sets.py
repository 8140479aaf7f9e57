"""Tables as public sets have them: other names of columns, bare file names, no persons, a row for each box."""

import pytest
from tests.errors import raises_code
from tests.images.test_field_sets import listed, picture

from wardround.errors import DataError
from wardround.images.listing import ByPattern, OnePerPicture
from wardround.images.load import list_entries, open_layout
from wardround.images.store import open_store
from wardround.images.table import Files
from wardround.types import Persons


def table(root, *lines, name="manifest.csv"):
    (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("header", "file"),
    [
        ("Image Index,Patient ID,Label", "1_000.png"),
        ("image_name,patient_id,diagnosis", "1_000"),
        ("dicom,ImageID,subject_id,dx", "x,1_000.png"),
        ("img_id,PatientID,label,diagnosis", "1_000.png"),
    ],
)
@pytest.mark.parametrize(("name", "layout"), [("manifest.csv", "manifest"), ("metadata.csv", "folder")])
def test_columns_and_pictures_may_be_called_as_public_sets_call_them(tmp_path, header, file, name, layout):
    for one in ("images_001/images/1_000.png", "images_002/images/2_000.png", "masks/1_000.png"):
        picture(tmp_path, one)
    rest = ",other" if header.count(",") > 2 and file[0] != "x" else ""
    table(tmp_path, header, f"{file},p1,ill{rest}", f"{file.replace('1_', '2_')},p2,well{rest}", name=name)
    listing = listed(tmp_path, layout)
    assert [(entry.file, entry.patient) for entry in listing.entries] == [
        ("images_001/images/1_000.png", "p1"),
        ("images_002/images/2_000.png", "p2"),
    ]
    assert listing.class_names == ("ill", "well")


def test_a_bare_name_that_several_pictures_have_is_refused(tmp_path):
    for one in ("train/1.png", "test/1.png", "train/2.png", "notes/2.txt"):
        picture(tmp_path, one) if one.endswith("png") else (tmp_path / "notes").mkdir()
    files = Files(open_store(tmp_path))
    assert files.find("1") == ("1", "1 is the name of 2 files; write the path")
    assert files.find("2") == ("train/2.png", None)


def test_a_mask_is_no_picture_of_its_name_and_a_picture_no_mask(tmp_path):
    for one in ("images/a.png", "masks/a.png", "masks/b.png"):
        picture(tmp_path, one)
    files = Files(open_store(tmp_path))
    assert files.find("a.png") == ("images/a.png", None)
    assert files.find("a.png", is_mask=True) == ("masks/a.png", None)
    assert files.find("b")[1] == "b is missing (masks/b.png is there)"


def test_the_name_of_the_set_itself_makes_no_masks_of_its_pictures(tmp_path):
    for one in ("lgg-segmentation/p1/a.png", "lgg-segmentation/p2/b.png"):
        picture(tmp_path, one)
    assert Files(open_store(tmp_path)).find("a")[0] == "lgg-segmentation/p1/a.png"


def test_a_row_for_each_box_is_one_picture_unless_rows_differ(tmp_path):
    for one in ("a.png", "b.png"):
        picture(tmp_path, one)
    table(tmp_path, "image,patient,x,label", "a,p,1,ill", "a,p,2,ill", "b,q,,well")
    assert [(entry.file, entry.patient) for entry in listed(tmp_path, "manifest").entries] == [
        ("a.png", "p"),
        ("b.png", "q"),
    ]
    for other in ("a,p,2,well", "a,r,2,ill"):
        table(tmp_path, "image,patient,x,label", "a,p,1,ill", other, "b,q,,well")
        with raises_code(DataError, "data-rows"):
            listed(tmp_path, "manifest")


def eyes(root, header, *ends):
    for name in ("10_left", "10_right", "13_left"):
        picture(root, f"train/{name}.jpeg")
    rows = zip(("10_left,0", "10_right,1", "13_left,0"), ends or ("", "", ""), strict=True)
    return table(root, header, *map("".join, rows))


def test_a_table_without_persons_asks_for_them(tmp_path):
    eyes(tmp_path, "image,label")
    with raises_code(DataError, "data-column-missing") as caught:
        listed(tmp_path, "manifest")
    assert "`[site] patients` may" in str(caught.value)
    people = listed(tmp_path, "manifest", names=ByPattern(r"^(\d+)_")).entries
    assert [entry.patient for entry in people] == ["10", "10", "13"], "two eyes are of one person"
    assert listed(tmp_path, "manifest", names=OnePerPicture()).persons is Persons.ONE_PER_PICTURE
    (tmp_path / "patients.csv").write_text("picture,patient\n10_left,a\n10_right,a\n13_left,b\n")
    assert [entry.patient for entry in listed(tmp_path, "manifest").entries] == ["a", "a", "b"]


@pytest.mark.parametrize(("name", "layout"), [("manifest.csv", "manifest"), ("metadata.csv", "folder")])
def test_a_column_of_persons_without_a_value_says_that_nobody_knows_them(tmp_path, name, layout):
    eyes(tmp_path, "image,label,patient", ",", ",", ",").joinpath("manifest.csv").rename(tmp_path / name)
    listing = listed(tmp_path, layout)
    assert listing.persons is Persons.UNNAMED
    eyes(tmp_path, "image,label,patient", ",", ",", ",13").joinpath("manifest.csv").rename(tmp_path / name)
    with raises_code(DataError, "data-rows"):
        listed(tmp_path, layout)
    eyes(tmp_path, "image,label,patient", *[",unknown"] * 3).joinpath("manifest.csv").rename(tmp_path / name)
    with raises_code(DataError, "data-rows"):
        listed(tmp_path, layout)


@pytest.mark.parametrize("other", ["subject_id", "participant_id"])
def test_an_empty_column_of_persons_beside_another_is_refused(tmp_path, other):
    """The table knows the persons: one picture must not become what is protected."""
    eyes(tmp_path, f"image,label,patient,{other}", ",NA,10", ",NA,10", ",NA,13")
    with raises_code(DataError, "data-rows"):
        listed(tmp_path, "manifest")


def test_rows_left_out_do_not_make_a_column_of_persons_empty(tmp_path):
    eyes(tmp_path, "image,label,patient", ",unknown", ",", ",")
    with raises_code(DataError, "data-rows"):
        listed(tmp_path, "manifest", leave_out=("unknown",))


def test_masks_of_a_segmentation_may_have_the_names_of_their_pictures(tmp_path):
    for one in ("images/a.png", "masks/a.png", "images/b.png", "masks/b.png"):
        picture(tmp_path, one)
    table(tmp_path, "image,patient,mask", "a,p,a", "b,q,b")
    table(tmp_path, "index,name", "1,polyp", name="classes.csv")
    with open_layout("manifest", tmp_path) as store:
        entries = list_entries("manifest", store, "segmentation").entries
    assert [entry.mask for entry in entries] == [("masks/a.png",), ("masks/b.png",)]
