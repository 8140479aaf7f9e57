"""Every cause for which a series or a file is left out, where a person looks first."""

import numpy as np
import pytest
from tests.cases import family
from tests.errors import raises_code

from wardround.errors import DataError
from wardround.images.entries import Task
from wardround.images.findings import by_cause
from wardround.images.listing import Classes, ReaderOptions
from wardround.images.load import load_images
from wardround.images.quality.inspection import inspect
from wardround.images.quality.lines import lines
from wardround.images.rows.recipe import VolumeRecipe

pydicom = pytest.importorskip("pydicom")


def gap(dicom, folder):
    sorted(folder.iterdir())[2].unlink()


def twice(dicom, folder):
    first, second = sorted(folder.iterdir())[:2]
    dicom.edit(second, ImagePositionPatient=pydicom.dcmread(first).ImagePositionPatient)


def scout(dicom, folder):
    dicom.edit(sorted(folder.iterdir())[0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


def no_spacing(dicom, folder):
    for path in folder.iterdir():
        dicom.edit(path, PixelSpacing=None)


def nobody(dicom, folder):
    for path in folder.iterdir():
        dicom.edit(path, PatientID="")


def captured(dicom, folder):
    for path in folder.iterdir():
        dicom.edit(path, ConversionType="WSD")


def cut_off(dicom, folder):
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:200])


CAUSES = {
    gap: "series left out: a slice missing",
    twice: "series left out: two slices or more at one position",
    scout: "series left out: slices of different sizes, spacings or orientations",
    no_spacing: "series left out: slices without position, orientation or spacing",
    nobody: "files without a PatientID",
    captured: "images refused: secondary captures",
    cut_off: "DICOM files without pictures",
}


@pytest.fixture
def load(tmp_path):
    def run(**options):
        task = options.pop("task", None)
        return load_images(
            "dicom", tmp_path / "data", cache_dir=tmp_path / "cache", recipes=[VolumeRecipe((8, 8, 8))], task=task,
            options=ReaderOptions(**options),
        )  # fmt: skip

    return run


@pytest.mark.parametrize("spoil", family(CAUSES, keep=[gap, nobody, cut_off]), ids=lambda spoil: spoil.__name__)
def test_a_class_that_lost_its_only_series_is_refused_with_the_cause(dicom, tmp_path, load, spoil):
    root = tmp_path / "data"
    for number in range(2):
        dicom.volume(root, f"s{number}", f"patient {number}", seed=number)
    dicom.labels(root, "patient_id,label", "patient 0,x", "patient 1,y")
    assert len(load().patients) == 2
    spoil(dicom, root / "s1")
    with raises_code(DataError, "data-empty-class") as caught:
        load()
    assert "got none of: y" in str(caught.value)
    assert CAUSES[spoil] in str(caught.value)
    assert "patient 1" not in str(caught.value)
    assert any(f"file {number} of 1" in str(caught.value) for number in range(1, 14)), (
        "where the hospital finds it"
    )
    looked = load(looking=True)
    said = lines(inspect(looked), looked)
    assert CAUSES[spoil] in said[0]
    if spoil is captured:  # which are shown, for somebody has to look at them
        assert any(note.startswith("shown here, and refused until") for note in looked.findings.notes)
    else:
        assert looked.findings.empty_classes[0].startswith("y")


def test_a_grade_that_lost_its_series_keeps_its_number(dicom, tmp_path, load):
    root = tmp_path / "data"
    for number in range(4):
        dicom.volume(root, f"s{number}", f"patient {number}", seed=number)
    dicom.labels(
        root, "patient_id,label", "patient 0,none", "patient 1,mild", "patient 2,severe", "patient 3,severe"
    )
    gap(dicom, root / "s1")
    with raises_code(DataError, "data-rows") as caught:
        load(task="grading")
    assert "line 2 has no label (none)" in str(caught.value)
    images = load(task="grading", classes=Classes(("none", "mild", "severe")))
    assert sorted(patient.label for patient in images.patients) == [0, 2, 2]
    [note] = [note for note in images.findings.notes if "mild" in note]
    assert "no picture is of the study's class mild (series left out: a slice missing" in note


def test_nothing_of_use_is_refused_with_the_causes(dicom, tmp_path, load):
    root = tmp_path / "data"
    for number in range(3):
        dicom.volume(root, f"s{number}", f"patient {number}", seed=number)
    dicom.labels(root, "patient_id,label", "patient 0,x", "patient 1,y", "patient 2,y")
    for number, spoil in enumerate((gap, twice, gap)):
        spoil(dicom, root / f"s{number}")
    with raises_code(DataError, "data-nothing-left") as caught:
        load(looking=True)
    assert "series left out: a slice missing, or slices at uneven distances (2" in str(caught.value)
    assert "series left out: two slices or more at one position (1" in str(caught.value)


def test_an_export_of_several_modalities_is_split_by_a_key(dicom, tmp_path):
    for number in range(2):
        dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
        dicom.picture(tmp_path, f"x{number}", f"patient {number}", level=number)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    with raises_code(DataError, "data-modalities") as caught:
        dicom.read(tmp_path)
    assert "`[data] modalities`" in str(caught.value)
    assert "`--modality CT` of `wardround data check`" in str(caught.value)
    for modality, are_volumes, others in (("MR", True, 2), ("DX", False, 12)):
        found = dicom.read(tmp_path, modalities=(modality,))
        assert (found.volumes, len(found.entries)) == (are_volumes, 2)
        assert {cause: len(names) for cause, names in by_cause(found.left_out).items()} == {
            f"files of another modality than {modality}": others
        }
    with raises_code(DataError, "data-nothing-left"):
        dicom.read(tmp_path, modalities=("CT", "CR"))
    with raises_code(DataError, "data-modality"):
        dicom.read(tmp_path, modalities=("MR", "SMITH"))


def test_volumes_of_two_modalities_are_a_note_and_a_key_leaves_one(dicom, tmp_path):
    for number in range(4):
        dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number, modality=("MR", "CT")[number // 2])
    dicom.labels(tmp_path, "label,patient_id", *(f"{'xy'[n % 2]},patient {n}" for n in range(4)))
    [note] = [note for note in dicom.read(tmp_path).notes if "several modalities" in note]
    assert "CT 12, MR 12" in note
    assert len(dicom.read(tmp_path, modalities=("CT",)).entries) == 2


def test_no_other_text_of_a_modality_is_quoted(dicom, tmp_path):
    dicom.volume(tmp_path, "s", "ann")
    dicom.picture(tmp_path, "x", "bob", Modality="SMITH")
    dicom.labels(tmp_path, "label,patient_id", "ill,ann", "well,bob")
    with raises_code(DataError, "data-modalities") as caught:
        dicom.read(tmp_path)
    assert "SMITH" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_table_of_labels_is_read_as_any_other(dicom, tmp_path, encoding):
    for number in range(2):
        dicom.picture(tmp_path, f"x{number}", f"p{number}", level=number)
    table = 'Patient ID;Label;Site\r\np0;"x;é";north\r\np1;y;\r\n;;\r\n'
    (tmp_path / "labels.csv").write_bytes(table.encode(encoding))
    found = dicom.read(tmp_path, Task.CLASSIFICATION)
    assert found.class_names == ("x;é", "y")
    (tmp_path / "labels.csv").write_bytes((table + "p1;y;south;1\r\n").encode(encoding))
    with raises_code(DataError, "data-row-length") as caught:
        dicom.read(tmp_path, Task.CLASSIFICATION)
    assert "line 5" in str(caught.value)
    assert np.array_equal([entry.site for entry in found.entries].count("north"), 1)
