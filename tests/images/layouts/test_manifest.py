"""Any data, as one table says it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.errors import raises_code
from tests.images.held import Held

from wardround.errors import DataError
from wardround.images.class_names import numbers_first
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW
from wardround.images.entries import Region, Target, Task
from wardround.images.layouts.manifest import read_manifest
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe
from wardround.images.store import open_store

FILES = ("a/1.png", "a/2.png", "b/3.jpg", "m/1.png", "m/2.png", "m/3.png", "v/1.nii.gz", "v/2.nii", "notes.txt")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for number, file in enumerate(FILES):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        if file.endswith((".png", ".jpg")):
            values = np.random.default_rng(number).integers(0, 2 if file.startswith("m") else 256, (6, 8))
            Image.fromarray(values.astype(np.uint8)).save(path)
    return folder


def write(folder, *lines, name="manifest.csv", encoding="utf-8"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


def read(folder, task=Task.CLASSIFICATION):
    return read_manifest(open_store(folder), task)


def refused(folder, task=Task.CLASSIFICATION):
    with pytest.raises(DataError) as caught:
        read(folder, task)
    return str(caught.value)


def test_labels_are_classes_with_numbers_first_and_by_value(root):
    write(root, "image,patient,label", "a/1.png,ann,10", "a/2.png,bob,unclear", "b/3.jpg,ann,9")
    listing = read(root)
    assert listing.class_names == ("9", "10", "unclear")
    assert (listing.target, listing.volumes, listing.decoder) == (Target.CLASSES, False, PILLOW)
    assert [(e.file, e.label, e.patient, e.mask) for e in listing.entries] == [
        ("a/1.png", 1, "ann", ()),
        ("a/2.png", 2, "bob", ()),
        ("b/3.jpg", 0, "ann", ()),
    ]
    assert listing.notes == ("passed over: 5 images in the folder without a row in manifest.csv",)


def test_the_same_labels_are_grades_where_grading_is_the_task(root):
    write(root, "image,patient,label", "a/1.png,ann,0", "a/2.png,bob,1")
    assert read(root, Task.GRADING).target is Target.GRADES


def test_site_split_and_subgroups_are_taken_where_they_are_given(root):
    write(
        root,
        "image,patient,label,site,split,group:sex,group: age ,note",
        "a/1.png,ann,0,north,Train,F,60-69,x",
        "a/2.png,bob,1,,test,,,",
    )
    first, second = read(root).entries
    assert (first.site, first.split, first.groups) == ("north", "train", (("sex", "F"), ("age", "60-69")))
    assert (second.site, second.split, second.groups) == (None, "test", ())


def masked(root, *classes):
    write(root, "image,patient,mask", "a/1.png,ann,m/1.png", "./a//2.png,bob,m/2.png", "b/3.jpg,ann,./m/3.png")
    if classes:
        write(root, *classes, name="classes.csv")
    return root


def test_masks_have_the_names_of_a_table_of_classes(root):
    listing = read(masked(root, "index,name", "2,tumour", "1,liver"), Task.SEGMENTATION)
    assert listing.class_names == ("background", "liver", "tumour")
    assert listing.target is Target.MASKS
    assert [(e.file, e.label, e.mask) for e in listing.entries] == [
        ("a/1.png", 0, ("m/1.png",)),
        ("a/2.png", 0, ("m/2.png",)),
        ("b/3.jpg", 0, ("m/3.png",)),
    ]


def test_the_background_may_have_another_name(root):
    assert read(masked(root, "index,name", "0,air", "1,lung"), Task.SEGMENTATION).class_names == ("air", "lung")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((), "masks must come with a classes.csv"),
        (("index,name",), "rows below its first line"),
        (("index,name", "256,tumour"), "up to 255 .* got: 0, 256"),
        (("index,name", "1,a", "1,b"), "line 3: index 1 has two names"),
        (("index,name", "one,a", "1,"), "2 problems: line 2 must have a whole number"),
        (("index,name", f"{'9' * 5000},a"), "up to 255"),
        (("number,name", "1,a"), "missing: index"),
    ],
)
def test_classes_that_do_not_hold_are_refused(root, classes, said):
    with pytest.raises(DataError, match=said):
        read(masked(root, *classes), Task.SEGMENTATION)


def test_label_and_mask_may_stand_side_by_side_and_the_task_chooses(root):
    write(root, "image,patient,mask,label", "a/1.png,ann,m/1.png,x", "a/2.png,bob,m/2.png,y")
    write(root, "index,name", "1,liver", name="classes.csv")
    assert read(root).class_names == ("x", "y")
    assert [entry.mask for entry in read(root).entries] == [(), ()]
    assert read(root, Task.SEGMENTATION).entries[0].mask == ("m/1.png",)


@pytest.mark.parametrize(("task", "column"), [(Task.SEGMENTATION, "mask"), (Task.GRADING, "label")])
def test_a_task_must_have_its_column(root, task, column):
    said = refused(write(root, "image,patient", "a/1.png,ann"), task)
    assert f"must have the column {column} for the task {task}; found: image, patient" in said


@pytest.mark.parametrize("task", [Task.SUBTYPE, Task.REFERABLE])
def test_a_task_of_another_layout_is_refused(root, task):
    with raises_code(DataError, "data-task"):
        list_entries("manifest", open_store(root), task)


def test_volumes_are_read_as_nifti(root):
    listing = read(write(root, "image,patient,label", "v/1.nii.gz,ann,0", "v/2.nii,bob,1"))
    assert listing.volumes
    assert listing.decoder is NIFTI


def test_pictures_and_volumes_in_one_table_are_refused(root):
    write(root, "image,patient,label", "v/1.nii.gz,ann,0", "a/1.png,bob,1")
    assert "line 3: a/1.png is a picture, and the first row names a volume" in refused(root)


def test_everything_wrong_with_a_table_is_said_at_once_with_its_line(root):
    write(
        root,
        "image,patient,label,split",
        "a/1.png,,1,",
        "",
        ",ann,,",
        "/etc/passwd,ann,0,",
        "../secret.png,ann,0,",
        "a\\1.png,ann,0,",
        "a/gone.png,ann,0,",
        "notes.txt,ann,0,",
        "a/2.png,ann,0,holdout",
        "./a/2.png,ann,0,",
    )
    said = refused(root)
    for problem in (
        "9 problems",
        "line 2 has no patient",
        "line 4 has no image and no label",
        "line 5: /etc/passwd lies outside the data folder",
        "line 6: ../secret.png lies outside the data folder",
        "line 7: a\\1.png is in line 2 already",
        "line 8: a/gone.png is missing",
        "line 9: notes.txt is neither a picture",
        "line 10: split is none of train, val, test: holdout",
        "line 11: ./a/2.png is in line 10 already",
    ):
        assert problem in said


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("", "line 2 has no mask"),
        ("a/1.png", "line 2: a/1.png is named as image and as mask"),
        ("m/gone.png", "line 2: mask m/gone.png is missing"),
        ("../m.png", "line 2: mask ../m.png lies outside"),
        ("b/3.jpg", "line 2: the mask b/3.jpg is a JPEG"),
        ("v/2.nii", "line 2: mask v/2.nii is a volume, and the first row names a picture"),
    ],
)
def test_a_mask_that_does_not_hold_is_refused(root, mask, said):
    write(root, "index,name", "1,liver", name="classes.csv")
    assert said in refused(write(root, "image,patient,mask", f"a/1.png,ann,{mask}"), Task.SEGMENTATION)


def test_each_class_of_masks_but_the_background_is_scored(root):
    write(root, "index,name", "1,liver", "2,tumour", name="classes.csv")
    listing = read(write(root, "image,patient,mask", "a/1.png,ann,m/1.png"), Task.SEGMENTATION)
    assert listing.regions == (Region("liver", (1,)), Region("tumour", (2,)))


def test_two_values_of_masks_with_one_name_are_refused(root):
    write(root, "index,name", "1,liver", "2,liver", name="classes.csv")
    write(root, "image,patient,mask", "a/1.png,ann,m/1.png")
    with raises_code(DataError, "data-class-names"):
        list_entries("manifest", open_store(root), Task.SEGMENTATION)


def test_many_problems_are_shortened(root):
    write(root, "image,patient,label", *(f"gone/{number}.png,ann,0" for number in range(50)))
    assert "and 40 more" in refused(root)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (("image,label", "a/1.png,0"), "data-column-missing"),
        (("",), "data-column-missing"),
        (("image,patient,label,label", "a/1.png,ann,0,1"), "data-column-twice"),
        (("image,patient,label", "a/1.png,Doe, Ann,0"), "data-row-length"),
        (("image,patient,label", 'a/1.png,"ann,0'), "data-no-table"),
        (("image,patient,label", "a/1.png,ann,0"), "data-one-class"),
        (("image,patient,label",), "data-no-rows"),
    ],
)
def test_a_table_of_another_shape_is_refused(root, lines, code):
    with raises_code(DataError, code):
        list_entries("manifest", open_store(write(root, *lines)), None)


def test_a_table_that_is_no_text_is_refused(root):
    (root / "manifest.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x81\x8d")
    with raises_code(DataError, "data-no-table"):
        read(root)


def test_a_folder_without_the_table_is_another_layout(root):
    with raises_code(DataError, "data-no-manifest"):
        read(root)


def test_quotes_a_byte_order_mark_and_lines_within_values_do_no_harm(root):
    write(root, "image,patient,label", '"a/1.png","Doe, Ann","two\nlines"', "a/2.png,bob,x", encoding="utf-8-sig")
    assert [entry.patient for entry in read(root).entries] == ["Doe, Ann", "bob"]
    write(root, "image,patient,label", 'a/1.png,ann,"two\nlines"', "gone.png,bob,x")
    assert "line 4: gone.png is missing" in refused(root)


def test_numbers_come_before_words_however_long():
    names = ["b", "a", "10", "2", "9" * 5000, "²", ""]
    assert sorted(names, key=numbers_first)[:2] == ["2", "10"]


FOUR = PictureRecipe(4, 1)


def load(root, recipe=FOUR, **options):
    return load_images("manifest", root, cache_dir=root.parent / "cache", recipes=[recipe], **options)


def test_pictures_come_with_their_labels_from_end_to_end(root):
    write(root, "image,patient,label", "a/1.png,ann,no", "a/2.png,bob,yes", "b/3.jpg,ann,no")
    image_set = load(root)
    assert [(patient.id, patient.labels) for patient in image_set.patients] == [("ann", (0, 0)), ("bob", (1,))]
    assert image_set.pixels.shape == (3, 1, 4, 4)


def test_pictures_come_with_their_masks_from_end_to_end(root):
    image_set = load(masked(root, "index,name", "1,liver"), task="segmentation")
    assert image_set.masks is not None
    assert image_set.masks.shape == (3, 4, 4)
    assert set(np.unique(image_set.masks)) == {0, 1}
    assert image_set.class_names == ("background", "liver")


def test_volumes_come_with_their_masks_from_end_to_end(root):
    nib = pytest.importorskip("nibabel")
    for number, name in enumerate(("1.nii.gz", "2.nii")):
        values = np.random.default_rng(number).normal(size=(4, 5, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([1, 2, 3, 1])), root / "v" / name)
        nib.save(nib.Nifti1Image((values > 0).astype(np.uint8), np.diag([1, 2, 3, 1])), root / "m" / name)
    write(root, "index,name", "1,liver", name="classes.csv")
    write(root, "image,patient,mask", "v/1.nii.gz,ann,m/1.nii.gz", "v/2.nii,bob,m/2.nii")
    image_set = load(root, VolumeRecipe((4, 5, 6)), task="segmentation")
    assert image_set.pixels.shape == (2, 1, 4, 5, 6)
    assert image_set.masks is not None
    expected = np.random.default_rng(0).normal(size=(4, 5, 6)) > 0
    np.testing.assert_array_equal(image_set.masks[image_set.patients[0].rows[0]], expected)


CELLS = [
    "image",
    "patient",
    "label",
    "mask",
    "split",
    "group:",
    "index",
    "name",
    "a.png",
    "m.png",
    "ann",
    "0",
    "1",
    '"',
    "",
]

tables = st.binary(max_size=60) | st.lists(
    st.lists(st.sampled_from(CELLS) | st.text(max_size=5), max_size=5).map(",".join), max_size=8
).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@settings(deadline=None)
@given(tables, tables, st.booleans(), st.sampled_from([Task.CLASSIFICATION, Task.GRADING, Task.SEGMENTATION]))
def test_a_hostile_table_is_read_or_refused_in_one_sentence(table, classes, has_header, task):
    table = b"image,patient,label,mask,split\n" * has_header + table
    files = {
        "manifest.csv": table,
        "classes.csv": b"index,name\n" * has_header + classes,
        "a.png": b"",
        "m.png": b"",
    }
    try:
        listing = read_manifest(Held(files), task)  # type: ignore[arg-type]  # the methods that readers call
    except DataError:
        return
    assert {entry.file for entry in listing.entries} <= {"a.png", "m.png"}
