"""Every task from the study file to the record: masks of volumes and slices, grades, augmentation, subgroups."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import cohen_kappa_score
from tests.cases import family
from tests.errors import raises_code
from tests.images.layouts.test_decathlon import AFFINE
from tests.images.nifti_files import write_boxes

from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import DataError, ModelError, StudyError
from wardround.images.quality.shortcut import shortcut_scores
from wardround.report.numbers import numbers_of
from wardround.report.page import render
from wardround.simulation.estimate import estimate
from wardround.simulation.evaluation import shortcut_figures
from wardround.simulation.materials import gather
from wardround.simulation.run import resume_run, run_study


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Twenty volumes with a bright and a less bright box, by Decathlon's layout."""
    root = tmp_path_factory.mktemp("volumes")
    write_boxes(root, [f"v{number}" for number in range(20)], np.random.default_rng(0), AFFINE)
    return root


def segmentation(tiny, root, view="volume", **sections):
    raw = tiny(**sections)
    raw["data"] = {
        "layout": "decathlon", "path": str(root), "volume_size": [16, 16, 16], "spacing": [1.0, 1.0, 2.0], "view": view,
    }  # fmt: skip
    raw["model"] = {"name": "small_unet", "width": 4} | sections.get("model", {})
    raw["privacy"] = {"images_per_patient": 16} | raw["privacy"]
    return parse_study(raw)


NOT_PRIVATE = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}


@pytest.mark.parametrize("view", family(["volume", "slices"], keep=["slices"]))
def test_a_segmentation_goes_from_study_file_to_page(tiny, volumes, tmp_path, view):
    study = segmentation(tiny, volumes, view, federation={"compare": ["no-privacy"]})
    record = run_study(study, tmp_path / "run", Silent())
    results: Any = record.results
    metrics = results["metrics"]
    assert [item["key"] for item in metrics["shown"]][:3] == ["dice", "hd95", "surface_dice"]
    assert {"dice front", "dice back"} <= metrics.keys()
    assert 0 <= metrics["dice"] <= 1
    assert results["models"]["global"]["unit"] == "mm"
    assert results["models"]["global"]["n_pictures"] == results["test"]["patients"]  # whole volumes
    assert record.certificate["unit"] == "picture", "Decathlon names nobody"
    assert 0 < results["location_dice"] < 1
    page = render(numbers_of(record))
    assert "Quality (Dice)" in page
    assert "HD95 (mm)" in page
    assert "AUROC" not in page
    assert "Where the regions usually lie" in page


def test_a_table_of_pictures_and_masks_goes_from_study_file_to_page(tiny, tmp_path):
    root, generator = tmp_path / "data", np.random.default_rng(0)
    root.mkdir()
    rows = ["image,patient,mask"]
    for number in range(24):
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[4:10, 4:10] = 1 + number % 2
        shade = generator.integers(0, 60, (16, 16)) + 80 * mask
        for name, values in (("i", shade), ("m", mask)):
            Image.fromarray(values.astype(np.uint8)).save(root / f"{name}{number}.png")
        rows.append(f"i{number}.png,p{number // 2},m{number}.png")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.csv").write_text("index,name\n1,liver\n2,tumour\n")
    raw = tiny(model={"name": "small_unet", "width": 4})
    raw["data"] = {"layout": "manifest", "path": str(root), "task": "segmentation", "image_size": 16}
    record = run_study(parse_study(raw), tmp_path / "run", Silent())
    results: dict[str, Any] = record.results
    assert {"dice", "dice liver", "dice tumour"} <= results["metrics"].keys()
    assert "Quality (Dice)" in render(numbers_of(record))


@pytest.mark.thorough
def test_a_network_learns_the_boxes(tiny, volumes, tmp_path):
    study = segmentation(
        tiny, volumes, privacy=NOT_PRIVATE, federation={"rounds": 50, "learning_rate": 1.0, "momentum": 0.9}
    )
    results: Any = run_study(study, tmp_path / "run", Silent()).results
    assert results["metrics"]["dice"] > 0.8


@pytest.mark.thorough
def test_an_interrupted_segmentation_ends_as_an_uninterrupted_one(tiny, volumes, tmp_path, monkeypatch):
    study = segmentation(tiny, volumes, training={"augment": {"flip": ["x"], "shift": 0.1}})
    whole = run_study(study, tmp_path / "whole", Silent())
    from wardround.federation.strategies.fedsgd import FedSGD

    honest, calls = FedSGD.update, [0]

    def update(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(FedSGD, "update", update)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "cut", Silent())
    monkeypatch.setattr(FedSGD, "update", honest)
    again = resume_run(tmp_path / "cut", Silent())
    assert again.certificate["model_sha256"] == whole.certificate["model_sha256"]


@pytest.mark.parametrize("repair", ["weighted-loss", "weighted-sampling"])
def test_masks_have_no_classes_by_which_to_repair(tiny, volumes, repair):
    """A run of it was charged for a round and a count, and then failed."""
    study = segmentation(
        tiny,
        volumes,
        privacy={"trust": "nobody", "sum": None},
        federation={"strategy": "fedavg", "repair": repair},
    )
    with raises_code(StudyError, "study-repair"):
        estimate(study)


def test_what_does_not_fit_together_is_one_sentence(tiny, volumes, tmp_path):
    with pytest.raises(ModelError, match=r"model\.name must be one of .*small_unet.* for masks, got small_cnn"):
        run_study(
            segmentation(tiny, volumes, model={"name": "small_cnn", "width": None}), tmp_path / "a", Silent()
        )
    with pytest.raises(ModelError, match=r"training\.loss must be one of dice_ce.* for masks, got ordinal"):
        run_study(segmentation(tiny, volumes, training={"loss": "ordinal"}), tmp_path / "b", Silent())
    with pytest.raises(DataError, match="flip must name axes"):
        run_study(
            segmentation(tiny, volumes, training={"augment": {"flip": ["horizontal"]}}), tmp_path / "c", Silent()
        )
    with pytest.raises(StudyError, match="view belongs to volumes"):
        parse_study(tiny(data={"view": "slices"}))
    raw = tiny(model={"name": "features"}, training={"augment": {"shift": 0.1}}, data={"image_size": 32})
    with pytest.raises(ModelError, match="features that are computed once"):
        run_study(parse_study(raw), tmp_path / "d", Silent())


@pytest.mark.thorough
def test_the_estimate_knows_volumes_and_slices(tiny, volumes):
    whole = estimate(segmentation(tiny, volumes))
    slices = estimate(segmentation(tiny, volumes, "slices"))
    assert (whole.patients, whole.pictures) == (20, 20)
    assert (slices.patients, slices.pictures) == (20, 320)
    assert whole.seconds is not None
    assert whole.seconds > 0


@pytest.fixture(scope="module")
def grades(tmp_path_factory):
    """A manifest with grades, sites and a subgroup: the brighter, the worse."""
    root = tmp_path_factory.mktemp("grades")
    generator = np.random.default_rng(0)
    rows = ["image,patient,label,site,group:sex"]
    for number in range(120):
        grade = number % 4
        shade = generator.normal(size=(16, 16)) * 20 + 60 * grade + 30
        Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).save(root / f"{number}.png")
        patient = number // 2
        rows.append(f"{number}.png,p{patient},{grade},clinic-{patient % 3},{'MF'[patient % 2]}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def test_grades_are_scored_by_agreement_and_groups_are_shown(tiny, grades, tmp_path):
    raw = tiny(federation={"rounds": 20, "learning_rate": 0.5}, privacy=NOT_PRIVATE)
    raw["data"] = {
        "layout": "manifest", "path": str(grades), "task": "grading", "image_size": 16, "test_fraction": 0.5,
    }  # fmt: skip
    record = run_study(parse_study(raw | {"training": {"loss": "ordinal"}}), tmp_path / "run", Silent())
    results: Any = record.results
    metrics = results["metrics"]
    assert metrics["shown"][0]["key"] == "quadratic_kappa"
    assert metrics["quadratic_kappa"] > 0.5
    assert set(results["subgroups"]) >= {"sex"}
    assert results["shortcut_kappa"] > 0.5, "grades that brightness tells"
    report = numbers_of(record)
    shown = f"Six brightness and border numbers alone reach <strong>{report.shortcut_kappa:.3f}</strong>"
    assert {row.value for row in report.subgroups if row.column == "sex"} == {"M", "F"}
    page = render(report)
    assert "Quality (Quadratic-weighted kappa)" in page
    assert shown in page
    assert "sex: F" in page


def test_the_floor_of_grades_is_the_kappa_of_the_six_numbers(tiny, grades):
    raw = tiny(privacy=NOT_PRIVATE)
    raw["data"] = {"layout": "manifest", "path": str(grades), "task": "grading", "image_size": 16}
    materials = gather(parse_study(raw), Silent())
    rows = np.concatenate([patients.rows for patients in materials.hospitals.values()])
    labels = np.concatenate([patients.labels for patients in materials.hospitals.values()])
    pixels, test = materials.images.pixels, materials.test
    test.labels[::3] = 0  # brightness tells all grades of this set: a third of them is made wrong
    scores = shortcut_scores(pixels, rows, labels, test.rows, 4)
    expected = cohen_kappa_score(test.labels, scores.argmax(axis=1), weights="quadratic", labels=range(4))
    assert 0.1 < expected < 0.9
    assert shortcut_figures(materials)["shortcut_kappa"] == pytest.approx(expected)


def test_a_patch_and_many_views_train_and_the_centre_is_tested(tiny, tmp_path):
    raw = tiny(
        data={"image_size": 32},
        model={"name": "small_cnn"},
        training={"augment": {"patch": 16, "flip": ["horizontal"], "rotate": 10, "multiplicity": 2}},
    )
    results: Any = run_study(parse_study(raw), tmp_path / "run", Silent()).results
    assert results["metrics"]["auroc"] is not None


def test_a_run_goes_on_from_anothers_weights_with_more_unfrozen_and_one_ledger(tiny, tmp_path):
    """Staged unfreezing: the head first, then the norms, then all; what is spent adds up."""
    ledger, spent, weights = tmp_path / "ledger.sqlite", [], None
    for stage in ("head", "norms", "all"):
        raw = tiny(
            study={"name": stage, "seed": None},
            data={"image_size": 32},
            model={"name": "small_cnn", "train": stage, "weights": weights},
            privacy={"ledger": str(ledger), "epsilon": 2.0},
        )
        record = run_study(parse_study(raw), tmp_path / stage, Silent())
        certificate: Any = record.certificate
        assert certificate["ledgers"]["hospital-1"]["epsilon_spent"] <= 2, "a certificate is about its own run"
        total: Any = json.loads((tmp_path / stage / "ledger.json").read_text())["total"]
        spent.append(total["greatest_epsilon"])
        if weights is not None:
            before, after = load_file(weights), load_file(tmp_path / stage / "model.safetensors")
            moved = {name for name in after if not np.array_equal(before[name], after[name])}
            norms = {f"features.{k}.{part}" for k in (1, 4, 7) for part in ("weight", "bias")}
            head = {"classifier.0.weight", "classifier.0.bias"}
            assert moved == (norms | head if stage == "norms" else set(after))
        weights = str(tmp_path / stage / "model.safetensors")
    assert spent == sorted(spent)
    assert spent[2] > spent[0] * 1.5
