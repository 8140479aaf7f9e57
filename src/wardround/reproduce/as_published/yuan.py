"""The ring of Yuan et al. as published: trained weights plus one Gaussian draw, calibrated to a bound nobody enforces.

Yuan et al., "Collaborative Deep Learning for Medical Image Analysis with Differential Privacy", IEEE GLOBECOM 2019,
Algorithm 1: hospital i downloads the weights, trains T_i epochs without clipping, adds N(0, sigma^2 I) and uploads.
sigma is that of the analytic Gaussian mechanism (Balle and Wang 2018, https://arxiv.org/abs/1805.06530) at S = 1.

Released: each hospital's noised weights, to the next hospital and the server.
Sensitivity: none is known. The weights after any number of steps on one patient more or less can lie at any distance,
so a noise of fixed size hides no fixed share of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.accounting.statement import Statement
from wardround.reproduce.as_published.plain import Labelled, Steps, put_weights, train, weights_of
from wardround.reproduce.as_published.statement import no_guarantee

ASSUMED_SENSITIVITY = 1.0
"""The S with which the published sigma come out; nothing in the algorithm makes it true."""

REASON = (
    "the noise was calibrated as if one patient could move the trained weights by at most 1, and nothing bounds how "
    "far they move: no gradient and no update is clipped."
)


@dataclass(frozen=True)
class Visit:
    """One hospital's turn: its weights as trained, and as uploaded with the noise."""

    trained: Tensor
    uploaded: Tensor


def sigma_of(epsilon: float, delta: float) -> float:
    """The published standard deviation: the analytic Gaussian at sensitivity 1.

    >>> [round(sigma_of(epsilon, 1e-5), 3) for epsilon in (8, 2, 0.5)]
    [0.6, 1.994, 7.032]
    """
    return ASSUMED_SENSITIVITY * analytic_gaussian_noise_multiplier(epsilon, delta)


def ring(
    model: nn.Module, hospitals: Sequence[Labelled], steps: Steps, sigma: float, generator: torch.Generator
) -> Iterator[Visit]:
    """One pass over the hospitals in their fixed order; the model ends with the last upload's weights.

    The model starts with the server's weights; a sigma of 0 is the published row without noise.

    Guarantee: none; see `statement`.
    """
    for data in hospitals:
        train(model, data, steps, generator)
        trained = weights_of(model)
        uploaded = trained + sigma * torch.randn(trained.shape, generator=generator)
        put_weights(model, uploaded)
        yield Visit(trained, uploaded)


def statement_alone() -> Statement:
    """That a hospital's own training promises nothing to its patients."""
    return no_guarantee("a hospital's model is trained without clipping or noise.", "no", "each hospital's model")


def statement(hospitals: int, sigma: float) -> Statement:
    """That the ring promises nothing."""
    reason = REASON if sigma else "weights are passed on without any noise."
    mechanism = "Gaussian on unbounded weights" if sigma else "no"
    return no_guarantee(reason, mechanism, "every hospital's trained weights, noised", hospitals)
