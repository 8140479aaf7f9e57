"""A head for grades in an order: for each grade but the last, the odds of going beyond it once it is reached.

With K grades a linear layer gives K - 1 scores s_0, s_1, ...; P(y > k | y >= k) = 1 / (1 + exp(-s_k)) (continuation
ratios: Fienberg 1980, The Analysis of Cross-Classified Categorical Data, section 6.6; as the conditional training sets
of Shi, Cao and Raschka 2021, https://arxiv.org/abs/2111.08851). The product of these over the grades below y, times
the chance of stopping at y, is a probability for any scores, so that logarithms of probabilities take the place of
logits, and the cross-entropy is minus the logarithm of the likelihood.

A picture of grade y has a gradient for the scores 0 to min(y, K - 2) only: a score asks pictures that have reached its
grade, and each score's row of weights is of its own.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ContinuationRatios(nn.Module):
    """Scores of K - 1 grades to the logarithms of the probabilities of K grades; it has no parameter."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Maps scores (picture, grade - 1) to logarithms of probabilities (picture, grade)."""
        beyond = torch.cumsum(F.logsigmoid(scores), dim=1)
        stops = F.logsigmoid(-scores)
        middle = stops[:, 1:] + beyond[:, :-1]
        return torch.cat([stops[:, :1], middle, beyond[:, -1:]], dim=1)


def asked_and_wanted(grades: torch.Tensor, scores: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns whether each score asks a picture, y >= k, and whether it should say yes, y > k; (picture, score) each.

    Args:
        grades: y of each picture, (picture,).
        scores: K - 1.
    """
    steps = torch.arange(scores)
    return grades[:, None] >= steps, grades[:, None] > steps


def head_of(features: int, classes: int, *, is_ordinal: bool) -> nn.Sequential:
    """Returns the layers of a linear head on rows that end in a constant feature, which is the bias.

    Args:
        features: length of a row.
        classes: number of classes, or of grades.
        is_ordinal: the classes are grades in an order.
    """
    if not is_ordinal:
        return nn.Sequential(nn.Linear(features, classes, bias=False))
    return nn.Sequential(nn.Linear(features, classes - 1, bias=False), ContinuationRatios())
