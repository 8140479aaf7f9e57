"""Losses, one number a picture; nothing here is averaged over the batch.

A loss that averages over the batch divides every picture's gradient by the batch size before it can be clipped. The
clipping norm then silently means something else for every batch, and the realised batch size, which depends on the
sampled patients, leaks into the update. So a loss returns one number a picture; the private step means over one
patient's pictures, clips, sums over patients and divides by a public constant.

Every loss takes logits with the classes on axis 1 and class indices without that axis: (picture, class) with
(picture,) for pictures and volumes, (picture, class, *space) with (picture, *space) for masks, flat or solid.
Pixels and classes of one picture are averaged. All is computed in single precision at least, under autocast too.
Constants (gamma, smoothing) are public: nothing is weighted by the frequency of a class, a fact about patients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.errors import ModelError
from wardround.per_patient.batch import Loss


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns minus the logarithm of the probability given to the right class, in nats, (picture,).

    Of a mask, the mean over its pixels is taken. No picture in, no loss out.
    """
    return _of_pictures(F.cross_entropy(_fine(logits), labels.long(), reduction="none"))


def weighted(loss: Loss, class_weights: tuple[float, ...]) -> Loss:
    """Returns the loss with each picture weighted by its class; the weights, (class,), must be public."""
    weights = torch.tensor(class_weights, dtype=torch.float32)
    return lambda logits, labels: loss(logits, labels) * weights.to(labels.device)[labels]


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Returns cross-entropies in which what is already right counts less, in nats, (picture,).

    (1 - p)**gamma times -log p, p of the right class; gamma = 0 is cross-entropy.

    Source: Lin et al. 2017, equation 4, https://arxiv.org/abs/1708.02002, for the softmax of several classes.
    """
    right = -F.cross_entropy(_fine(logits), labels.long(), reduction="none")
    # Held above zero, where a power below one has no finite slope.
    wrong = (-torch.expm1(right)).clamp_min(torch.finfo(right.dtype).tiny)
    return _of_pictures(-right * wrong**gamma)


def ordinal(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the squared earth mover's distance between the predicted grades and the true one, (picture,).

    The sum over k of (P(grade <= k) - [label <= k])**2, P from the softmax: a grade that is off by two costs more
    than one that is off by one. It works with the ordinary head, one logit a grade; of two grades it is the Brier
    score. It lies between 0 and the number of grades less one. It is also the ranked probability score, a strictly
    proper one (Epstein 1969, https://doi.org/10.1175/1520-0450(1969)008<0985:ASSFPF>2.0.CO;2): honest
    probabilities have the smallest expected loss. Its gradient fades on pictures that are confidently wrong, which
    that of the cross-entropy does not.

    Source: Hou, Yu and Samaras 2016, the closed form for ordered classes, https://arxiv.org/abs/1611.05916.
    """
    below = torch.cumsum(torch.softmax(_fine(logits), dim=1), dim=1)
    truth = _classes(logits) >= labels.unsqueeze(1)
    return _of_pictures((below - truth.to(below.dtype)).square().sum(dim=1))


def dice(logits: Tensor, labels: Tensor, smoothing: float = 1.0) -> Tensor:
    """Returns one minus the mean soft Dice of the classes but the first, between 0 and 1, (picture,).

    Of class k: (2 sum p t + s) / (sum p + sum t + s), sums over the pixels of one picture, p the probability of
    the class, t whether the pixel is of it, s the smoothing in pixels. Class 0 is the background and is left out.

    Of a class that a picture does not show, the loss is 1 - s / (s + sum p), whose slope at nothing predicted is
    1 / s: with a small s, every pixel of such pictures would outweigh all of the others within the clipping norm.

    Source: Isensee et al. 2018, equation 2, https://arxiv.org/abs/1809.10486, without smoothing and negative.
    """
    return _dice_of(torch.softmax(_fine(logits), dim=1), labels, smoothing)


def _dice_of(probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    predicted = probabilities[:, 1:].flatten(2)
    truth = (_classes(probabilities)[:, 1:] == labels.unsqueeze(1)).flatten(2)
    overlap = (predicted * truth).sum(dim=2)
    sizes = predicted.sum(dim=2) + truth.sum(dim=2)
    return 1 - ((2 * overlap + smoothing) / (sizes + smoothing)).mean(dim=1)


def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns soft Dice plus cross-entropy, (picture,): the first sees shapes, the second has a slope everywhere.

    Source: Isensee et al. 2018, equation 1, https://arxiv.org/abs/1809.10486.
    """
    logarithms = F.log_softmax(_fine(logits), dim=1)
    entropies = F.nll_loss(logarithms, labels.long(), reduction="none")
    return _dice_of(logarithms.exp(), labels, smoothing=1.0) + _of_pictures(entropies)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "ordinal": ordinal,
    "dice": dice,
    "dice_ce": dice_ce,
}

LOSSES_FOR: dict[str, tuple[str, ...]] = {
    "classes": ("cross_entropy", "focal"),
    "grades": ("cross_entropy", "ordinal", "focal"),
    "masks": ("dice_ce", "dice", "cross_entropy", "focal"),
}
"""The losses that fit each target (`wardround.images.entries.Target`), the default first."""


def _fine(logits: Tensor) -> Tensor:
    """Returns logits in single precision at least."""
    if logits.shape[1] < 2:
        raise ModelError(
            f"a network must give at least two logits a picture or pixel, got {logits.shape[1]}. "
            "Give one a class: a finding that is there or not is two classes."
        )
    return logits if logits.dtype is torch.float64 else logits.float()


def _classes(logits: Tensor) -> Tensor:
    """Returns the class indices 0, 1, ..., (1, class, 1, ...), with as many axes as the logits."""
    number = logits.shape[1]
    return torch.arange(number, device=logits.device).view(1, number, *[1] * (logits.ndim - 2))


def _of_pictures(values: Tensor) -> Tensor:
    """Returns values of pictures as they are; of pixels, the mean over each picture's own."""
    return values if values.ndim == 1 else values.flatten(1).mean(dim=1)
