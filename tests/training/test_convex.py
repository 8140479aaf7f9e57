"""A head fitted to the end: the known algorithm without noise, and its sensitivity measured on neighbours."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.names import names
from torch import nn

from wardround.errors import ModelError
from wardround.models.network import Network
from wardround.privacy.output_perturbation import OutputPerturbation, tolerance_of
from wardround.training.convex import feature_rows, fit_head, linear_head, loss_of_grades, regularised_loss
from wardround.training.losses import cross_entropy
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.work import HeadFit


class Rows(nn.Module):
    """Pictures of uint8 as rows of numbers around zero."""

    def forward(self, pictures):
        return pictures.flatten(1).to(torch.float32) / 32.0 - 4.0


def bench(pixels, classes=3, *, bias=True, trained=None):
    size = int(np.prod(pixels.shape[1:]))
    head = trained or nn.Sequential(nn.Flatten(), nn.Linear(size, classes, bias=bias))
    return Workbench(Network("linear", Rows(), head, encode_once=True), pixels, cross_entropy, 1 << 20)


def patients(labels, counts):
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TrainingPatients(np.arange(starts[-1]), np.asarray(labels, dtype=np.int64), starts, names(len(counts)))


def without(whole, patient):
    """The same hospital without one patient."""
    keep = np.repeat(np.arange(len(whole)) != patient, whole.counts)
    counts = np.delete(whole.counts, patient)
    return TrainingPatients(
        whole.rows[keep],
        whole.labels[keep],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.delete(whole.names, patient, axis=0),
    )


def random_hospital(seed=0, size=30, classes=3):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 4, size)
    pixels = generator.integers(0, 256, (int(counts.sum()), 1, 2, 3), dtype=np.uint8)
    labels = generator.integers(0, classes, counts.sum())
    return bench(pixels, classes), patients(labels, counts)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_logistic_regression(classes):
    """scikit-learn's with C = 1 / lambda and weights 1 / (n pictures of the patient)."""
    workbench, hospital = random_hospital(classes=classes)
    fit = HeadFit(0.05, 1e6, 30.0)  # a norm that cuts nothing
    ours = fit_head(workbench, hospital, fit)
    rows = feature_rows(workbench, hospital.rows, 1e6, with_bias=True)
    weights = np.repeat(1 / hospital.counts, hospital.counts) / 30.0
    known = LogisticRegression(C=1 / 0.05, fit_intercept=False, tol=1e-10, max_iter=10_000)
    known.fit(rows, hospital.labels, sample_weight=weights)
    table = known.coef_
    if classes == 2:  # theirs is the difference of two rows; equal and opposite ones have the least norm
        known = LogisticRegression(C=2 / 0.05, fit_intercept=False, tol=1e-10, max_iter=10_000)
        known.fit(rows, hospital.labels, sample_weight=weights)
        table = np.concatenate([-known.coef_, known.coef_]) / 2
    expected = np.concatenate([table[:, :-1].ravel(), table[:, -1]])
    exact = regularised_loss(rows, hospital.labels, weights, classes, 0.05)
    at = np.column_stack([expected[: classes * 6].reshape(classes, 6), expected[classes * 6 :]]).ravel()
    assert np.linalg.norm(exact(at)[1]) < 1e-4  # the oracle found the same problem's minimum
    slack = tolerance_of(HeadFit(0.05, 1e6, 30.0), 30.0) / 0.05
    assert np.linalg.norm(ours - expected) < slack


def test_grades_are_a_logistic_regression_for_each_score():
    generator = np.random.default_rng(4)
    rows, grades, each = (
        generator.normal(size=(40, 5)),
        generator.integers(0, 4, 40),
        generator.uniform(0.1, 1, 40),
    )
    objective = loss_of_grades(rows, grades, each, 3, 0.1)
    expected = []
    for score in range(3):
        asked = grades >= score
        known = LogisticRegression(C=1 / 0.1, fit_intercept=False, tol=1e-12, max_iter=10_000)
        known.fit(rows[asked], grades[asked] > score, sample_weight=each[asked])
        expected.append(known.coef_[0])
    at, step = np.concatenate(expected), 1e-6
    assert np.linalg.norm(objective(at)[1]) < 1e-4
    point = generator.normal(size=15)
    numeric = [(objective(point + step * e)[0] - objective(point - step * e)[0]) / (2 * step) for e in np.eye(15)]
    assert np.allclose(objective(point)[1], numeric, atol=1e-6)


def test_the_network_predicts_with_the_weights_as_they_are_laid_out():
    workbench, hospital = random_hospital()
    weights = fit_head(workbench, hospital, HeadFit(0.01, 100.0, 30.0)).astype(np.float32)
    rows = feature_rows(workbench, hospital.rows, 100.0, with_bias=True)
    logits = rows[:, :-1] @ weights[:18].reshape(3, 6).T + weights[18:]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(workbench.probabilities(weights, hospital.rows), expected, atol=1e-5)


def test_the_gradient_is_that_of_the_value():
    generator = np.random.default_rng(3)
    rows, labels = generator.normal(size=(7, 4)), generator.integers(0, 3, 7)
    objective = regularised_loss(rows, labels, generator.uniform(0, 1, 7), 3, 0.1)
    point, step = generator.normal(size=12), 1e-6
    numeric = [(objective(point + step * e)[0] - objective(point - step * e)[0]) / (2 * step) for e in np.eye(12)]
    assert np.allclose(objective(point)[1], numeric, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_no_picture_pulls_harder_than_root_two_times_its_norm(classes):
    """Random and adversarial pictures; a confident mistake comes as near to the bound as one likes."""
    generator = np.random.default_rng(1)
    largest = 0.0
    for _ in range(300):
        row, scale = generator.normal(size=4), 10.0 ** generator.uniform(-1, 2)
        row *= 2.0 / np.linalg.norm(row)
        point = scale * generator.normal(size=(classes, 4))
        objective = regularised_loss(row[None], np.array([0]), np.ones(1), classes, 0.0)
        largest = max(largest, float(np.linalg.norm(objective(point.ravel())[1])))
    bound = HeadFit(1.0, 2.0, 1.0).lipschitz
    assert largest <= bound * (1 + 1e-12)
    wrong = np.zeros((classes, 4))
    wrong[1, 0] = 100.0
    objective = regularised_loss(np.array([[2.0, 0, 0, 0]]), np.array([0]), np.ones(1), classes, 0.0)
    assert np.linalg.norm(objective(wrong.ravel())[1]) == pytest.approx(bound)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("regularisation", [1e-3, 0.1])
def test_removing_any_patient_moves_the_weights_by_at_most_the_sensitivity(seed, regularisation):
    workbench, hospital = random_hospital(seed)
    fit = HeadFit(regularisation, 1.5, 30.0)
    bound = OutputPerturbation(fit, 1.0).sensitivity
    whole = fit_head(workbench, hospital, fit)
    moved = [np.linalg.norm(whole - fit_head(workbench, without(hospital, p), fit)) for p in range(len(hospital))]
    assert 0 < max(moved) <= bound


def test_an_adversarial_patient_comes_close_to_the_bound():
    """A crowd makes the weights sure of one class; a picture half along, half across it belongs to the other.

    Its gradient is close to sqrt(2) R, and across the crowd nothing but lambda resists.
    """
    crowd, regularisation = 12_000, 10.0
    pixels = np.full((crowd + 1, 1, 1, 2), 128, dtype=np.uint8)  # 128 is zero
    pixels[:, 0, 0, 0] = 255
    pixels[0, 0, 0] = (192, 239)  # cut to (1, sqrt(3)) / 2
    everyone = patients(np.r_[1, np.zeros(crowd, dtype=int)], np.ones(crowd + 1, dtype=int))
    workbench, fit = bench(pixels, 2, bias=False), HeadFit(regularisation, 1.0, 1.0)
    moved = np.linalg.norm(fit_head(workbench, everyone, fit) - fit_head(workbench, without(everyone, 0), fit))
    exact = fit.lipschitz / regularisation
    assert 0.75 * exact < moved <= exact < OutputPerturbation(fit, 1.0).sensitivity == pytest.approx(1.01 * exact)


def test_a_patient_with_many_pictures_counts_as_one():
    workbench, _ = random_hospital()
    fit = HeadFit(1.0, 1.5, 4.0)
    bound = OutputPerturbation(fit, 1.0).sensitivity
    many = patients(np.zeros(40), [40])
    assert np.linalg.norm(fit_head(workbench, many, fit)) <= bound


def test_rows_are_cut_to_the_bound_with_their_constant():
    workbench, hospital = random_hospital()
    rows = feature_rows(workbench, hospital.rows, 0.7, with_bias=True)
    assert np.linalg.norm(rows, axis=1).max() <= 0.7
    long = feature_rows(workbench, hospital.rows, 1e9, with_bias=True)
    assert (long[:, -1] == 1).all()
    assert np.allclose(rows / np.linalg.norm(rows, axis=1, keepdims=True),
                       long / np.linalg.norm(long, axis=1, keepdims=True))  # fmt: skip


@pytest.mark.parametrize("regularisation", [1e-5, 1e-2, 10.0])
def test_the_solver_stops_where_it_says(regularisation):
    workbench, hospital = random_hospital()
    fit = HeadFit(regularisation, 3.0, 30.0)
    found = fit_head(workbench, hospital, fit)
    rows = feature_rows(workbench, hospital.rows, 3.0, with_bias=True)
    weights = np.repeat(1 / hospital.counts, hospital.counts) / 30.0
    table = np.column_stack([found[:18].reshape(3, 6), found[18:]]).ravel()
    gradient = regularised_loss(rows, hospital.labels, weights, 3, regularisation)(table)[1]
    assert np.linalg.norm(gradient) <= tolerance_of(fit, 30.0) * (1 + 1e-9)


def test_plain_steps_finish_what_the_first_solver_leaves(monkeypatch):
    workbench, hospital = random_hospital()
    fit = HeadFit(0.1, 1.5, 30.0)
    quick = fit_head(workbench, hospital, fit)

    class Nothing:
        x = np.zeros(21)

    monkeypatch.setattr("scipy.optimize.minimize", lambda *args, **options: Nothing)
    slow = fit_head(workbench, hospital, fit)
    assert np.linalg.norm(quick - slow) <= 2 * tolerance_of(fit, 30.0) / 0.1


def test_nobody_gives_zeros_and_the_same_patients_the_same_weights():
    workbench, hospital = random_hospital()
    fit = HeadFit(0.1, 1.5, 30.0)
    assert not fit_head(workbench, patients([], []), fit).any()
    assert np.array_equal(fit_head(workbench, hospital, fit), fit_head(workbench, hospital, fit))
    own = HeadFit(0.1, 1.5, None)
    assert np.array_equal(fit_head(workbench, hospital, own), fit_head(workbench, hospital, fit))


@pytest.mark.parametrize(
    "trained",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 3, (2, 3)), nn.Flatten()),
        nn.Sequential(nn.Flatten()),
    ],
)
def test_networks_that_are_no_linear_head_on_fixed_features_are_refused(trained):
    with pytest.raises(ModelError, match="one linear layer on fixed features"):
        linear_head(Network("other", Rows(), trained, encode_once=True))
