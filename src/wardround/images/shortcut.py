"""How far the wrong reasons go: six numbers of brightness and border, and what they alone predict.

A picture set may be easy because sick patients were photographed by another machine. A model that looks good
on such a set has shown little; its figures belong beside what these six numbers reach.

Guarantee: none. Everything here is computed from the pictures as they are, for the hospital's own screen or for
a reference in a simulation.
"""

import numpy as np
import numpy.typing as npt

from wardround.types import Labels, Pictures, Scores

_Floats = npt.NDArray[np.float64]
_RIDGE = 1e-3


def six_numbers(pictures: Pictures) -> _Floats:
    """Brightness, contrast, dark and bright ends, and brightness and contrast of the border, (picture, 6).

    The border is the outermost eighth of the picture. Values are in units of full brightness.
    """
    values = pictures.astype(np.float64).mean(axis=1) / 255.0
    width = max(1, values.shape[1] // 8)
    inside = np.zeros(values.shape[1:], dtype=bool)
    inside[width:-width, width:-width] = True
    border = values[:, ~inside]
    flat = values.reshape(len(values), -1)
    dark, bright = np.quantile(flat, [0.05, 0.95], axis=1)
    numbers = [flat.mean(1), flat.std(1), dark, bright, border.mean(1), border.std(1)]
    return np.stack(numbers, axis=1)


def shortcut_scores(pictures: Pictures, labels: Labels, test_pictures: Pictures, num_classes: int) -> Scores:
    """Class probabilities of test pictures by logistic regression on `six_numbers` and their squares.

    Args:
        pictures: training pictures, (picture, channel, height, width).
        labels: their classes, (picture,).
        test_pictures: pictures to score.
        num_classes: number of classes.

    Returns:
        (test picture, class).
    """
    train, test = six_numbers(pictures), six_numbers(test_pictures)
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-9
    weights = _logistic(_expanded((train - mean) / std), labels, num_classes)
    return _softmax(_expanded((test - mean) / std) @ weights)


def _expanded(numbers: _Floats) -> _Floats:
    return np.concatenate([np.ones((len(numbers), 1)), numbers, np.clip(numbers, -4, 4) ** 2], axis=1)


def _logistic(rows: _Floats, labels: Labels, num_classes: int) -> _Floats:
    """Ridge-penalised multinomial logistic regression, (column, class)."""
    from scipy.optimize import minimize

    wanted = np.eye(num_classes)[labels]

    def loss(flat: _Floats) -> tuple[float, _Floats]:
        weights = flat.reshape(rows.shape[1], num_classes)
        chances = _softmax(rows @ weights)
        nats = -np.log(np.maximum((chances * wanted).sum(axis=1), 1e-300)).mean()
        slope = rows.T @ (chances - wanted) / len(rows) + 2 * _RIDGE * weights
        return float(nats + _RIDGE * (weights**2).sum()), slope.ravel()

    start = np.zeros(rows.shape[1] * num_classes)
    found: _Floats = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found.reshape(rows.shape[1], num_classes)


def _softmax(logits: _Floats) -> _Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances: _Floats = powers / powers.sum(axis=1, keepdims=True)
    return chances
