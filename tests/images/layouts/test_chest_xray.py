"""The published chest X-ray layout, with and without a table."""

import pytest
from PIL import Image

from wardround.errors import DataError
from wardround.images.entries import Task
from wardround.images.layouts.chest_xray import patient_of_name, read_chest_xray
from wardround.images.store import open_store

FILES = (
    "train/NORMAL/IM-0031-0001.jpeg",
    "train/NORMAL/NORMAL2-IM-0031-0001-0002.jpeg",
    "train/PNEUMONIA/person7_bacteria_21.jpeg",
    "test/PNEUMONIA/person7_virus_22.jpeg",
    "val/PNEUMONIA/person8_virus_1_2.jpeg",
)


def published(root, files=FILES):
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), 20 * number).save(root / file)
    return root


def with_table(root, files=FILES, header="file,patient_id"):
    rows = [f"{file},p{number}" for number, file in enumerate(files)]
    (root / "metadata.csv").write_text("\n".join([header, *rows]))
    return root


def test_folders_give_label_and_part_and_names_give_the_patient(tmp_path):
    listing = read_chest_xray(open_store(published(tmp_path)), Task.BINARY)
    assert listing.class_names == ("normal", "pneumonia")
    found = {entry.file: (entry.label, entry.patient, entry.split) for entry in listing.entries}
    assert found == {
        FILES[0]: (0, "N0031", "train"),
        FILES[1]: (0, "N0031", "train"),
        FILES[2]: (1, "P0007", "train"),
        FILES[3]: (1, "P0007", "test"),
        FILES[4]: (1, "P0008", "val"),
    }


def test_the_subtype_is_read_off_the_name(tmp_path):
    listing = read_chest_xray(open_store(published(tmp_path)), Task.SUBTYPE)
    assert listing.class_names == ("normal", "bacterial", "viral")
    assert {entry.file: entry.label for entry in listing.entries} == dict(zip(FILES, (0, 0, 1, 2, 2), strict=True))


def test_a_table_goes_before_the_file_names(tmp_path):
    listing = read_chest_xray(open_store(with_table(published(tmp_path))), Task.BINARY)
    assert {entry.patient for entry in listing.entries} == {"p0", "p1", "p2", "p3", "p4"}


def test_a_picture_that_the_table_forgets_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"1 of 5 are not in it: val/PNEUMONIA/person8"):
        read_chest_xray(open_store(with_table(published(tmp_path), FILES[:-1])), Task.BINARY)


def test_names_without_a_patient_are_listed_together(tmp_path):
    root = published(tmp_path, (*FILES, "train/NORMAL/scan.jpeg", "test/NORMAL/other.png"))
    with pytest.raises(DataError, match=r"2 do not: train/NORMAL/scan\.jpeg, test/NORMAL/other\.png"):
        read_chest_xray(open_store(root), Task.BINARY)


def test_an_unnamed_subtype_matters_for_the_subtype_only(tmp_path):
    files = (*FILES, "train/PNEUMONIA/unknown.jpeg")
    root = with_table(published(tmp_path, files), files)
    assert len(read_chest_xray(open_store(root), Task.BINARY).entries) == 6
    with pytest.raises(DataError, match="1 do not"):
        read_chest_xray(open_store(root), Task.SUBTYPE)


def test_the_file_managers_leftovers_are_passed_over(tmp_path):
    root = published(tmp_path)
    (root / "train/NORMAL/._IM-0031-0001.jpeg").write_bytes(b"x")
    (root / "train/NORMAL/readme.txt").write_text("x")
    listing = read_chest_xray(open_store(root), Task.BINARY)
    assert len(listing.entries) == 5
    assert listing.notes == ("passed over: 1 file that is no picture",)


@pytest.mark.parametrize("name", ["person_bacteria_1.jpeg", "IM-x-1.jpeg", "scan.jpeg", "xperson1_virus_2.jpeg"])
def test_other_names_tell_no_patient(name):
    assert patient_of_name(name) is None
