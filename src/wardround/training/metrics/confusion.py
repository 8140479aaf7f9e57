"""Numbers that follow from how often each class was called each class.

Tables of counts are (resample, true class, called class). Most functions return one number a table, (resample,), NaN
where the table cannot give it. scikit-learn has the same numbers for one resample a call; see `ranking`.
"""

import numpy as np

from wardround.training.metrics.bootstrap import Floats, Indices, ratio
from wardround.types import Labels


def confusions(labels: Labels, called: Indices, num_classes: int, weights: Floats) -> Floats:
    """Returns the weight of the pictures of each class called each class, (resample, true class, called class)."""
    cells, cell = np.unique(labels * num_classes + called, return_inverse=True)
    table = np.zeros((len(weights), num_classes**2))
    table[:, cells] = weights @ (cell[:, None] == np.arange(len(cells))).astype(np.float64)
    return table.reshape(-1, num_classes, num_classes)


def recalls(table: Floats) -> Floats:
    """Returns the share of each class called right, (resample, class)."""
    return ratio(np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2))


def accuracy(table: Floats) -> Floats:
    """Returns the share called right."""
    return ratio(np.trace(table, axis1=1, axis2=2), table.sum(axis=(1, 2)))


def balanced_accuracy(table: Floats) -> Floats:
    """Returns the mean over the classes that occur of the share called right."""
    shares = recalls(table)
    occurs = ~np.isnan(shares)
    return ratio(np.where(occurs, shares, 0.0).sum(axis=1), occurs.sum(axis=1).astype(np.float64))


def matthews(table: Floats) -> Floats:
    """Returns the correlation of true and called class, for any number of classes: R_K of Gorodkin 2004, equation 8.

    Of two classes it is Matthews' own (https://doi.org/10.1016/j.compbiolchem.2004.09.006). Unknown when all pictures
    are of one class, or were called one; scikit-learn says 0 there.
    """
    true, called = table.sum(axis=2), table.sum(axis=1)
    total = true.sum(axis=1)
    together = np.trace(table, axis1=1, axis2=2) * total - (true * called).sum(axis=1)
    alone = (total**2 - (true**2).sum(axis=1)) * (total**2 - (called**2).sum(axis=1))
    return ratio(together, np.sqrt(alone))


def quadratic_kappa(table: Floats) -> Floats:
    """Returns the agreement beyond chance on grades, a disagreement counted by the square of its distance.

    Weighted kappa of Cohen 1968, https://doi.org/10.1037/h0026256, with squared distances: 1 for agreement, 0 for
    chance; unknown when chance could not disagree, all pictures being of one grade and called that.
    """
    grades = np.arange(table.shape[1])
    distance = ((grades[:, None] - grades) ** 2).astype(np.float64)
    total = table.sum(axis=(1, 2))
    seen = np.einsum("rtc,tc->r", table, distance) * total
    by_chance = np.einsum("rt,tc,rc->r", table.sum(axis=2), distance, table.sum(axis=1))
    return 1 - ratio(seen, by_chance)
