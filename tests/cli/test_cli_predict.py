"""`wardround predict`: tables, masks and DICOM objects, sentences and exit codes."""

import csv
import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.images.dicom.write import write_dicom, write_picture
from tests.inference.saved import drawn, picture_input, save, volume_input

from wardround.cli.predict import predict


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input())


@pytest.fixture
def picture(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_a_finished_run_answers(wardround, finished, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "one.png")
    done = wardround("predict", str(finished), str(tmp_path / "one.png"), "--json")
    (answer,) = json.loads(done.out)["predictions"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert done.code == 0


def test_the_table_has_a_row_a_picture_and_the_exit_code_says_what_failed(wardround, folder, picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    table = tmp_path / "out.csv"
    done = wardround("predict", str(folder), str(picture), str(tmp_path / "bad.png"), "--csv", str(table))
    assert done.code == 3
    assert "2 rows written" in done.err
    assert "1 of 2" in done.err
    assert "bad.png" not in done.err  # names may hold names of people
    good, bad = csv.DictReader(table.read_text().splitlines())
    assert good["class"] in ("clear", "lesion")
    assert float(good["probability: clear"]) + float(good["probability: lesion"]) == pytest.approx(1)
    assert good["calibration"] == "uncalibrated"
    assert (bad["class"], bad["error"] != "") == ("", True)
    assert table.stat().st_mode & 0o077 == 0


def test_lines_state_the_rule_and_the_guarantee(wardround, folder, picture):
    done = wardround("predict", str(folder), str(picture))
    assert "uncertain: the two most probable classes differ by less than 0.2" in done.out
    assert "epsilon = 8.00" in done.out


@pytest.mark.parametrize(
    "arguments", [["{run}", "{empty}"], ["{run}", "{text}"], ["{empty}", "{picture}"],
                  ["{run}", "{picture}", "--masks", "{empty}"], ["{run}", "{picture}", "--csv", "{empty}/no/table.csv"]]
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_2(wardround, folder, picture, tmp_path, arguments):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    places = {"run": folder, "empty": tmp_path / "empty", "picture": picture, "text": tmp_path / "text.png"}
    done = wardround("predict", *(argument.format(**places) for argument in arguments))
    assert done.code == 2
    assert done.err.startswith("wardround: ")


def test_masks_lie_on_the_grids_of_their_volumes(wardround, tmp_path):
    import nibabel

    values = np.random.default_rng(0).integers(0, 500, (20, 18, 6)).astype(float)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    series = write_dicom(values, affine, tmp_path / "series", patient_id="p1")
    recipe = volume_input(volume_size=(16, 16, 8))
    folder = save(tmp_path / "run", drawn("voxel_features", recipe, 2), recipe, ("background", "box"), "masks")
    done = wardround("predict", str(folder), str(tmp_path / "series"), "--masks", str(tmp_path / "masks"))
    assert done.code == 0
    (path,) = (tmp_path / "masks").iterdir()
    assert path.name == f"{Path(series[0]).stem}.nii.gz"
    image = nibabel.load(path)
    assert image.shape == (20, 18, 6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.abs(image.affine), np.abs(affine), atol=20)  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_a_report_goes_to_the_pictures_study_and_says_the_class(wardround, folder, tmp_path):
    pytest.importorskip("highdicom")
    import pydicom

    values = np.random.default_rng(0).integers(0, 255, (1, 50, 50), dtype=np.uint8)
    write_picture(values, tmp_path / "x.dcm", patient_id="p1")
    Image.fromarray(values[0]).save(tmp_path / "y.png")
    paths = [str(tmp_path / "x.dcm"), str(tmp_path / "y.png")]
    done = wardround("predict", str(folder), *paths, "--dicom", str(tmp_path / "out"), "--json")
    assert "1 DICOM object was written" in done.err
    (report,) = map(pydicom.dcmread, (tmp_path / "out").iterdir())
    source = pydicom.dcmread(tmp_path / "x.dcm")
    assert (report.Modality, report.PatientID) == ("SR", "p1")
    assert report.StudyInstanceUID == source.StudyInstanceUID
    answers = json.loads(done.out)["predictions"]
    assert answers[0]["class"] in str(report)
    assert f"{answers[0]['probabilities']['clear']:.5f}"[:6] in str(report)


@pytest.mark.thorough
@pytest.mark.parametrize("axes", ["axial", "sagittal"])
def test_a_segmentation_is_read_back_as_the_mask(axes, tmp_path):
    """The reader that training has for DICOM SEG, and nothing of the writer, tells where the mask lies."""
    pytest.importorskip("highdicom")
    from wardround.images.dicom.decoder import DicomDecoder
    from wardround.images.entries import Entry
    from wardround.inference.answers import Segmented
    from wardround.inference.dicom import dicom_of
    from wardround.inference.model import load

    values = np.random.default_rng(0).integers(0, 500, (16, 14, 10)).astype(float)
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    if axes == "sagittal":
        affine = affine @ np.array([[0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    series = write_dicom(values, affine, tmp_path / "series", patient_id="p1")
    recipe = volume_input(volume_size=(16, 16, 16))
    classes = ("background", "edema", "core")
    folder = save(tmp_path / "run", drawn("voxel_features", recipe, 3, seed=3), recipe, classes, "masks")
    model = load(folder)
    (answer,) = model.predict(list(series)[::-1])
    assert isinstance(answer, Segmented)
    answer.mask[:] = np.random.default_rng(1).integers(0, 3, answer.mask.shape, dtype=np.uint8)
    content = dicom_of(model, answer)
    assert content is not None
    contents = [Path(path).read_bytes() for path in series]
    found = DicomDecoder(True, classes[1:]).decode(Entry("x", 0, "p"), contents, [content], None)
    np.testing.assert_array_equal(found.mask, answer.mask)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_collection_goes_on_as_before_a_failed_import(monkeypatch, is_enabled):
    monkeypatch.setitem(sys.modules, "wardround.inference.tables", None)
    (gc.enable if is_enabled else gc.disable)()
    try:
        with pytest.raises(ImportError):
            predict("run", [])
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()
