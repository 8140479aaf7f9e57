"""deepee as its published scripts ran it: the private step, and beside it the sum that it was to protect.

Ziller et al. 2021, "Medical imaging deep learning with differential privacy", Scientific Reports 11, with the package
deepee 0.1.9, `results/PneumoniaClassification.py`. The wrapper keeps one copy of the model for each record of a batch;
they share their weights with the model. The scripts hand the optimizer the parameters of everything, copies included,
so one step applies the noised mean AND, through the copies, the sum of the clipped gradients without noise.

A second flaw is not repeated: a loss that is a mean over the batch divides each record's gradient by the batch before
it is clipped, and the mean divides it once more.

Released: the model.
Sensitivity: irrelevant, since the sum itself is released.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.accounting.statement import Statement
from wardround.reproduce.as_published.plain import (
    Labelled,
    Steps,
    batches,
    put_weights,
    record_gradients,
    weights_of,
)
from wardround.reproduce.as_published.statement import no_guarantee

REASON = (
    "the optimizer also steps along the sum of the clipped gradients without noise, which the copies of the model "
    "carry: a party that knows the noised mean can subtract it and has the sum exactly."
)


@dataclass(frozen=True)
class Step:
    """One step's parts, each (parameter,): what is subtracted from the weights is the rate times their sum."""

    noised_mean: Tensor
    leaked_sum: Tensor


def step_of(gradients: Tensor, clipping_norm: float, noise_multiplier: float, generator: torch.Generator) -> Step:
    """The published step from gradients of records, (record, parameter)."""
    clipped = gradients / torch.clamp(gradients.norm(dim=1, keepdim=True) / clipping_norm, min=1.0)
    noise = (
        noise_multiplier * clipping_norm / len(gradients) * torch.randn(gradients.shape[1], generator=generator)
    )
    return Step(clipped.mean(dim=0) + noise, clipped.sum(dim=0))


def train_leaking(
    model: nn.Module,
    data: Labelled,
    steps: Steps,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    generator: torch.Generator,
) -> None:
    """Trains in place by plain steps along `noised_mean + leaked_sum`.

    Guarantee: none; see `statement`.
    """
    weights = weights_of(model)
    for batch in batches(data, steps, generator):
        step = step_of(record_gradients(model, batch, generator), clipping_norm, noise_multiplier, generator)
        weights = weights - steps.learning_rate * (step.noised_mean + step.leaked_sum)
        put_weights(model, weights)


def statement() -> Statement:
    """That the scripts promise nothing."""
    return no_guarantee(REASON, "Gaussian beside the sum it was to hide", "the trained model")
