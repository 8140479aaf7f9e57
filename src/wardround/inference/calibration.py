"""Probabilities from logits: a softmax, or the calibration that a study released with its model.

A private head can leave operating points on its card, made from noised moments of its scores (post-processing, so they
cost nothing more): for each class a slope and an intercept of a logistic curve over its score, the logit of the class
less the largest logit of the others. Of two classes the second has one.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.models.card import ModelCard

UNCALIBRATED = "uncalibrated"
"""The word for a softmax of the logits, which may be too sure."""


@dataclass(frozen=True)
class Softmax:
    """The probabilities that training's evaluation uses."""


@dataclass(frozen=True)
class FromScores:
    """A logistic curve for each class, (class,), or of two classes one for the second."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]


Calibration: TypeAlias = Softmax | FromScores
"""The way from logits to probabilities."""


def calibration_of(card: ModelCard, *, several: bool = False) -> Calibration:
    """Returns the calibration on a model's card; a softmax where a class has none, or for several models."""
    points = getattr(card, "operating_points", ())
    curves = 1 if len(card.classes) == 2 else len(card.classes)
    if several or card.target == "masks" or len(points) != curves:
        return Softmax()
    if not all(point.kind == "threshold" for point in points):
        return Softmax()
    return FromScores(tuple(point.slope for point in points), tuple(point.intercept for point in points))


def words_of(calibration: Calibration) -> str:
    """Returns the calibration in words."""
    match calibration:
        case Softmax():
            return UNCALIBRATED
        case FromScores(slopes=slopes):
            of = "" if len(slopes) == 1 else " of each class, brought to a sum of one"
            return f"calibrated by the study: a logistic curve over the score{of}, from noised moments of the training"
        case _:
            assert_never(calibration)


class Probabilities(nn.Module):
    """Logits to probabilities, in the precision of the logits."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self._calibration = calibration

    def forward(self, logits: Tensor) -> Tensor:
        """Returns probabilities, (row, class) or (row, class, *space)."""
        match self._calibration:
            case Softmax():
                return logits.softmax(dim=1)
            case FromScores(slopes=slopes, intercepts=intercepts):
                slope, intercept = (torch.tensor(values, dtype=logits.dtype) for values in (slopes, intercepts))
                if len(slopes) == 1:
                    second = (slope * (logits[:, 1:] - logits[:, :1]) + intercept).sigmoid()
                    return torch.cat([1 - second, second], dim=1)
                two = logits.topk(2, dim=1).values
                others = torch.where(logits == two[:, :1], two[:, 1:], two[:, :1])
                # The logarithms of the curves: where all curves are below the smallest number, their ratios are not.
                return F.logsigmoid(slope * (logits - others) + intercept).softmax(dim=1)
            case _:
                assert_never(self._calibration)
