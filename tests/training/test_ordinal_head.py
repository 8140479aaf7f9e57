"""A head for grades: its probabilities, its gradient, its place in the study, the card and the scores."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.errors import raises_code

import wardround
from wardround.agreed.network import build_network
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import ModelError, StudyError
from wardround.images.entries import Target
from wardround.models.networks.ordinal import ContinuationRatios, head_of
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum
from wardround.simulation.run import run_study
from wardround.training.losses import cross_entropy

GRADES = 4


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores))


def test_probabilities_are_products_of_going_on_and_of_stopping():
    scores = np.random.default_rng(0).normal(size=(6, GRADES - 1)) * 3
    found = ContinuationRatios()(torch.from_numpy(scores)).exp().numpy()
    for row, probabilities in zip(sigmoid(scores), found, strict=True):
        for grade in range(GRADES):
            stops = 1 - row[grade] if grade < GRADES - 1 else 1.0
            assert probabilities[grade] == pytest.approx(np.prod(row[:grade]) * stops)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_probabilities_of_far_scores_are_numbers():
    found = ContinuationRatios()(torch.tensor([[1e4, -1e4, 1e4], [-1e4, 0.0, 0.0]]))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(torch.softmax(found, dim=1)[:, 1], torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("norm", [0.25, 100.0])
def test_a_patients_gradient_asks_only_the_scores_that_the_grade_has_reached(norm):
    """The engine's clipped sum against the residuals of the conditional logistic regressions, patient by patient."""
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(7, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grades, owner = np.array([0, 1, 2, 3, 3, 0, 2]), np.array([0, 0, 1, 1, 2, 3, 3])
    head = head_of(5, GRADES, is_ordinal=True)
    weight = generator.normal(size=(GRADES - 1, 5)).astype(np.float32)
    with torch.no_grad():
        next(head.parameters()).copy_(torch.from_numpy(weight))
    steps = np.arange(GRADES - 1)
    residuals = (sigmoid(rows @ weight.T) - (grades[:, None] > steps)) * (grades[:, None] >= steps)
    expected = np.zeros((GRADES - 1, 5))
    for patient in range(4):
        own = owner == patient
        gradient = residuals[own].T @ rows[own] / own.sum()
        expected += gradient * min(1, norm / np.linalg.norm(gradient))
    batch = PatientBatch(torch.from_numpy(rows), torch.from_numpy(grades), torch.from_numpy(owner), 4)
    found = clipped_sum(head, cross_entropy, batch, clipping_norm=norm)
    np.testing.assert_allclose(found.vector.numpy(), expected.ravel(), atol=2e-4)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """A manifest of four grades: the more bright squares, the worse."""
    from PIL import Image

    root = tmp_path_factory.mktemp("lesions")
    generator, rows = np.random.default_rng(0), ["image,patient,label"]
    for number in range(160):
        picture = generator.normal(90, 8, size=(32, 32))
        for place in generator.permutation(16)[: 4 * (number % GRADES)]:
            y, x = divmod(int(place), 4)
            picture[8 * y + 2 : 8 * y + 5, 8 * x + 2 : 8 * x + 5] += 120
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(root / f"{number}.png")
        rows.append(f"{number}.png,p{number // 2},{number % GRADES}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("centre_rounds", [0, pytest.param(3, marks=pytest.mark.thorough)])
def test_grades_are_learnt_and_the_model_answers_from_its_folder(tiny, lesions, tmp_path, centre_rounds):
    federation = {"rounds": None, "evaluate_every": 50, "centre_rounds": centre_rounds}
    raw = tiny(privacy={"epsilon": 1000.0, "clipping_norm": None}, federation=federation)
    raw["data"] = {"layout": "manifest", "path": str(lesions), "task": "grading", "image_size": 32}
    raw["model"] = {"name": "features", "encoder": "hog", "head": "ordinal"}
    results: Any = run_study(parse_study(raw), tmp_path / "run", Silent()).results
    assert results["metrics"]["quadratic_kappa"] > 0.6
    assert {row["class"] for row in results["operating_points"]} == set("0123")
    assert results["parameters"] % (GRADES - 1) == 0
    model = wardround.load(tmp_path / "run")
    logits = model.logits(np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8))
    assert logits.shape == (2, GRADES)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-5)


def test_it_is_for_grades_and_for_heads(tiny_study):
    study = tiny_study(model={"name": "features", "head": "ordinal"})
    with raises_code(ModelError, "model-head"):
        build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 16, 16))
    with raises_code(StudyError, "study-head"):
        tiny_study(model={"name": "linear", "head": "ordinal"})
