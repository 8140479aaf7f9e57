"""Figures from histograms: without noise those of the binned scores, with noise as far off as they say."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.coordinator import figures
from wardround.coordinator.figures import THRESHOLDS
from wardround.privacy.histograms import histogram_row
from wardround.training.metrics.calibration import brier
from wardround.training.metrics.ranking import auroc
from wardround.work import BINS


def figures_of(*arguments, **options) -> Any:
    """The figures, as JSON."""
    return figures.figures_of(*arguments, **options)


def drawn(rng, patients, classes=2, true_auroc=0.93):
    """Scores and labels of patients with one picture each, of two normal distributions with this AUROC."""
    labels = rng.integers(0, classes, patients)
    apart = NormalDist().inv_cdf(true_auroc) * np.sqrt(2)
    logits = rng.normal(size=(patients, classes))
    logits[np.arange(patients), labels] += apart
    if classes == 2:
        logits[:, 0] = -apart / 2  # one score decides
        logits[:, 1] = rng.normal(size=patients) + apart * (labels - 0.5) - apart / 2
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), labels


def summed(scores, labels):
    return sum(histogram_row(scores[at : at + 1], labels[at : at + 1]) for at in range(len(labels)))


@pytest.mark.parametrize("classes", [2, 4])
def test_without_noise_the_figures_are_those_of_binned_scores(classes):
    """The reduction to what is computed picture by picture, by independent code, once scores are in their bins."""
    scores, labels = drawn(np.random.default_rng(1), 300, classes)
    found = figures_of(summed(scores, labels), [f"class {k}" for k in range(classes)], 0.0)
    binned = (np.minimum(np.floor(scores * BINS), BINS - 1) + 0.5) / BINS
    assert found["auroc"]["value"] == pytest.approx(auroc(binned, labels))
    assert found["auroc"]["noise_error"] == 0.0 < found["auroc"]["standard_error"]
    assert found["patients"] == {"value": pytest.approx(300), "noise_error": 0.0, "standard_error": 0.0}
    for at, curve in zip([1] if classes == 2 else range(classes), found["curves"], strict=True):
        score, is_class = scores[:, at], labels == at
        pair = np.stack([1 - binned[:, at], binned[:, at]], axis=1)
        assert curve["brier"]["value"] == pytest.approx(brier(pair, is_class.astype(np.int64)))
        places = np.minimum(np.floor(score * BINS), BINS - 1)
        gaps = [abs((is_class - binned[:, at])[places == place].sum()) for place in range(BINS)]
        assert curve["calibration_error"]["value"] == pytest.approx(sum(gaps) / 300)
        for threshold in THRESHOLDS:
            called = score >= threshold
            assert curve[f"accuracy_at_{threshold:g}"]["value"] == pytest.approx((called == is_class).mean())
            assert curve[f"sensitivity_at_{threshold:g}"]["value"] == pytest.approx(called[is_class].mean())
            assert curve[f"specificity_at_{threshold:g}"]["value"] == pytest.approx((~called[~is_class]).mean())


def test_hospitals_together_are_the_pooled_patients():
    scores, labels = drawn(np.random.default_rng(2), 90)
    parts = [summed(scores[at::3], labels[at::3]) for at in range(3)]
    assert figures_of(sum(parts), "ab", 0.0)["auroc"]["value"] == pytest.approx(
        figures_of(summed(scores, labels), "ab", 0.0)["auroc"]["value"]
    )


def test_bins_below_zero_are_kept_and_too_few_patients_have_no_figure():
    histograms = summed(*drawn(np.random.default_rng(3), 50))
    histograms[16] -= 2.0
    found = figures_of(histograms, "ab", 1.0)
    assert min(map(min, found["histograms"][0])) < 0
    assert found["patients"]["value"] == pytest.approx(48.0)
    histograms[16:] -= 3.0
    assert figures_of(histograms, "ab", 1.0)["auroc"]["value"] is None


def test_dice_is_the_mean_over_patients_who_have_the_region_and_its_error_is_as_said():
    """Known to half a bin; of the noise 100 repetitions, whose standard deviation is known to 7 %: 35 % is five."""
    rng, blocks = np.random.default_rng(5), np.zeros((3, 2, BINS))
    dice = rng.beta(5, 2, (3, 200))
    for curve, column in zip(blocks, dice, strict=True):
        np.add.at(curve[1], np.minimum((column * BINS).astype(int), BINS - 1), 1.0)
    blocks[2, 0, -1] = 40.0  # patients without the region, none predicted
    exact = figures_of(blocks.ravel(), "abc", 0.0, masks=True)
    assert exact["dice"]["value"] == pytest.approx(dice[1:].mean(), abs=0.5 / BINS), "without the background"
    assert exact["curves"][2]["share"]["value"] == pytest.approx(200 / 240)
    assert exact["curves"][1]["dice_at_least_0.5"]["value"] == pytest.approx((dice[1] >= 0.5).mean())
    noised = [
        figures_of(blocks.ravel() + rng.normal(0, 2.0, blocks.size), "abc", 2.0, masks=True)["dice"]
        for _ in range(100)
    ]
    errors = [each["value"] - exact["dice"]["value"] for each in noised]
    assert np.std(errors) == pytest.approx(np.mean([each["noise_error"] for each in noised]), rel=0.35)
    nobody = figures_of(np.zeros(blocks.size), "abc", 2.0, masks=True)
    assert nobody["dice"]["value"] is None


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("patients", "epsilon", "expected"), [(400, 1, 0.055), (400, 3, 0.020), (2000, 1, 0.010), (2000, 3, 0.004)]
)
def test_the_error_of_the_auroc_is_as_small_as_expected_and_as_large_as_said(patients, epsilon, expected):
    """400 repetitions: the standard deviation of an estimate from them is known to 3.5 %, so 15 % is four of these."""
    rng, std = np.random.default_rng(patients + epsilon), analytic_gaussian_noise_multiplier(epsilon, 1e-5)
    errors, said, away, claimed = [], [], [], []
    expected_auroc = auroc(*drawn(np.random.default_rng(0), 200_000))
    for _ in range(400):
        scores, labels = drawn(rng, patients)
        exact = patients * histogram_row(scores, labels)  # the same sum, at once
        truth = figures_of(exact, "ab", 0.0)["auroc"]["value"]
        found = figures_of(exact + rng.normal(0, std, exact.shape), "ab", std)["auroc"]
        errors.append(found["value"] - truth)
        said.append(found["noise_error"])
        away.append(found["value"] - expected_auroc)
        claimed.append(found["standard_error"])
    assert np.std(errors) <= expected
    assert abs(np.mean(errors)) <= 0.25 * np.std(errors), "hardly biased"
    assert np.std(errors) == pytest.approx(np.sqrt(np.mean(np.square(said))), rel=0.15)
    assert np.std(away) == pytest.approx(np.sqrt(np.mean(np.square(claimed))), rel=0.15)
