"""A study's calibration goes before the softmax, in Python and in the exported graph."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.saved import drawn, picture_input, save

from wardround.inference.answers import Classified
from wardround.inference.calibration import FromScores, Probabilities, Softmax, calibration_of, words_of
from wardround.inference.model import load


def card_with(classes, points, target="classes") -> Any:
    return SimpleNamespace(classes=classes, operating_points=tuple(points), target=target)


def point(slope, intercept, kind="threshold"):
    return SimpleNamespace(kind=kind, slope=slope, intercept=intercept)


TWO, THREE = ("a", "b"), ("a", "b", "c")


def test_only_a_calibration_of_every_class_is_taken():
    assert calibration_of(card_with(TWO, [point(2.0, -1.0)])) == FromScores((2.0,), (-1.0,))
    three = [point(1.0, 0.0), point(2.0, 1.0), point(3.0, 2.0)]
    assert calibration_of(card_with(THREE, three)) == FromScores((1.0, 2.0, 3.0), (0.0, 1.0, 2.0))
    for card in (
        card_with(TWO, []), card_with(THREE, three[:2]), card_with(TWO, [point(0, 0, "argmax")]),
        card_with(TWO, [point(2.0, -1.0)], "masks"),
    ):  # fmt: skip
        assert calibration_of(card) == Softmax()
    assert calibration_of(card_with(TWO, [point(2.0, -1.0)]), several=True) == Softmax()
    assert "uncalibrated" not in words_of(FromScores((1.0,), (0.0,)))


def test_the_curves_are_those_of_the_scores():
    logits = np.random.default_rng(0).normal(0, 2, (7, 3))
    slopes, intercepts = np.array([1.0, 0.5, 2.0]), np.array([0.3, -1.0, 0.0])
    expected = np.empty_like(logits)
    for row, values in enumerate(logits):
        for k in range(3):
            score = values[k] - max(value for other, value in enumerate(values) if other != k)
            expected[row, k] = 1 / (1 + np.exp(-(slopes[k] * score + intercepts[k])))
    expected /= expected.sum(axis=1, keepdims=True)
    curves = FromScores(tuple(slopes), tuple(intercepts))
    np.testing.assert_allclose(Probabilities(curves)(torch.from_numpy(logits)), expected, atol=1e-12)
    two = Probabilities(FromScores((2.0,), (-1.0,)))(torch.from_numpy(logits[:, :2])).numpy()
    np.testing.assert_allclose(two[:, 1], 1 / (1 + np.exp(-(2 * (logits[:, 1] - logits[:, 0]) - 1))), atol=1e-12)
    np.testing.assert_allclose(two.sum(axis=1), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curves_that_are_all_below_the_smallest_number_keep_their_ratios(dtype):
    """Three steep curves, none of whose classes is near: shares in proportion to exp(-1000), exp(-1001), exp(-1002)."""
    curves = Probabilities(FromScores((1e-6,) * 3, (-1000.0, -1001.0, -1002.0)))
    found = curves(torch.zeros((1, 3), dtype=dtype)).numpy()
    np.testing.assert_allclose(found[0], np.exp([0.0, -1, -2]) / np.exp([0.0, -1, -2]).sum(), rtol=1e-5)


def test_a_calibrated_model_says_so_and_answers_by_its_curve(tmp_path):
    plain = load(save(tmp_path / "run", drawn("linear", picture_input(), 2), picture_input()))
    model = replace(plain, scale=FromScores((0.25,), (1.5,)))
    picture = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    (answer,) = model.predict(picture)
    assert isinstance(answer, Classified)
    second = 1 / (1 + np.exp(-(0.25 * float(answer.logits[1] - answer.logits[0]) + 1.5)))
    assert answer.probabilities["lesion"] == pytest.approx(second)
    assert model.calibration.startswith("calibrated by the study")
    assert plain.calibration == "uncalibrated"


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [TWO, THREE])
def test_the_exported_graph_is_calibrated_as_well(classes, tmp_path):
    pytest.importorskip("onnxscript")
    from wardround.inference.export.onnx import write_onnx

    recipe = picture_input(image_size=16)
    folder = save(tmp_path / "run", drawn("linear", recipe, len(classes)), recipe, classes)
    curves = FromScores((0.7,), (0.2,)) if classes is TWO else FromScores((0.7, 1.0, 0.2), (0.2, 0.0, -1.0))
    found = write_onnx(replace(load(folder), scale=curves), tmp_path / "model.onnx")  # which checks both outputs
    assert found.difference < 1e-5
