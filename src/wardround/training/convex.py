"""A linear head on fixed features, fitted to the end: strongly convex, so that its weights have a sensitivity.

Nothing here is noised; what it returns may leave only through `wardround.privacy.plans.releases.noised_head`.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.linear import linear_layer, scoring_layer
from wardround.models.network import Network
from wardround.models.networks.ordinal import asked_and_wanted
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.privacy.output_perturbation import tolerance_of
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.work import HeadFit

Float64 = npt.NDArray[np.float64]
Objective = Callable[[Float64], tuple[float, Float64]]

_AT_ONCE = 512


def linear_head(network: Network) -> nn.Linear:
    """Returns the one layer that is trained, if all before it is fixed and it gives the logits.

    Raises:
        ModelError: something else is trained, or the features are not computed for each picture alone.
    """
    head = linear_layer(network)
    if head is None:
        raise ModelError(
            f"A head that is fitted to the end must be one linear layer on fixed features, got {network.name} with "
            f'train = "{network.stage}". Use the network features or linear, or another with train = "head".'
        )
    return head


def fit_head(workbench: Workbench, patients: TrainingPatients, fit: HeadFit) -> Float64:
    """Returns weights, then biases, where the objective's gradient has norm at most tau, (parameter,), float64.

    Guarantee:
        With a public `fit.num_patients`, neighbours that differ by one patient get weights that are at most
        `OutputPerturbation.sensitivity` apart, for any number of patients and any pictures.
        Fixed features, rows of norm at most `fit.row_norm`, one mean a patient: see `privacy.output_perturbation`.

    Edge cases:
        No patient: zeros. Without a public number of patients: divided by the hospital's own, which has no guarantee;
        the head may then be one for grades, the sum of whose losses is minimised.

    Raises:
        ModelError: as `linear_head`.
    """
    head, is_ordinal = scoring_layer(workbench.network)
    if head is None or (is_ordinal and fit.num_patients is not None):
        head = linear_head(workbench.network)
    scores = head.out_features
    number = max(1, len(patients)) if fit.num_patients is None else fit.num_patients
    with_bias = head.bias is not None
    rows = feature_rows(workbench, patients.rows, fit.row_norm, with_bias=with_bias)
    each = np.repeat(1 / np.maximum(1, patients.counts), patients.counts) / number
    loss = loss_of_grades if is_ordinal else regularised_loss
    objective = loss(rows, patients.labels, each, scores, fit.regularisation)
    smoothness = fit.regularisation + fit.row_norm**2 / 2 * each.sum()
    found = _minimiser(objective, scores * rows.shape[1], tolerance_of(fit, number), smoothness)
    table = found.reshape(scores, -1)
    if not with_bias:
        return found
    return np.concatenate([table[:, :-1].ravel(), table[:, -1]])


def feature_rows(
    workbench: Workbench, rows: npt.NDArray[np.int64], row_norm: float, *, with_bias: bool
) -> Float64:
    """Returns the rows that the head sees, with 1 for its bias, cut to norm `row_norm`, (picture, feature)."""
    parts = [
        workbench.inputs_of(rows[at : at + _AT_ONCE]).flatten(1).to(torch.float64).numpy()
        for at in range(0, len(rows), _AT_ONCE)
    ]
    table = (
        np.nan_to_num(np.concatenate(parts))
        if parts
        else np.zeros((0, workbench.inputs_of(rows).flatten(1).shape[1]))
    )
    if with_bias:
        table = np.column_stack([table, np.ones(len(table))])
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    # Short of the norm by a margin: rounding cannot bring a row back above the bound.
    return np.asarray(
        table * np.minimum(1.0, row_norm * DOUBLE_PRECISION / np.maximum(lengths, 1e-300)), dtype=np.float64
    )


def regularised_loss(
    rows: Float64, labels: npt.NDArray[np.int64], each: Float64, classes: int, regularisation: float
) -> Objective:
    """Returns a function of the weights, (class * feature,), to a loss and its gradient.

    The loss is the sum of `each` times the pictures' cross-entropies, plus half of `regularisation` times the squared
    weights.
    """
    if classes == 2:
        return _loss_of_two(rows, labels, each, regularisation)
    from scipy.special import logsumexp  # here: a run whose head is not fitted to the end does without

    truth = np.eye(classes)[labels]

    def objective(weights: Float64) -> tuple[float, Float64]:
        logits = rows @ weights.reshape(classes, -1).T
        normaliser = logsumexp(logits, axis=1, keepdims=True) if len(rows) else np.zeros((0, 1))
        losses = normaliser[:, 0] - (logits * truth).sum(axis=1)
        slope = (np.exp(logits - normaliser) - truth) * each[:, None]
        value = float(each @ losses + regularisation / 2 * (weights @ weights))
        return value, (slope.T @ rows).ravel() + regularisation * weights

    return objective


def _loss_of_two(rows: Float64, labels: npt.NDArray[np.int64], each: Float64, regularisation: float) -> Objective:
    """Returns what `regularised_loss` does, of two classes: their cross-entropy is a function of one difference.

    A product with one vector runs at the memory's speed, and with a matrix of two columns at a third of it.
    """

    def objective(weights: Float64) -> tuple[float, Float64]:
        first, second = weights.reshape(2, -1)
        apart = rows @ (second - first)
        losses = np.logaddexp(0.0, apart) - labels * apart
        slope = ((np.exp(-np.logaddexp(0.0, -apart)) - labels) * each) @ rows
        value = float(each @ losses + regularisation / 2 * (weights @ weights))
        return value, np.concatenate([-slope, slope]) + regularisation * weights

    return objective


def loss_of_grades(
    rows: Float64, grades: npt.NDArray[np.int64], each: Float64, scores: int, regularisation: float
) -> Objective:
    """Returns what `regularised_loss` does, of a head for grades, by its weights, (score * feature,).

    A logistic regression for each score, over the pictures that it asks (`wardround.models.networks.ordinal`).
    """
    asked, wanted = (table.numpy() for table in asked_and_wanted(torch.from_numpy(grades), scores))

    def objective(weights: Float64) -> tuple[float, Float64]:
        found = rows @ weights.reshape(scores, -1).T
        losses = np.where(asked, np.logaddexp(0.0, found) - wanted * found, 0.0).sum(axis=1)
        beyond = np.exp(-np.logaddexp(0.0, -found))
        slope = np.where(asked, beyond - wanted, 0.0) * each[:, None]
        value = float(each @ losses + regularisation / 2 * (weights @ weights))
        return value, (slope.T @ rows).ravel() + regularisation * weights

    return objective


def _minimiser(objective: Objective, size: int, tolerance: float, smoothness: float) -> Float64:
    """Returns a point whose gradient has norm at most `tolerance`: by L-BFGS, and plain steps for what that leaves."""
    from scipy.optimize import minimize

    found = minimize(
        objective, np.zeros(size), jac=True, method="L-BFGS-B",
        options={"gtol": tolerance / np.sqrt(size), "ftol": 0.0, "maxiter": 10_000, "maxfun": 20_000, "maxcor": 20},
    )  # fmt: skip
    point = np.asarray(found.x, dtype=np.float64)
    gradient = objective(point)[1]
    # Each plain step takes the share lambda / smoothness off the distance.
    while not np.linalg.norm(gradient) <= tolerance:
        point = point - gradient / smoothness
        gradient = objective(point)[1]
    return point
