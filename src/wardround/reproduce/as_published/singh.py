"""The two private arms of Singh et al. as their code has them: a change of brightness, and clipped means of four.

Singh et al. 2020, "Benchmarking Differentially Private Residual Networks for Medical Imagery",
https://arxiv.org/abs/2005.13099. "Local DP" draws ONE Laplace number for a whole picture and adds it to every pixel,
then saves eight bits. "DP-SGD" clips the mean gradient of four pictures (X-rays), or of the whole batch (retina), and
adds noise of one clipping norm times z.

Released: the altered pictures, to the party that trains; and the model.
Sensitivity: two pictures can differ in every pixel, so their L1 distance is the number of pixels, not 1. Replacing one
picture of a clipped group can turn the group's gradient round: 2 S, not S.
"""

import numpy as np
import torch
from torch import Tensor, nn

from wardround.accounting.statement import Statement
from wardround.reproduce.as_published.plain import Labelled, Steps, batches, drawing, optimizer_of, trained
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.types import Pictures

SCALAR_REASON = (
    "one random number is added to the whole picture, so the difference between any two of its pixels is released "
    "exactly, up to saturation: the picture is made brighter or darker, not private."
)
MICRO_REASON = (
    "the mean gradient of several pictures is clipped together, so one picture can move it by twice the norm that the "
    "noise was sized for, batches are shuffled while the accountant assumes secret random samples, and the published "
    "batch normalisation mixes the patients of a batch and is released without noise."
)
WHOLE_REASON = (
    "the mean gradient of the whole batch is clipped once and its noise is not divided by anything: what is left is "
    "almost only noise, and the accounting is that of another algorithm."
)


def brightness_shift(pictures: Pictures, epsilon: float, generator: np.random.Generator) -> Pictures:
    """One number from Laplace(0, 255 / epsilon) a picture, added to every pixel; then rounded and saturated."""
    shape = (len(pictures), *[1] * (pictures.ndim - 1))
    shifted = pictures.astype(np.float64) + generator.laplace(0.0, 255.0 / epsilon, shape)
    return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)


def train_with_groups(
    model: nn.Module,
    data: Labelled,
    steps: Steps,
    *,
    group: int,
    clipping_norm: float,
    noise_multiplier: float,
    generator: torch.Generator,
) -> None:
    """Trains in place: the mean gradient of every `group` pictures is clipped, then summed, noised and averaged.

    A group as large as the batch is what was run on the retina: one clip, and the whole noise undivided.

    Guarantee: none; see `statement_of_groups`.
    """
    parameters = trained(model)
    optimizer = optimizer_of(parameters, steps)
    model.train()
    with drawing(generator):
        for batch in batches(data, steps, generator):
            size = min(group, len(batch))
            means = [
                _mean_gradient(model, batch.some(torch.arange(at, min(at + size, len(batch)))), parameters)
                for at in range(0, len(batch), size)
            ]
            private = noised(torch.stack(means), clipping_norm, noise_multiplier, generator)
            parts = private.split([p.numel() for p in parameters])  # type: ignore[no-untyped-call]  # torch's
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.reshape(parameter.shape)
            optimizer.step()


def noised(means: Tensor, clipping_norm: float, noise_multiplier: float, generator: torch.Generator) -> Tensor:
    """Mean gradients of groups, (group, parameter), clipped, summed, noised and divided by the number of groups."""
    clipped = means / torch.clamp(means.norm(dim=1, keepdim=True) / clipping_norm, min=1.0)
    noise = noise_multiplier * clipping_norm * torch.randn(means.shape[1], generator=generator)
    return (clipped.sum(dim=0) + noise) / len(means)


def statement_of_shift() -> Statement:
    """That a change of brightness promises nothing."""
    return no_guarantee(
        SCALAR_REASON, "one Laplace number a picture", "every training picture, made brighter or darker"
    )


def statement_of_groups(*, whole_batch: bool) -> Statement:
    """That clipped groups promise nothing of what was stated."""
    reason = WHOLE_REASON if whole_batch else MICRO_REASON
    return no_guarantee(reason, "Gaussian on clipped means of groups", "the trained model")


def _mean_gradient(model: nn.Module, group: Labelled, parameters: list[nn.Parameter]) -> Tensor:
    loss = nn.functional.cross_entropy(model(group.pictures), group.labels)
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])
