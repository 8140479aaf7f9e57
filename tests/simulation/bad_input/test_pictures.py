"""Bad pictures and tables through the command line: one sentence and exit code 2."""

import io
import json
import shutil

import pytest
from PIL import Image
from tests.images.png_files import png_claiming
from tests.simulation.runs import resume_run, stopped

from wardround.config import read_study
from wardround.errors import DataError
from wardround.ledger.place import own_ledger

FOLDER = {"layout": "folder"}


def half_a_jpeg():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


def table(folder, header, rows):
    """A metadata.csv for the pictures of a folder."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [",".join(rows(number, file)) for number, file in enumerate(files)]
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")


def test_a_missing_data_folder_is_refused(study_file, refused, tmp_path):
    refused(study_file(data=FOLDER), "--data", tmp_path / "none", kind=DataError, code="data")
    assert "must have a data folder" in refused(study_file(data=FOLDER))


def test_another_layout_is_refused_with_what_lies_there(study_file, refused, pictures):
    message = refused(study_file(data={"layout": "chest_xray", "path": str(pictures)}))
    assert "must look like" in message
    assert "ill/, well/" in message
    (pictures.parent / "empty").mkdir()
    assert "must look like" in refused(study_file(data=FOLDER), "--data", pictures.parent / "empty")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("letter.jpeg", b"Dear colleague,\n", "none of them"),
        ("half.jpeg", half_a_jpeg(), "damaged"),
        ("bomb.png", png_claiming(60_000, 60_000), "at most 50,000,000 pixels"),
        ("large.png", png_claiming(10_000, 10_000), "at most 50,000,000 pixels, got 10000 x 10000"),
        ("empty.png", b"", "none of them"),
    ],
)
def test_a_file_that_is_no_good_picture_is_refused_by_its_name(
    of_pictures, refused, pictures, name, content, part
):
    (pictures / "ill" / "p00" / name).write_bytes(content)
    message = refused(of_pictures())
    assert "1 of 25" in message
    assert f"ill/p00/{name}" in message
    assert part in message


def test_a_bad_picture_can_be_left_out(study_file, wardround, pictures, tmp_path):
    (pictures / "ill" / "p00" / "letter.jpeg").write_bytes(b"Dear colleague,\n")
    path = study_file(data={"layout": "folder", "path": str(pictures), "skip_unreadable": True})
    ended = wardround("run", path, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["findings"]["unreadable"] == 1


def test_a_table_without_a_column_is_refused_by_the_column(of_pictures, refused, pictures):
    table(pictures, "file,label", lambda _, file: [file, file.split("/")[0]])
    assert "missing: patient_id" in refused(of_pictures())


def test_a_patient_in_two_hospitals_is_refused(of_pictures, refused, pictures):
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number // 2}", ("north", "south")[number == 1]],
    )
    message = refused(of_pictures(hospitals={"scheme": "site", "count": 2}))
    assert "a patient must be in exactly one hospital, but 1 patient has images from two sites" in message


def test_a_study_that_counts_the_sites_wrong_is_refused(of_pictures, refused, pictures):
    # Noise shares are sized by the study's number of hospitals: with fewer in fact, the noise would fall short.
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number}", ("north", "south")[number % 2]],
    )
    message = refused(of_pictures(hospitals={"scheme": "site", "count": 3}))
    assert "hospitals.count must be the number of sites in the data, 2, got 3" in message


@pytest.mark.parametrize("strange", ["North", "n" * 101])
def test_names_that_take_no_key_serve_where_sums_have_no_masks(of_pictures, pictures, tmp_path, strange):
    """Keys are made for masks alone: a run of simulated sums begins, and goes on, under any names."""
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number}", ("north", strange, "south")[number % 3]],
    )
    hospitals, privacy = {"scheme": "site", "count": 3}, {"sum": "simulated", "num_patients": 32}
    stopped(read_study(of_pictures(hospitals=hospitals, privacy=privacy)), tmp_path / "out")
    ledgers = resume_run(tmp_path / "out").certificate["ledgers"]
    assert set(ledgers) == {"north", strange, "south"}


@pytest.mark.parametrize("strange", ["North", "no rth", "n" * 101])
def test_hospitals_whose_names_take_no_key_are_refused_before_a_ledger_keeps_anything(
    of_pictures, refused, pictures, strange
):
    table(
        pictures,
        "file,label,patient_id,site",
        lambda number, file: [file, file.split("/")[0], f"p{number}", ("north", strange, "south")[number % 3]],
    )
    study = of_pictures(hospitals={"scheme": "site", "count": 3}, privacy={"sum": "masked", "num_patients": 32})
    message = refused(study, kind=DataError, code="data-hospital-names")
    assert "`[hospitals] names` must" in message
    assert not own_ledger().exists()


@pytest.mark.parametrize("name", ["п" * 100, "院" * 40, "a/" * 50])
def test_a_long_name_in_any_script_names_a_hospital(study_file, wardround, tmp_path, name):
    study = study_file(
        hospitals={"count": 3, "names": [name, name[:-1], "south"]},
        privacy={"sum": "masked", "num_patients": 32},
    )
    ended = wardround("run", study, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err


def test_a_data_set_of_one_class_is_refused(of_pictures, refused, pictures):
    shutil.rmtree(pictures / "well")
    assert "second class" in refused(of_pictures())


def test_a_class_without_patients_is_refused(study_file, refused, pictures, tmp_path):
    chest = tmp_path / "chest"
    for number, picture in enumerate(sorted(pictures.rglob("*.png"))):
        path = chest / "train" / "PNEUMONIA" / f"person{number}_bacteria_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, path)
    message = refused(study_file(data={"layout": "chest_xray", "path": str(chest)}))
    assert "got none of: normal" in message
