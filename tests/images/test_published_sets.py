"""Public sets as people have them on disk: numbered parts, masks in folders of their own, tables of any name."""

import zipfile

import pytest
from tests.errors import raises_code
from tests.images.test_field_sets import listed, picture

from wardround.errors import DataError
from wardround.images.all_pictures import unread_tables
from wardround.images.entries import Entry
from wardround.images.layouts.guess import guess_layout
from wardround.images.listing import ByPattern, Classes, Listing, ReaderOptions
from wardround.images.load import look_at_entries, open_layout
from wardround.images.naming import proposed_patterns, with_persons
from wardround.images.store import Store, open_store


@pytest.mark.parametrize(
    "folders",
    [
        ("images_001/images", "images_002/images"),
        ("HAM_part_1", "HAM_part_2", "HAM10000_segmentations"),
        ("fold_0/ill", "fold_1/ill"),
        ("part1", "part2", "fold1"),
        ("dataset1", "dataset2"),
        ("trainBatch1", "trainBatch2", "other"),
    ],
)
def test_numbered_parts_of_one_set_are_no_classes(tmp_path, folders):
    for folder in folders:
        picture(tmp_path, f"{folder}/{folder[:3]}{folder[-1]}.png")
    with raises_code(DataError, "data-numbered-parts"):
        listed(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ("grade_1", "grade_2", "normal"),
        ("1", "2", "3"),
        ("part_A", "part_B"),
        ("batch1", "control"),
        ("disc 1", "disc 2"),
        ("onset1", "onset2"),
        ("early onset 1", "early onset 2"),
        ("volume1", "volume2"),
        ("scaffold1", "scaffold2"),
        ("unfold1", "unfold2"),
        ("counterpart1", "counterpart2"),
    ],
)
def test_numbered_classes_are_classes(tmp_path, folders):
    for folder in folders:
        picture(tmp_path, f"{folder}/{folder}.png")
    assert listed(tmp_path).class_names == folders


def test_numbered_parts_that_the_study_names_are_classes(tmp_path):
    for name in ("set1/a", "set2/b", "control/c"):
        picture(tmp_path, f"{name}.png")
    assert len(listed(tmp_path, classes=Classes(("set1", "set2", "control"), {})).entries) == 3


@pytest.mark.parametrize(
    "masks",
    [
        *("ManualMask", "ManualMask/leftMask", "lung_masks", "Training_GroundTruth", "benign GT", "CXR_seg"),
        *("CXR labels", "HAM10000_segmentations_lesion_tschandl", "masks_png", "lungMasks2"),
    ],
)
def test_folders_of_masks_by_the_end_of_their_name_are_no_class(tmp_path, masks):
    for folder in ("CXR_png", masks):
        picture(tmp_path, f"{folder}/MCUCXR_0001_0.png")
    with raises_code(DataError, "data-masks-beside-images"):
        listed(tmp_path)


def test_masks_may_be_called_as_their_pictures_and_a_word_for_masks(tmp_path):
    for name in ("Training_Input/ISIC_1", "Training_GroundTruth/ISIC_1_segmentation"):
        picture(tmp_path, f"{name}.png")
    with raises_code(DataError, "data-masks-beside-images"):
        listed(tmp_path)


def test_the_refusal_of_masks_names_all_their_folders_and_those_of_images(tmp_path):
    for folder in ("COVID", "COVID_masks", "Normal", "Normal_masks"):
        picture(tmp_path, f"all/{folder}/1.png")
        picture(tmp_path, f"deep/ill/p{ord(folder[0])}/{folder}/1.png")
        picture(tmp_path, f"else/{'Manual/' if 'mask' in folder else ''}{folder}/{folder[0]}.png")
    with raises_code(DataError, "data-masks-beside-images") as caught:
        listed(tmp_path / "all")
    assert "images (COVID, Normal) beside folders of masks (COVID_masks, Normal_masks)" in str(caught.value)
    with raises_code(DataError, "data-masks-beside-images") as caught:
        listed(tmp_path / "deep")
    assert "images (ill) beside folders of masks (COVID_masks, Normal_masks)" in str(caught.value)
    with raises_code(DataError, "data-masks-beside-images") as caught:
        listed(tmp_path / "else")
    assert "images (COVID, Normal) beside folders of masks (COVID_masks, Normal_masks)" in str(caught.value)


def test_classes_whose_names_end_in_mask_are_classes(tmp_path):
    for name in ("with_mask/1", "without_mask/1", "plain/2"):
        picture(tmp_path, f"{name}.png")
    assert listed(tmp_path).class_names == ("plain", "with_mask", "without_mask")


@pytest.mark.parametrize(
    "folders",
    [
        ("mask", "nomask"),
        ("nasal cannula", "oxygen mask"),
        ("annotation", "healthy"),
        ("normal", "segmentation"),
        ("Bare", "FaceMask"),
    ],
)
@pytest.mark.parametrize("layout", ["folder", "manifest"])
def test_a_class_called_mask_is_one_where_the_study_names_it(tmp_path, folders, layout):
    for folder in folders:
        picture(tmp_path, f"{folder}/1.png")
    if layout == "folder":
        with raises_code(DataError, "data-masks-beside-images") as caught:
            listed(tmp_path)
        assert "name them in `[data] classes`" in str(caught.value)
        assert listed(tmp_path, classes=Classes(folders, {})).class_names == folders
    else:  # refused for the lack of a table: all pictures are looked at
        with open_layout(layout, tmp_path) as store:
            options = ReaderOptions(classes=Classes(folders, {}), looking=True)
            assert len(look_at_entries(layout, store, None, options).entries) == 2


def test_a_patient_called_as_masks_are_is_one_where_numbers_begin_anew(tmp_path):
    for name in ("benign/patient_mask", "malignant/q", *(f"benign/p{number}" for number in range(8))):
        picture(tmp_path, f"{name}/1.png")
    assert len(listed(tmp_path).entries) == 10


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
    assert table.startswith("Data_Entry.csv names the pictures")
    assert "readings.xls is a workbook" in workbook


def tables_noted(root, pictures, **tables):
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, rows in tables.items():
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return unread_tables(open_store(root), pictures)


def test_notes_of_tables_have_no_name_of_a_person(tmp_path):
    people = [f"ill/{name}/{name}.png" for name in ("Doe_Jane", "Smith_John", "Roe_Ann")]
    (tmp_path / "ill" / "Doe_Jane").mkdir(parents=True)
    (tmp_path / "ill" / "Doe_Jane" / "Doe_Jane.xls").touch()
    (tmp_path / "ill" / "Doe_Jane" / "Doe_Jane.csv").write_text("a\nDoe_Jane.png\n")
    notes = tables_noted(tmp_path, people, headless=[name.rpartition("/")[2] for name in people])
    assert [note.split(" ", 1)[0] for note in notes] == ["headless.csv", "a", "a"]
    assert "_J" not in " ".join(notes)


def test_a_column_of_ages_names_no_pictures_called_by_numbers(tmp_path):
    numbers = [f"ill/{number}.png" for number in range(100)]
    ages = ["age", *(str(30 + 7 * number % 20) for number in range(40))]
    assert tables_noted(tmp_path, numbers, ages=ages) == ()
    assert tables_noted(tmp_path, numbers, ages=[f"{age}.0" for age in ages]) == ()
    assert len(tables_noted(tmp_path, numbers, ages=ages, ids=["id", "3", "1", "2"])) == 1


def test_tables_may_name_a_picture_twice_and_volumes_without_their_endings(tmp_path):
    names = ["ill/a.nii.gz", "ill/b.nii.gz"]
    assert len(tables_noted(tmp_path, names, boxes=["id", "a", "a", "b"], whole=["id", "a.nii.gz"])) == 2


def test_few_tables_are_opened(tmp_path, monkeypatch):
    opened: list[str] = []
    head = Store.head

    def noted(store, name, num_bytes):
        opened.append(name)
        return head(store, name, num_bytes)

    monkeypatch.setattr(Store, "head", noted)
    tables = {f"named{number:02}": ["id", "a"] for number in range(30)}
    assert len(tables_noted(tmp_path, ["ill/a.png"], **tables)) == len(opened) == 5
    assert tables_noted(tmp_path, ["ill/b.png"], **tables) == ()
    assert len(opened) == 5 + 20


def test_a_train_csv_without_train_images_is_not_taken_for_aptos(tmp_path):
    picture(tmp_path, "train/a.png")
    (tmp_path / "train.csv").write_text("image_id,class_name\na,Mass\n")
    assert guess_layout(open_store(tmp_path)) == "folder"


@pytest.mark.parametrize(
    "files",
    [
        ("patient00001/study1/a.png", "patient00002/study1/b.png", "patient00002/study2/c.png"),
        ("train/sub-01/a.png", "train/sub-02/b.png", "test/sub-03/c.png"),
        ("Case 1/a.png", "Case 2/b.png", "normal/c.png"),
        ("P7/a.png", "P12/b.png"),
        ("pt7/a.png", "pt12/b.png"),
        ("PT_7/a.png", "PT_12/b.png"),
        ("study1/a.png", "study2/b.png"),
    ],
)
def test_folders_of_patients_are_no_classes(tmp_path, files):
    """A study would be of patients called `study1`, and the patients' ids would leave as names of classes."""
    for name in files:
        picture(tmp_path, name)
    with raises_code(DataError, "data-numbered-parts"):
        listed(tmp_path)


@pytest.mark.parametrize(
    "folders", [("pT1", "pT2", "pT3"), ("T1", "T2"), ("CIN1", "CIN2"), ("grade_1", "grade_2")]
)
def test_stages_and_grades_are_classes(tmp_path, folders):
    """`pT` is the stage of a tumour by the pathologist, and no abbreviation of a patient."""
    for name in folders:
        picture(tmp_path, f"{name}/a.png")
    assert listed(tmp_path).class_names == folders


@pytest.mark.parametrize(
    ("folder", "around"),
    [("set", "set"), ("set/set", "set/set"), ("set/Training", "set"), ("breast/a/b", "breast/a/b")],
)
def test_folders_around_the_classes_are_named(tmp_path, folder, around):
    for name in ("benign/a.png", "malignant/b.png", "grade 2/c.png"):
        picture(tmp_path, f"{folder}/{name}")
    with raises_code(DataError, "data-parts-inside") as caught:
        listed(tmp_path)
    assert f"in the one folder {around}. " in str(caught.value)
    assert len(listed(tmp_path / around).class_names) == 3
    (tmp_path / "loose.png").write_bytes((tmp_path / folder / "benign/a.png").read_bytes())
    with open_layout("folder", tmp_path) as store:
        assert len(look_at_entries("folder", store, None, ReaderOptions(looking=True)).class_names) == 3


def test_a_folder_around_the_classes_of_an_archive_is_unpacked(tmp_path):
    picture(tmp_path, "a/b.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("set/ill/a.png", "set/well/b.png"):
            archive.write(tmp_path / "a/b.png", name)
    with raises_code(DataError, "data-parts-inside") as caught:
        listed(tmp_path / "set.zip")
    assert "Unpack the archive" in str(caught.value)


def test_one_folder_of_patients_is_a_class(tmp_path):
    for name in ("p1", "p2", "0031"):
        picture(tmp_path, f"ill/{name}/a.png")
    with raises_code(DataError, "data-one-class"):
        listed(tmp_path)
    picture(tmp_path, "ill/smith/a.png")
    picture(tmp_path, "ill/jones/a.png")
    assert len(listed(tmp_path, classes=Classes(("ill", "well"), {})).entries) == 5


@pytest.mark.parametrize(
    ("folders", "count", "are_kinds"),
    [
        (("colon/aca", "colon/normal", "lung/aca2", "lung/scc"), 10, True),
        (("benign/adenosis", "malignant/carcinoma"), 10, True),
        (("benign/smith", "benign/jones", "malignant/lee"), 9, False),
        (("benign/a1", "benign/lee", "malignant/b2"), 20, False),
    ],
)
def test_kinds_of_pictures_below_a_class_are_no_patients(tmp_path, folders, count, are_kinds):
    """Subtypes of a tumour with all their pictures would be two patients, and a guarantee for one patient untrue."""
    for folder in folders:
        for n in range(count):
            picture(tmp_path, f"{folder}/{n}.png")
    if not are_kinds:
        assert len({entry.patient for entry in listed(tmp_path).entries}) == len(folders)
        return
    with raises_code(DataError, "data-patient-in-every-class"):
        listed(tmp_path)
    assert len(listed(tmp_path, names=ByPattern("^[^/]+/([^/]+)/")).entries) == count * len(folders)


@pytest.mark.parametrize(
    ("files", "examples"),
    [
        (["x/person1_bacteria_1.jpeg", "x/person1_bacteria_2.jpeg", "y/person12_virus_1.jpeg"], {2: "person12"}),
        (["x/p0001-1.png", "x/p0001-2.png", "y/p0002-1.png"], {2: "p0001"}),
        (["x/IM-0031-0001.jpeg", "x/IM-0031-0002.jpeg", "y/IM-0033-0001.jpeg"], {2: "IM-0031"}),
        (["10_left.png", "10_right.png", "13_left.png"], {2: "10"}),
        (["x/CNV-16-1.png", "x/CNV-16-2.png", "y/DME-16-1.png", "y/DME-17-1.png"], {2: "16", 3: "CNV-16"}),
        (
            [f"x/SOB_{kind}_A-14-{slide}AB-100-00{n}.png" for kind in "BM" for slide in (225, 231) for n in (1, 2)],
            {2: "SOB_B_A-14", 4: "SOB_B_A-14-225AB"},
        ),
        ([f"ADNI_00{site}_S_{who}_MR_S{n}.nii.gz" for site, who in ((1, 12), (1, 13), (2, 14)) for n in "12"],
         {2: "ADNI_001", 3: "ADNI_001_S_12"}),
        (["a.png", "b.png"], {}),
        (["x/amd_test_1000.png", "x/amd_test_1001.png"], {}),
        (["1_a.png", "2_a.png"], {}),
        (["1_a.png", "1_b.png"], {}),
        (["0ac1d.png", "0ad2e.png", "12ab9.png"], {}),
        (["0ac1d.npy", "0ac1d-2.npy", "12ab9.npy"], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_patterns_are_proposed_where_names_look_like_ids(files, examples):
    """Each with an id to judge by; none of hashes, whose first letters would join strangers."""
    found = proposed_patterns(files)
    assert {one.patients: one.example for one in found} == examples
    for one in found:
        made = Listing(tuple(Entry(file, 0, None) for file in files), ("a", "b"))
        named = with_persons(made, ByPattern(one.pattern), None)
        assert len({entry.patient for entry in named.entries}) == one.patients
