"""Files without a PatientID, as public exports are: left out until the site names their persons by the files' names."""

import pytest
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images.listing import ByTable, Classes, OnePerPicture, ReaderOptions
from wardround.images.load import list_entries
from wardround.images.store import open_store
from wardround.types import Persons

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def nameless(dicom, tmp_path):
    """Four pictures in two folders without a PatientID, and their labels; the folder."""
    root = tmp_path / "data"
    rows = ["label,sop_uid"]
    for number in range(4):
        path = dicom.picture(root, f"{'ab'[number % 2]}/{number}.dicom", "", level=number)
        rows.append(f"{('ill', 'well')[number // 2]},{pydicom.dcmread(path).SOPInstanceUID}")
    dicom.labels(root, *rows)
    return root


def listed(root, **options):
    return list_entries("dicom", open_store(root), None, ReaderOptions(key_file=root.parent / "key", **options))


def test_nameless_files_are_left_out_with_the_way_to_name_them(nameless):
    with raises_code(DataError, "data-nothing-left") as caught:
        listed(nameless)
    assert "files without a PatientID, which a patients.csv can name (4" in str(caught.value)


def test_a_site_may_state_one_picture_for_each_person(nameless):
    found = listed(nameless, names=OnePerPicture())
    assert found.persons is Persons.ONE_PER_PICTURE
    assert len({entry.patient for entry in found.entries}) == 4


@pytest.mark.parametrize(
    "form", ["{folder}/{number}.dicom", "{number}.dicom", "{number}", "{folder}\\{number}.dicom"]
)
def test_a_table_names_persons_by_the_files_own_names(nameless, tmp_path, form):
    rows = [form.format(folder="ab"[n % 2], number=n) + f",P{n // 3}" for n in range(4)]
    (nameless / "patients.csv").write_text("\n".join(["picture,patient", *rows]))
    found = listed(nameless)
    assert found.persons is Persons.NAMED
    assert sorted(entry.patient for entry in found.entries) == ["P0", "P0", "P0", "P1"]
    (tmp_path / "fewer.csv").write_text("\n".join(["picture,patient", *rows[1:]]))
    with raises_code(DataError, "data-some-unnamed"):
        listed(nameless, names=ByTable(tmp_path / "fewer.csv"))


def test_a_table_joins_to_a_patient_of_the_headers_by_the_pseudonym(dicom, tmp_path):
    """A PatientID there would be another patient than the pictures with that PatientID: one person protected as two."""
    root, rows = tmp_path / "data", ["label,sop_uid"]
    for number, patient in enumerate(["", "A7", "A7", "B9"]):
        path = dicom.picture(root, f"{number}.dcm", patient, level=number)
        rows.append(f"{('ill', 'well')[number // 2]},{pydicom.dcmread(path).SOPInstanceUID}")
    dicom.labels(root, *rows)
    [pseudonym] = {entry.patient for entry in listed(root).entries if entry.label == 0}

    def named(*rows):
        (root / "patients.csv").write_text("\n".join(["picture,patient", *rows]))
        return [entry.patient for entry in listed(root).entries]

    for rows in (["0,A7"], ["0,A7 ", "1,A7"]):
        with raises_code(DataError, "data-rows") as caught:
            named(*rows)
        assert pseudonym in str(caught.value)
        assert "A7" not in str(caught.value)
    assert named(f"0,{pseudonym}").count(pseudonym) == 3
    assert named("0,A7", "1,A7", "2,A7").count("A7") == 3


def test_a_table_names_a_volume_by_any_of_its_slices(dicom, tmp_path):
    root, labels, rows = tmp_path / "data", ["label,series_uid"], ["picture,patient"]
    for number in range(3):
        paths, _ = dicom.volume(root, f"s{number}", "", seed=number)
        labels.append(f"{('ill', 'well')[number % 2]},{pydicom.dcmread(paths[0]).SeriesInstanceUID}")
        rows += [f"{path.relative_to(root)},P{number // 2}" for path in paths[: number + 1]]
    dicom.labels(root, *labels)
    (root / "patients.csv").write_text("\n".join(rows))
    assert sorted(entry.patient for entry in listed(root).entries) == ["P0", "P0", "P1"]
    (root / "patients.csv").write_text("\n".join([*rows, rows[-1].replace("P1", "P2").replace("P0", "P2")]))
    with raises_code(DataError, "data-rows"):
        listed(root)


def test_a_table_names_all_frames_of_a_file(dicom, tmp_path):
    root = tmp_path / "data"
    for number in range(2):
        pixels = bytes(3 * 6 * 7)
        dicom.picture(root, f"{number}.dcm", "q", level=number, NumberOfFrames=3, PixelData=pixels)
    dicom.labels(root, "label,patient_id", "ill,q", "well,r")
    (root / "patients.csv").write_text("picture,patient\n0,P0\n1.dcm,P1\n")
    found = listed(root, classes=Classes(("ill", "well"), {}))
    assert sorted(entry.patient for entry in found.entries) == ["P0"] * 3 + ["P1"] * 3


def test_frames_of_a_nameless_file_are_not_a_person_each(dicom, tmp_path):
    root, labels = tmp_path / "data", ["label,sop_uid"]
    for number in range(2):
        path = dicom.picture(root, f"{number}.dcm", "", level=number, NumberOfFrames=3, PixelData=bytes(3 * 6 * 7))
        labels.append(f"{('ill', 'well')[number]},{pydicom.dcmread(path).SOPInstanceUID}")
    dicom.labels(root, *labels)
    with raises_code(DataError, "data-one-per-picture"):
        listed(root, names=OnePerPicture())
