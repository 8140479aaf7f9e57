"""Dopamine as published: shares of noise on each hospital's mean gradient, over the batch that was drawn.

Malekzadeh et al. 2021, "Dopamine: Differentially Private Federated Learning on Medical Data",
https://arxiv.org/abs/2101.11693, Algorithm 1. As in its code: the noised sum is divided by the number of records that
were drawn (line 13), a hospital that draws nobody sends its weights unchanged and without noise, and momentum is kept
at the hospitals.

Released: the mean of the hospitals' weights in every round, to hospitals and server.
Sensitivity: of a hospital's mean, C / |batch|: it grows as the batch shrinks, while the noise in the mean of all is
averaged over all hospitals. The published epsilon is that of a sum divided by a constant, which was not run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.rdp import rdp_epsilon_2020
from wardround.accounting.statement import Statement
from wardround.reproduce.as_published.plain import Labelled, put_weights, record_gradients, weights_of
from wardround.reproduce.as_published.statement import no_guarantee

REASON = (
    "each hospital divides its noised sum by the number of patients it happened to draw, so one patient of a small "
    "batch weighs more than the accountant assumes, and a hospital that draws nobody adds no noise at all."
)


@dataclass(frozen=True)
class Settings:
    """The published settings; see Algorithm 1.

    Attributes:
        rounds: T.
        sampling_prob: q.
        noise_multiplier: sigma; a hospital's share has variance sigma^2 C^2 / K.
        clipping_norm: C.
        learning_rate: eta.
        momentum: beta, kept at the hospital, on the noised gradient.
        delta: of the published promise.
    """

    rounds: int
    sampling_prob: float
    noise_multiplier: float
    clipping_norm: float
    learning_rate: float
    momentum: float
    delta: float


def noised_mean(
    gradients: Tensor, settings: Settings, hospitals: int, generator: torch.Generator
) -> Tensor | None:
    """A hospital's gradient as published, from those of the records it drew, (record, parameter).

    None for an empty draw: the published code then sends the model as it is.
    """
    drawn = len(gradients)
    if drawn == 0:
        return None
    norms = gradients.norm(dim=1, keepdim=True)
    clipped = gradients / torch.clamp(norms / settings.clipping_norm, min=1.0)
    deviation = settings.noise_multiplier * settings.clipping_norm / math.sqrt(hospitals)
    noise = deviation * torch.randn(gradients.shape[1], generator=generator)
    return (clipped.sum(dim=0) + noise) / drawn


def rounds(
    model: nn.Module, hospitals: Sequence[Labelled], settings: Settings, generator: torch.Generator
) -> Iterator[int]:
    """Trains the model in place; yields the number of rounds done after each.

    Guarantee: none; see `statement`.
    """
    weights = weights_of(model)
    momenta = [torch.zeros_like(weights) for _ in hospitals]
    for round in range(1, settings.rounds + 1):
        total = torch.zeros_like(weights)
        for position, data in enumerate(hospitals):
            chosen = torch.nonzero(torch.rand(len(data), generator=generator) < settings.sampling_prob)[:, 0]
            mine = data.some(chosen)
            mean = noised_mean(record_gradients(model, mine, generator), settings, len(hospitals), generator)
            if mean is None:
                total += weights
                continue
            momenta[position] = mean + settings.momentum * momenta[position]
            total += weights - settings.learning_rate * momenta[position]
        weights = total / len(hospitals)
        put_weights(model, weights)
        yield round


def stated_epsilon(settings: Settings) -> float:
    """The epsilon of the paper's accountant: a sum of all hospitals over a constant, by the conversion of 2020."""
    step = PoissonSampledEvent(settings.sampling_prob, GaussianEvent(settings.noise_multiplier))
    return rdp_epsilon_2020(SelfComposedEvent(step, settings.rounds), settings.delta)


def reset_epsilon(settings: Settings) -> float:
    """The epsilon of an accountant that is made anew every round: one round's, however many there were."""
    step = PoissonSampledEvent(settings.sampling_prob, GaussianEvent(settings.noise_multiplier))
    return rdp_epsilon_2020(step, settings.delta)


def effective_noise_multiplier(settings: Settings, batches: Sequence[int], position: int) -> float:
    """Noise over sensitivity of one round's released mean, for a patient of the hospital at `position`.

    The pooled noise of the mean of K noised means has variance (sigma C)^2 / K * sum(1 / b_k^2) / K^2, and the patient
    moves it by C / (b K).

    >>> equal = Settings(1, 0.1, 1.15, 2.0, 0.1, 0.9, 1e-4)
    >>> round(effective_noise_multiplier(equal, [10] * 10, 0), 3)
    1.15
    >>> round(effective_noise_multiplier(equal, [4] + [10] * 9, 0), 3)
    0.568
    """
    hospitals = len(batches)
    noise = math.fsum(1 / batch**2 for batch in batches if batch)
    return settings.noise_multiplier * batches[position] * math.sqrt(noise / hospitals)


def indicated_epsilon(settings: Settings, patients: int, hospitals: int, draws: int = 200) -> float:
    """The cost of dividing by the drawn batch, composed over the multipliers that its draws lead to.

    An indication and no bound: it takes the batch sizes as fixed beforehand, and the noise as Gaussian with the
    effective multiplier of each draw. Multipliers are rounded down to twentieths, which only raises it.
    """
    generator = torch.Generator().manual_seed(0)
    draws = min(draws, settings.rounds)
    counts: dict[float, int] = {}
    for _ in range(draws):
        drawn = torch.rand((hospitals, patients), generator=generator) < settings.sampling_prob
        batches = drawn.sum(dim=1).tolist()
        batches[0] = max(1, batches[0])  # the patient in question was drawn
        multiplier = effective_noise_multiplier(settings, batches, 0)
        rounded = max(0.05, math.floor(multiplier * 20) / 20)
        counts[rounded] = counts.get(rounded, 0) + 1
    events = [
        SelfComposedEvent(
            PoissonSampledEvent(settings.sampling_prob, GaussianEvent(multiplier)),
            math.ceil(count * settings.rounds / draws),
        )
        for multiplier, count in counts.items()
    ]
    return epsilon_of(ComposedEvent(tuple(events)), settings.delta, AccountantKind.RDP)


def statement(hospitals: int) -> Statement:
    """That the loop promises nothing."""
    return no_guarantee(
        REASON, "Gaussian on means over drawn batches", "the mean of all weights in every round", hospitals
    )
