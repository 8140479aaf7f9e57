"""Labels by the names of files, as challenges publish them: `image_id` is a file's name, and no header has it."""

import pytest
from tests.errors import raises_code

from wardround.errors import DataError

pytest.importorskip("pydicom")


@pytest.fixture
def export(dicom, tmp_path):
    for name, patient in (("train/0a1.dicom", "ann"), ("train/0b2.dicom", "bob"), ("test/1.2.3", "cas")):
        dicom.picture(tmp_path, name, patient)
    return tmp_path


@pytest.mark.parametrize(
    "written", [("0a1", "0b2", "1.2.3"), ("train/0a1.dicom", "train\\0b2.dicom", "test/1.2.3")]
)
def test_pictures_have_the_labels_of_their_files(dicom, export, written):
    rows = [f"{label},{name}" for label, name in zip(("ill", "well", "ill"), written, strict=True)]
    dicom.labels(export, "label,file", *rows, rows[0])
    listing = dicom.read(export)
    assert sorted(entry.label for entry in listing.entries) == [0, 0, 1]
    assert len({entry.patient for entry in listing.entries}) == 3


def test_a_slice_names_its_volume(dicom, tmp_path):
    for number, patient in enumerate(("ann", "bob")):
        dicom.volume(tmp_path, patient, patient, seed=number)
    files = [
        sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / who).iterdir())
        for who in ("ann", "bob")
    ]
    dicom.labels(tmp_path, "label,file", f"ill,{files[0][1]}", f"well,{files[1][0]}", f"well,{files[1][2]}")
    assert sorted(entry.label for entry in dicom.read(tmp_path).entries) == [0, 1]


def test_a_name_of_two_files_and_of_none_is_a_row_that_matches_nothing(dicom, export):
    dicom.picture(export, "other/0a1.dcm", "dora")
    dicom.labels(export, "label,file", "ill,0a1", "well,0b2", "ill,1.2.3", "ill,gone")
    listing = dicom.read(export)
    assert len(listing.entries) == 2
    assert any("match nothing" in one.cause for one in listing.left_out)
    dicom.labels(export, "label,file,patient_id", "ill,0a1,ann")
    with raises_code(DataError, "data-column-missing"):
        dicom.read(export)
