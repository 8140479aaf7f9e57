"""Graded fundus photographs in the layout of APTOS 2019."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.images.held import Held

from wardround.errors import DataError
from wardround.images.entries import Target, Task
from wardround.images.layouts.aptos import GRADES, read_aptos
from wardround.images.load import list_entries, load_images
from wardround.images.rows.recipe import PictureRecipe
from wardround.images.store import open_store
from wardround.types import Persons

CODES = {"a1": 0, "b2": 1, "c3": 2, "d4": 3, "e5": 4, "f6": 0}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    (folder / "train_images").mkdir(parents=True)
    for number, code in enumerate(CODES):
        shades = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(shades).save(folder / f"train_images/{code}.png")
    return table(folder, "id_code,diagnosis", *(f"{code},{grade}" for code, grade in CODES.items()))


def table(folder, *lines, name="train.csv", encoding="utf-8"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


def read(folder, task=Task.GRADING):
    return list_entries("aptos", open_store(folder), task.value)


def refused(folder, task=Task.GRADING):
    with pytest.raises(DataError) as caught:
        read(folder, task)
    return str(caught.value)


def test_grades_are_classes_in_an_order(root):
    listing = read(root)
    assert listing.class_names == GRADES
    assert listing.target is Target.GRADES
    assert not listing.volumes
    assert [(entry.file, entry.label) for entry in listing.entries] == [
        (f"train_images/{code}.png", grade) for code, grade in CODES.items()
    ]


def test_moderate_and_worse_is_referable(root):
    listing = read(root, Task.REFERABLE)
    assert listing.class_names == ("not referable", "referable")
    assert listing.target is Target.CLASSES
    assert [entry.label for entry in listing.entries] == [0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("task", sorted(set(Task) - {Task.GRADING, Task.REFERABLE}))
def test_another_task_is_refused(root, task):
    assert f"grading, referable, got '{task}'" in refused(root, task)


def test_without_a_patient_persons_are_unnamed(root):
    listing = read(root)
    assert len({entry.patient for entry in listing.entries}) == 6
    assert (listing.persons, listing.notes) == (Persons.UNNAMED, ())


def test_a_column_names_the_patient_and_the_eye(root):
    table(root, "id_code,diagnosis,patient_id,eye", *(f"{code},2,{code[0] < 'd'},left" for code in CODES))
    listing = read(root)
    assert {entry.patient for entry in listing.entries} == {"True", "False"}
    assert all(entry.groups == (("eye", "left"),) for entry in listing.entries)
    assert listing.notes == ()


def test_a_table_of_patients_goes_before_the_column(root):
    table(root, "id_code,diagnosis,patient_id,eye,site", *(f"{code},2,wrong,wrong,north" for code in CODES))
    table(
        root,
        "patient_id,eye,id_code",
        *(f"p{n // 2},{'LR'[n % 2]},{c}" for n, c in enumerate(CODES)),
        name="patients.csv",
    )
    entries = read(root).entries
    assert [entry.patient for entry in entries] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert [dict(entry.groups)["eye"] for entry in entries] == ["L", "R"] * 3
    assert {entry.site for entry in entries} == {"north"}


def test_a_table_of_patients_must_hold_and_know_every_picture(root):
    table(root, "id_code,patient_id", "a1,p", "b2,", "c3,p", "c3,q", name="patients.csv")
    said = refused(root)
    assert "line 3 has no patient" in said
    assert "line 5: c3 has another patient in line 4" in said
    table(root, "id_code,patient_id", "a1,p", name="patients.csv")
    assert "got 5 of 6 that name nobody: train_images/b2.png, train_images/c3.png" in refused(root)


def test_a_byte_order_mark_more_columns_and_empty_lines_do_no_harm(root):
    rows = [f" {code} , {grade}.0 ,x" for code, grade in CODES.items()]
    table(root, "id_code, diagnosis ,note", *rows[:3], "", ",,", *rows[3:], encoding="utf-8-sig")
    assert [entry.label for entry in read(root).entries] == list(CODES.values())


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".PNG"])
def test_pictures_may_have_other_endings(root, ending):
    (root / "train_images/a1.png").rename(root / f"train_images/a1{ending}")
    assert read(root).entries[0].file == f"train_images/a1{ending}"


def test_everything_wrong_with_the_table_is_said_at_once(root):
    (root / "train_images/e5.jpg").write_bytes(b"")
    table(root, "id_code,diagnosis", "a1,5", "b2,", "b2,1", ",3", "gone,0", "../../x,1", "e5,-1", "c3,1.5")
    said = refused(root)
    for problem in (
        "9 problems",
        "line 2: diagnosis must be a grade from 0 to 4, got '5'",
        "line 3 has no diagnosis",
        "line 4: b2 is in line 3 already",
        "line 5 has no id_code",
        "line 6: train_images/gone.png is missing",
        "line 7: train_images/../../x.png is missing",
        "line 8 has no diagnosis (-1)",
        "line 8: e5 has 2 pictures",
        "got '1.5'",
    ):
        assert problem in said


def test_many_problems_are_shortened(root):
    table(root, "id_code,diagnosis", *(f"gone{number},0" for number in range(50)))
    said = refused(root)
    assert "50 problems" in said
    assert "and 40 more" in said


def test_pictures_without_grades_are_passed_over_and_counted(root):
    (root / "test_images").mkdir()
    (root / "test_images/t1.png").write_bytes(b"")
    (root / "train_images/new.png").write_bytes(b"")
    table(root, "id_code", "t1", name="test.csv")
    listing = read(root)
    assert len(listing.entries) == 6
    assert listing.notes == (
        "test.csv and 1 file in test_images have no published grades: passed over",
        "passed over: 1 picture in train_images without a row in train.csv",
    )


@pytest.mark.parametrize("gone", ["train.csv", "train_images"])
def test_another_layout_says_what_is_missing(root, gone):
    (root / gone).rename(root / "elsewhere")
    assert "must look like train.csv (id_code,diagnosis)" in refused(root)


def test_missing_columns_are_named(root):
    assert "missing: diagnosis, found: id_code, level" in refused(table(root, "id_code,level", "a1,1"))


def load(root, **options):
    return load_images("aptos", root, cache_dir=root.parent / "cache", recipes=[PictureRecipe(4, 3, **options)])


def test_the_same_picture_with_two_grades_is_a_finding(root):
    (root / "train_images/e5.png").write_bytes((root / "train_images/b2.png").read_bytes())
    image_set = load(root)
    assert image_set.findings.conflicting_duplicates == (("train_images/b2.png", "train_images/e5.png"),)
    assert image_set.findings.repeated_pictures == 1
    assert len(image_set.patients) == 6
    assert image_set.target is Target.GRADES


def test_the_disc_is_cut_out_where_it_is_asked_for(root):
    light = np.zeros((40, 60, 3), dtype=np.uint8)
    light[10:30, 20:40] = 200
    for number, code in enumerate(CODES):
        light[20, 30] = 100 + number
        Image.fromarray(light).save(root / f"train_images/{code}.png")
    plain, cut = (load(root, circle=circle).pixels for circle in (False, True))
    assert plain[:, :, 0].max() < 120
    assert cut[:, :, 0, 1].min() > 150


CELLS = ["id_code", "diagnosis", "patient_id", "eye", "a", "b", "0", "4", "5", '"', ""]

tables = st.binary(max_size=60) | st.lists(
    st.lists(st.sampled_from(CELLS) | st.text(max_size=5), max_size=5).map(",".join), max_size=8
).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@settings(deadline=None)
@given(tables, tables, st.booleans())
def test_a_hostile_table_is_read_or_refused_in_one_sentence(table, people, has_header):
    files = {f"train_images/{name}": b"" for name in ("a.png", "b.jpg")}
    files["train.csv"] = b"id_code,diagnosis,patient_id\n" * has_header + table
    if people:
        files["patients.csv"] = b"id_code,patient_id\n" * has_header + people
    try:
        listing = read_aptos(Held(files), Task.GRADING)  # type: ignore[arg-type]  # the methods that readers call
    except DataError:
        return
    assert {entry.file for entry in listing.entries} <= files.keys()
