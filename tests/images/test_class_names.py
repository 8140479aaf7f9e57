"""Classes are the study's: their order, the words that are none, and a class that lost all its pictures."""

import numpy as np
import pytest
from PIL import Image
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images.class_names import numbers_first, unlabelled, unordered
from wardround.images.entries import Target
from wardround.images.listing import Classes, ReaderOptions
from wardround.images.load import list_entries, load_images
from wardround.images.quality.inspection import inspect
from wardround.images.rows.recipe import PictureRecipe
from wardround.images.store import open_store


def set_of(root, labels, header="image,patient,label"):
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for n, label in enumerate(labels):
        values = np.random.default_rng(n).integers(0, 255, (6, 6)).astype(np.uint8)
        Image.fromarray(values).save(root / f"a{n}.png")
        rows.append(f"a{n}.png,p{n},{label}")
    (root / "manifest.csv").write_text("\n".join([header, *rows]))
    return root


@pytest.mark.parametrize(
    "labels",
    [
        ["0.0", "1.0", "2.0", "10.0"],
        ["-2", "-1", "0", "1"],
        ["0", "0.5", "1", "1.5", "12"],
        ["1", "2", "3", "5", "10"],
        ["-2.5", "-2", "+3", "100"],
    ],
)
def test_numbers_are_graded_by_value_in_any_order_of_the_table(tmp_path, labels):
    shuffled = [labels[k] for k in np.random.default_rng(0).permutation(len(labels))]
    found = list_entries("manifest", open_store(set_of(tmp_path, shuffled)), "grading")
    assert found.class_names == tuple(labels)
    assert [found.class_names[entry.label] for entry in found.entries] == shuffled


@pytest.mark.parametrize(
    "words", [["none", "mild", "severe"], ["1", "2", "3", "4A", "4B"], ["I", "II", "III"], ["grade 2", "grade 10"]]
)
def test_words_are_no_grades_until_the_study_states_their_order(tmp_path, words):
    store = open_store(set_of(tmp_path, words[::-1]))
    with raises_code(DataError, "data-rows" if "none" in words else "data-grades-order") as caught:
        list_entries("manifest", store, "grading")
    assert "`[data] classes`" in str(caught.value)
    found = list_entries("manifest", store, "grading", ReaderOptions(classes=Classes(tuple(words))))
    assert found.class_names == tuple(words)
    assert [entry.label for entry in found.entries] == list(range(len(words)))[::-1]
    looked = list_entries("manifest", store, "grading", ReaderOptions(looking=True))
    assert "data-grades-order" in {error.code for error in looked.refusals}


def test_words_are_classes_where_no_grades_are_asked_for():
    assert unordered(("mild", "severe"), Target.CLASSES) is None
    assert unordered(("0", "1"), Target.GRADES) is None


def test_the_order_of_names_is_that_of_values_then_of_the_alphabet():
    names = ["b", "10", "-1", "a", "2.50", "2", "1e3", "²"]
    assert sorted(names, key=numbers_first) == ["-1", "2", "2.50", "10", "1e3", "a", "b", "²"]


def test_what_holds_no_label():
    words = ["", "NaN", "n/a", " None ", "-1", "0", "x"]
    assert unlabelled(words, []) == {"", "NaN", "n/a", "None", "-1"}
    assert unlabelled(words, ["None", "-1"]) == {"", "NaN", "n/a"}
    assert unlabelled(["-1", "-2", "0"], []) == set(), "a scale"
    assert unlabelled(["-1", "-9", "0"], []) == {"-1"}, "two codes"


def test_names_that_look_alike_are_found_and_counted(tmp_path):
    root = set_of(tmp_path / "data", ["Normal", "normal", "1", "1.0", "NORMAL", "x"])
    images = load_images("manifest", root, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    assert images.findings.classes_alike == (("1", "1.0"), ("NORMAL", "Normal", "normal"))
    assert images.findings.summary()["classes_alike"] == 2
    assert "NORMAL = Normal = normal" in " ".join(list_entries("manifest", open_store(root), None).noticed())


def test_a_class_without_a_picture_is_named_with_the_cause_and_keeps_its_number(tmp_path):
    root = set_of(tmp_path / "data", ["0", "1", "2", "1"])
    for name in ("a1.png", "a3.png"):
        (root / name).write_bytes(b"no picture")

    def load(**options):
        return load_images(
            "manifest", root, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)], task="grading",
            skip_unreadable=True, options=ReaderOptions(**options),
        )  # fmt: skip

    with raises_code(DataError, "data-empty-class") as caught:
        load()
    assert "none of: 1 (cannot be read: a picture must be one of" in str(caught.value)
    stated = load(classes=Classes(("0", "1", "2")))
    assert [patient.labels for patient in stated.patients] == [(0,), (2,)]
    [note] = stated.findings.notes
    assert note.startswith("no picture is of the study's class 1 (cannot be read")
    assert "a1.png" not in note
    looked = {notice.code: notice for notice in inspect(load(looking=True)).notices}
    assert "a1.png, a3.png" in looked["empty_class"].what
    assert "small_class_1" not in looked


def test_a_patient_at_two_sites_is_asked_about(tmp_path):
    root = set_of(tmp_path / "data", ["x,north", "y,south", "x,north"], "image,patient,label,site")
    table = (root / "manifest.csv").read_text().replace(",p1,", ",p0,")
    (root / "manifest.csv").write_text(table)
    images = load_images("manifest", root, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    assert images.findings.two_sites == ("p0",)
    assert {notice.code: notice for notice in inspect(images).notices}["two_sites"].names == ("p0",)
    (root / "manifest.csv").write_text(table.replace("south", "north"))
    images = load_images("manifest", root, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    assert images.findings.two_sites == ()


AGES = [str(20 + n) for n in range(41)]


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (AGES, "data-many-classes"),
        ([f"patient{n:05}" for n in range(48)], "data-many-classes"),
        ([f"{n * 0.37:.2f}" for n in range(30)] * 5, "data-many-classes"),
        ([chr(97 + n) * 3 for n in range(25)] * 4, "data-many-classes"),
        (["Mass", "Effusion|Mass", "No Finding"] * 3, "data-multi-label"),
        (["mass", "nodule", "mass; nodule"], "data-multi-label"),
        (["['normal']", "['fibrosis', 'chronic changes']"], "data-multi-label"),
        ([chr(97 + n) * 3 for n in range(25)] * 5, None),
        (AGES[:20], None),
        (["benign", "malignant", "cyst, benign", "1+", "2+", "R&D"], None),
    ],
)
def test_names_that_are_hardly_classes_are_refused_until_the_study_names_them(tmp_path, labels, code):
    """Patients, ages and several labels in one cell: the first would leave in a model's list of classes."""
    store = open_store(set_of(tmp_path, [f'"{label}"' for label in labels]))
    if code is None:
        assert len(list_entries("manifest", store, None).class_names) == len(set(labels))
        return
    with raises_code(DataError, code):
        list_entries("manifest", store, None)
    looked = list_entries("manifest", store, None, ReaderOptions(looking=True))
    assert [error.code for error in looked.refusals] == [code]
    named = ReaderOptions(classes=Classes(tuple(dict.fromkeys(labels))))
    assert len(list_entries("manifest", store, None, named).class_names) == len(set(labels))
