"""The persons of every layout, by every way to name them."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.errors import raises_code
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.layouts.guess import guess_layout
from wardround.images.layouts.phantom import PhantomOptions, list_phantom
from wardround.images.layouts.readers import LAYOUTS
from wardround.images.listing import ByPattern, ByTable, Classes, Listing, OnePerPicture, ReaderOptions
from wardround.images.load import list_entries, load_images, open_layout
from wardround.images.naming import TABLE, with_persons
from wardround.images.quality.inspection import inspect
from wardround.images.rows.recipe import PictureRecipe
from wardround.images.store import open_store
from wardround.types import Persons

COUNT = 6


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(shade).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)


def pictures(root, names):
    for shade, name in enumerate(names):
        picture(root / name, 20 * shade)
    return root


def folder(root):
    return pictures(root, [f"{('ill', 'well')[n % 2]}/scan{n // 2}_{n}.png" for n in range(COUNT)])


def chest_xray(root):
    return pictures(root, [f"train/PNEUMONIA/person{n}_virus_{n}.jpeg" for n in range(3)]) and pictures(
        root, [f"train/NORMAL/IM-{n:04d}-0001.jpeg" for n in range(3)]
    )


def aptos(root):
    pictures(root, [f"train_images/scan{n // 2}_{n}.png" for n in range(COUNT)])
    rows = "".join(f"scan{n // 2}_{n},{n % 5}\n" for n in range(COUNT))
    (root / "train.csv").write_text(f"id_code,diagnosis\n{rows}")
    return root


def decathlon(root):
    training = []
    for n in range(COUNT):
        for place in ("imagesTr", "labelsTr"):
            (root / place).mkdir(parents=True, exist_ok=True)
            values = np.full((4, 4, 4), n if place == "imagesTr" else n % 2, np.uint8)
            (root / place / f"scan{n // 2}_{n}.nii.gz").write_bytes(nifti_bytes(values, np.eye(4)))
        training.append({key: f"./{place}/scan{n // 2}_{n}.nii.gz" for key, place in _PLACES.items()})
    described = {"name": "x", "modality": {"0": "MR"}, "labels": {"0": "none", "1": "some"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


_PLACES = {"image": "imagesTr", "label": "labelsTr"}


def manifest(root):
    pictures(root, [f"scan{n // 2}_{n}.png" for n in range(COUNT)])
    rows = "".join(f"scan{n // 2}_{n}.png,q{n},{'xy'[n % 2]}\n" for n in range(COUNT))
    (root / "manifest.csv").write_text(f"image,patient,label\n{rows}")
    return root


def dicom(root):
    pytest.importorskip("pydicom")
    from tests.images.dicom.write import write_picture

    for n in range(COUNT):
        write_picture(np.full((1, 6, 7), n, np.uint8), root / f"{n}.dcm", patient_id=f"q{n}")
    (root / "labels.csv").write_text("patient_id,label\n" + "".join(f"q{n},{'xy'[n % 2]}\n" for n in range(COUNT)))
    return root


def nnunet(root):
    decathlon(root)
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "some": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def bids(root):
    for n in range(COUNT):
        path = root / f"sub-{n}/anat/sub-{n}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(nifti_bytes(np.full((4, 4, 4), n, np.uint8), np.eye(4)))
    rows = "".join(f"sub-{n}\t{'xy'[n % 2]}\n" for n in range(COUNT))
    (root / "participants.tsv").write_text(f"participant_id\tdiagnosis\n{rows}")
    return root


def medmnist(root):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)
    np.savez(root / "set.npz", train_images=images, train_labels=np.arange(COUNT)[:, None] % 2)
    return root


BUILDERS = {
    "folder": folder, "chest_xray": chest_xray, "aptos": aptos, "decathlon": decathlon, "manifest": manifest,
    "dicom": dicom, "phantom": None, "nnunet": nnunet, "bids": bids, "medmnist": medmnist,
}  # fmt: skip
BY_ITSELF = dict.fromkeys(("folder", "aptos", "decathlon", "nnunet", "medmnist"), Persons.UNNAMED)


@pytest.fixture(params=LAYOUTS)
def listed(request, tmp_path):
    """A layout of six pictures: from a way to name persons to its listing."""
    layout, key = request.param, tmp_path / "key"
    build = BUILDERS[layout]
    root = tmp_path / "data"
    if build is not None:
        root.mkdir()
        build(root)

    def listing(names=None, in_folder=None, called=TABLE) -> Listing:
        if build is None:
            return with_persons(list_phantom(PhantomOptions(patients=6, max_images=1)), names, None)
        if in_folder is not None:
            (root / called).write_bytes(in_folder.read_bytes())
        with open_layout(layout, root) as store:
            return list_entries(layout, store, None, ReaderOptions(key_file=key, names=names))

    listing.layout = layout  # type: ignore[attr-defined]  # for the tests below
    return listing


def people(listing):
    return [entry.patient for entry in listing.entries]


def test_a_layout_says_whether_it_names_persons(listed):
    found = listed()
    assert found.persons is BY_ITSELF.get(listed.layout, Persons.NAMED)
    assert len(set(people(found))) == len(found.entries) == COUNT
    if found.persons is Persons.UNNAMED:
        assert people(found) == [entry.file for entry in found.entries]


def test_a_table_anywhere_names_the_persons(listed, tmp_path):
    """Pairs of pictures become one patient, whatever the layout says of them."""
    files = [entry.file for entry in listed().entries]
    table = tmp_path / "elsewhere.csv"
    table.write_text("picture,patient\n" + "".join(f"{file}, P{n // 2}\u200b\n" for n, file in enumerate(files)))
    found = listed(ByTable(table))
    assert people(found) == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert found.persons is Persons.NAMED
    if listed.layout not in ("phantom", "medmnist"):  # which have no folder
        assert people(listed(in_folder=table, called="Patients.csv")) == people(found)
        assert people(listed(in_folder=table)) == people(found)


def test_a_pattern_names_the_persons(listed):
    """Of DICOM it is refused: their names are pseudonyms, and `0001` in all of them would be one patient."""
    if listed.layout == "dicom":
        with raises_code(DataError, "data-pattern"):
            listed(ByPattern(r"(\d+)"))
        return
    files = [entry.file for entry in listed().entries]
    found = listed(ByPattern(r"^(?:[^/]*/)*(.{0,99}?\d)"))
    assert found.persons is Persons.NAMED
    assert len(found.entries) == len(files)
    with raises_code(DataError, "data-pattern"):
        listed(ByPattern("(nothing like this)"))


def test_one_per_picture_makes_a_patient_of_each(listed):
    found = listed(OnePerPicture())
    assert found.persons is Persons.ONE_PER_PICTURE
    assert len(set(people(found))) == COUNT


def test_a_named_group_goes_before_the_first(tmp_path):
    folder(tmp_path)
    store = open_store(tmp_path)
    named = list_entries("folder", store, None, ReaderOptions(names=ByPattern(r"(s)can(?P<who>\d)_")))
    assert sorted(set(people(named))) == ["0", "1", "2"]


def test_a_pattern_with_a_slash_sees_the_whole_path(tmp_path):
    folder(tmp_path)
    store = open_store(tmp_path)
    found = list_entries("folder", store, None, ReaderOptions(names=ByPattern(r"^(\w+)/")))
    assert set(people(found)) == {"ill", "well"}


def test_one_per_picture_is_refused_where_a_patient_has_two():
    phantoms = list_phantom(PhantomOptions(patients=6, max_images=4))
    with raises_code(DataError, "data-one-per-picture"):
        with_persons(phantoms, OnePerPicture(), None)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ["a.png,", "b.png,nan", "c.png,-1", ",p"],
            "4 problems: line 2 has no patient, line 3 has no patient (nan), line 4 has no patient (-1)",
        ),
        (["ill/a.png,p", "ill/a.png,q"], "line 3: ill/a.png has another patient in line 2"),
        (["a.png,p"], "line 2: a.png is the name of 2 pictures; write the path"),
        (["ill/a.png,p,q"], "line 2 has 3 values for 2 columns"),
    ],
)
def test_a_table_that_does_not_hold_is_refused_with_its_lines(tmp_path, rows, said):
    pictures(tmp_path, ["ill/a.png", "ill/b.png", "well/a.png"])
    (tmp_path / TABLE).write_text("\n".join(["picture,patient", *rows]))
    with pytest.raises(DataError) as caught:
        list_entries("folder", open_store(tmp_path), None)
    assert said in str(caught.value)


def test_a_table_of_some_pictures_joins_persons_that_a_layout_names(tmp_path):
    """A table lists only the pictures to change; the others keep the patient of their layout."""
    pictures(tmp_path, ["ill/7/a.png", "ill/007/b.png", "well/9/c.png"])
    store = open_store(tmp_path)
    assert list_entries("folder", store, None).alike == (("007", "7"),)
    (tmp_path / TABLE).write_text("file,patient_id\nill/007/b.png,7\ngone.png,1\n")
    found = list_entries("folder", open_store(tmp_path), None)
    assert people(found) == ["7", "7", "9"]
    assert found.alike == ()
    assert found.notes[-1] == f"1 row of {TABLE} without a picture that is read"


def test_a_table_of_some_pictures_is_refused_where_the_others_are_unnamed(tmp_path):
    pictures(tmp_path, ["ill/a.png", "ill/b.png", "well/c.png"])
    (tmp_path / TABLE).write_text("picture,patient\na,p\nb,p\n")
    with raises_code(DataError, "data-some-unnamed"):
        list_entries("folder", open_store(tmp_path), None)


@pytest.mark.parametrize("word", ["unknown", "NaN", "none"])
def test_a_folder_for_nobody_is_no_patient(tmp_path, word):
    pictures(tmp_path, [f"ill/{word}/a.png", f"ill/{word}/b.png", "well/c.png"])
    found = list_entries("folder", open_store(tmp_path), None)
    assert (found.persons, len(set(people(found)))) == (Persons.UNNAMED, 3)


# ---- published parts, and names under every class (cases 02) -----------------------------------------------------


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Training", "Validation", "testing"), ("train", "val", "test")]
)
def test_published_parts_are_no_classes(tmp_path, parts):
    files = [
        f"{part}/{name}/{part}_{n}.png" for part in parts for name in ("AMD", "CNV", "NORMAL") for n in range(2)
    ]
    store = open_store(pictures(tmp_path, files))
    assert guess_layout(store) == "folder", "NORMAL alone makes no chest X-rays"
    found = list_entries("folder", store, None)
    assert found.class_names == ("AMD", "CNV", "NORMAL")
    assert {entry.split for entry in found.entries} <= {"train", "val", "test"}
    assert len({entry.split for entry in found.entries}) == len(parts)
    assert found.persons is Persons.UNNAMED


def test_patients_in_published_parts_are_patients(tmp_path):
    files = [
        f"{part}/{name}/p{part}{n}/a.png" for part in ("train", "test") for n in range(2) for name in ("x", "y")
    ]
    by_folder = ReaderOptions(names=ByPattern("^[^/]+/[^/]+/([^/]+)/"))
    found = list_entries("folder", open_store(pictures(tmp_path, files)), None, by_folder)
    assert (found.persons, len(set(people(found)))) == (Persons.NAMED, 4)


def test_parts_beside_classes_are_refused(tmp_path):
    store = open_store(pictures(tmp_path, ["train/ill/a.png", "test/ill/b.png", "ill/c.png", "well/d.png"]))
    with raises_code(DataError, "data-parts-beside-classes"):
        list_entries("folder", store, None)


@pytest.mark.parametrize("inner", ["{part}", "images", "{number}"])
def test_names_that_stand_under_every_class_are_no_patients(tmp_path, inner):
    """`<class>/train`, `<class>/images` and numbers that begin anew in each class are refused, with what to do."""
    files = [
        f"{name}/{inner.format(part=('train', 'test')[n % 2], number=n)}/{name}{n}.png"
        for name in ("ill", "well")
        for n in range(4)
    ]
    store = open_store(pictures(tmp_path, files))
    with raises_code(DataError, "data-patient-in-every-class") as caught:
        list_entries("folder", store, None)
    for pattern, count in (("^[^/]+/([^/]+)/", {4, 2, 1}), ("^([^/]+/[^/]+)/", {8, 4, 2})):
        assert f"{{pattern = '{pattern}'}}" in str(caught.value)
        found = list_entries("folder", store, None, ReaderOptions(names=ByPattern(pattern)))
        assert len(set(people(found))) in count


# ---- what is missing, and what looks alike (cases 08 and 09) --------------------------------------------------------


def table_of(root, header, *rows):
    pictures(root, [f"a{n}.png" for n in range(len(rows))])
    name = "manifest.csv" if header.startswith("image") else "metadata.csv"
    (root / name).write_text("\n".join([header, *(f"a{n}.png,{row}" for n, row in enumerate(rows))]))
    return open_store(root)


@pytest.mark.parametrize("header", ["image,patient,label", "file,patient_id,label"])
@pytest.mark.parametrize("word", ["", "nan", "NA", "None", "NULL", "n/a"])
@pytest.mark.parametrize("missing", ["patient", "label"])
def test_a_missing_value_is_no_class_and_no_patient(tmp_path, header, word, missing):
    rows = [f"{word},x" if missing == "patient" else f"p2,{word}", "p3,y", "p4,x"]
    store = table_of(tmp_path, header, *rows)
    layout = guess_layout(store)
    with raises_code(DataError, "data-rows") as caught:
        list_entries(layout, store, None)
    assert "1 problem: line 2 has no" in str(caught.value)
    found = list_entries(layout, store, None, ReaderOptions(leave_out=("nan",)))
    assert [entry.patient for entry in found.entries] == ["p3", "p4"]
    assert any(note.startswith("left out: 1 row of ") for note in found.notes)


def test_minus_one_is_no_patient_and_a_class_only_where_it_is_not_listed(tmp_path):
    store = table_of(tmp_path, "image,patient,label", "p0,0", "p1,1", "p2,-1")
    with raises_code(DataError, "data-rows"):
        list_entries("manifest", store, None)
    listed = ReaderOptions(classes=Classes(("-1", "0", "1")))
    assert list_entries("manifest", store, None, listed).class_names == ("-1", "0", "1")
    found = list_entries("manifest", store, None, ReaderOptions(leave_out=("-1",)))
    assert found.class_names == ("0", "1")
    store = table_of(tmp_path, "image,patient,label", "-1,0", "-1,1", "p2,1")
    with raises_code(DataError, "data-rows"):
        list_entries("manifest", store, None)


def test_spellings_of_one_class_are_folded_or_found(tmp_path):
    rows = ["p0,Normal", "p1,normal", "p2,Normal\u200b", "p3,1", "p4,1.0"]
    table_of(tmp_path, "image,patient,label", *rows)
    images = load_images("manifest", tmp_path, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    assert images.class_names == ("1", "1.0", "Normal", "normal")
    found = {notice.code: notice for notice in inspect(images).notices}
    assert found["classes_alike"].names == ("1 = 1.0", "Normal = normal")


def test_spellings_of_one_person_are_folded_or_found(tmp_path):
    rows = ["7,x", "7.0,y", "007,x", " 8 ,y", "8\ufeff,x", "Jose\u0301,x", "Jos\u00e9,y"]
    table_of(tmp_path, "image,patient,label", *rows)
    images = load_images("manifest", tmp_path, cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    assert [patient.id for patient in images.patients] == ["007", "7", "7.0", "8", "Jos\u00e9"]
    assert images.findings.summary()["like_another"] == 1
    found = {notice.code: notice for notice in inspect(images).notices}
    assert found["like_another"].names == ("007 = 7 = 7.0",)


def test_ids_in_headers_are_folded_and_look_alikes_found(tmp_path):
    dicom(tmp_path)
    from tests.images.dicom.write import write_picture

    for name, who in (("a", "q1 "), ("b", "Q1"), ("c", "unknown"), ("d", "unknown")):
        write_picture(np.full((1, 6, 7), 50, np.uint8), tmp_path / f"{name}.dcm", patient_id=who)
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text() + "Q1,x\n")
    found = list_entries("dicom", open_store(tmp_path), None, ReaderOptions(key_file=tmp_path.parent / "key"))
    assert len(set(people(found))) == COUNT + 1
    assert len(found.entries) == COUNT + 2
    [group] = found.alike
    assert len(group) == 2
    assert all(name.startswith("p-") for name in group), "pseudonyms"
    assert any("files without a PatientID" in note and "(2)" in note for note in found.notes)


def test_the_proposal_is_in_the_inspection(tmp_path):
    folder(tmp_path / "data")
    images = load_images("folder", tmp_path / "data", cache_dir=tmp_path / "cache", recipes=[PictureRecipe(16, 1)])
    [notice] = [notice for notice in inspect(images).notices if notice.code == "unnamed"]
    assert r"as `[site] patients`, {pattern = '^(\D*\d[^\W_]*)[\W_]'} gives 3, such as " in notice.advice
