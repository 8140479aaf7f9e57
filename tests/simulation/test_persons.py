"""The unit of a run follows from what its pictures say of persons; a person counts once, however they are named."""

import json
import re
import shutil

import numpy as np
import pytest

from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.hospital.pictures import read_images, workbench_of
from wardround.training.patients import Sample, training_patients

CLIP = 1e-3
"""Below the norm of every patient's gradient: each patient moves the sum by exactly this much, in any direction."""

FOLDER = {"layout": "folder", "image_size": 16, "phantom": None}


def unnamed(make_pictures, root, patients=24):
    """Pictures that name nobody: `<class>/scan<number>_<number>.png`, two of each number."""
    make_pictures(root / "named", patients=patients)
    for number, path in enumerate(sorted((root / "named").rglob("*.png"))):
        target = root / "data" / path.relative_to(root / "named").parts[0] / f"scan{number // 2:02d}_{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return root / "data"


def clipped_total(study):
    """Returns the noiseless sum of everybody's clipped gradients, and the number of patients."""
    images = read_images(study)
    shape = images.pixels.shape[1:]
    network = build_network(study, target=images.target, num_classes=len(images.class_names), shape=shape)
    workbench = workbench_of(study, images, network)
    patients = training_patients(images.patients, study.privacy.images_per_patient)
    sample = Sample(patients, np.arange(len(patients)))
    [total] = workbench.gradient_sums(workbench.initial_weights, [sample], CLIP, 0)
    return total.vector.numpy(), len(patients)


def moved(study, path):
    """Returns by how many clipping norms the sum moves where some files are removed, and how many records go."""
    before, many = clipped_total(study)
    for file in path:
        file.unlink()
    after, left = clipped_total(study)
    return float(np.linalg.norm(before - after)) / CLIP, many - left


def test_a_person_whom_a_table_joins_counts_once(tiny_study, make_pictures, tmp_path):
    """One person with four pictures moves the sum by four clipping norms unnamed, and by at most one with a table."""
    root = unnamed(make_pictures, tmp_path)
    files = sorted((root / "ill").rglob("*.png"))[:4]
    spare = shutil.copytree(root, tmp_path / "spare")
    by, gone = moved(tiny_study(data={**FOLDER, "path": str(root)}), files)
    assert gone == 4
    assert by > 2
    table = tmp_path / "patients.csv"
    others = sorted(file.name for file in spare.rglob("*.png") if file.name not in {f.name for f in files})
    rows = [f"{file.name},one" for file in files] + [f"{name},{name}" for name in others]
    table.write_text("\n".join(["picture,patient", *rows]))
    study = tiny_study(data={**FOLDER, "path": str(spare)}, site={"patients": {"table": str(table)}})
    by, gone = moved(study, [spare / file.relative_to(root) for file in files])
    assert gone == 1
    assert by <= 1 + 1e-4


def test_a_picture_shared_with_ten_others_moves_nobody_else(tiny_study, make_pictures, tmp_path):
    """One patient has copies of ten others' pictures: without them, the sum moves by one clipping norm and not nine."""
    root = make_pictures(tmp_path / "data", patients=20)
    theirs = sorted((root / "ill").rglob("*.png"))
    for number, path in enumerate(theirs):
        target = root / "ill" / "shares" / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    by, gone = moved(tiny_study(data={**FOLDER, "path": str(root)}), sorted((root / "ill" / "shares").iterdir()))
    assert gone == 1
    assert by <= 1 + 1e-4


PAGES = ("certificate.json", "results.json", "model.json", "report.html")


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("patients", [None, "one-per-picture", {"pattern": "(scan[0-9]+)_"}], ids=str)
def test_a_run_prints_the_unit_that_its_pictures_know(study_file, make_pictures, tmp_path, wardround, patients):
    """Pictures that name nobody promise to a picture, in every file and on the terminal; named, to a patient."""
    root = unnamed(make_pictures, tmp_path)
    site = {} if patients is None else {"patients": patients}
    path = study_file(
        data={**FOLDER, "path": str(root)}, site=site, hospitals={"count": 2},
        federation={"rounds": 2, "evaluate_every": 1},
    )  # fmt: skip
    checked = wardround("check", path)
    ended = wardround("run", path, "--out", tmp_path / "run")
    assert (checked.code, ended.code) == (0, 0), checked.err + ended.err
    assert wardround("report", tmp_path / "run").code == 0
    certificate = json.loads((tmp_path / "run/certificate.json").read_text())
    unit = "picture" if patients is None else "patient"
    assert certificate["unit"] == certificate["statement"]["unit"] == unit
    assert f"for one {unit} (" in certificate["short"] == ended.out.splitlines()[0]
    texts = {name: (tmp_path / "run" / name).read_text() for name in PAGES}
    texts["report.html"] = re.sub(
        r"<style>.*?</style>|<pre>.*?</pre>|<[^>]*>", " ", texts["report.html"], flags=re.S
    )
    said = " ".join([checked.out.partition("[performance]")[2], ended.out, ended.err, *texts.values()])
    promises_to_patients = ("one patient", "all their images", "of patients with probability", "every patient in")
    if patients is None:
        assert [words for words in promises_to_patients if words in said] == []
        assert "patients" not in texts["report.html"]
        assert "on held-out pictures" in ended.out
        assert "24 pictures, which name no patient" in checked.out
        assert "does not cover a person who has several" in certificate["sentence"]
    else:
        assert "one patient, with all their images," in certificate["sentence"]
        assert ("The site states that no person has two" in certificate["sentence"]) == (
            patients == "one-per-picture"
        )
    assert certificate["statement"]["epsilon"] == pytest.approx(plan_of(read(path)).epsilon)


def read(path):
    from wardround.config import read_study

    return read_study(path)


def test_the_same_pictures_with_and_without_names_are_other_records(tiny_study, make_pictures, tmp_path):
    root = unnamed(make_pictures, tmp_path)
    counts = {}
    for key, site in {"unnamed": {}, "pattern": {"patients": {"pattern": "(scan[0-9]+)_"}}}.items():
        images = read_images(tiny_study(data={**FOLDER, "path": str(root)}, site=site))
        counts[key] = (len(images.patients), images.persons.one)
    assert counts == {"unnamed": (24, "picture"), "pattern": (12, "patient")}


def test_a_resumed_run_keeps_its_unit(tiny_study, make_pictures, tmp_path, wardround):
    root = unnamed(make_pictures, tmp_path)
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    study = tiny_study(data={**FOLDER, "path": str(root)}, hospitals={"count": 2}, federation={"rounds": 1})
    run_study(study, tmp_path / "run", Silent())
    (tmp_path / "run/certificate.json").unlink()
    assert wardround("resume", tmp_path / "run").code == 0
    assert json.loads((tmp_path / "run/certificate.json").read_text())["unit"] == "picture"
