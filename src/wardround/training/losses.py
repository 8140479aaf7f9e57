"""Losses, one number a picture; nothing here is averaged over the batch.

A loss that averages over the batch divides every picture's gradient by the batch size before it can be
clipped. The clipping norm then silently means something else for every batch, and the realised batch
size, which depends on who was sampled, leaks into the update. So a loss returns one number a picture; the
private step means over one patient's pictures, clips, sums over patients and divides by a public constant.

Every loss takes logits with the classes on axis 1 and class indices without that axis: (picture, class) with
(picture,) for pictures and volumes, (picture, class, *space) with (picture, *space) for masks, flat or solid.
Pixels and classes of one picture are averaged. All is computed in single precision at least, whatever autocast
made of the logits. Constants (gamma, smoothing) are public: nothing is weighted by how often a class occurs, for
that is a fact about patients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.errors import ModelError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits (picture, class, *space) and labels (picture, *space) to losses (picture,)."""


def _must(holds: bool, rule: str, value: float) -> None:
    if not holds:
        raise ModelError(f"{rule}, got {value:g}. Leave it out for the default.")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logarithm of the probability given to the right class, for each picture.

    Args:
        logits: (picture, class, *space).
        labels: class indices, (picture, *space); of a mask, the mean over its pixels is taken.

    Returns:
        Losses in nats, (picture,). No picture in, no loss out.
    """
    return _of_pictures(F.cross_entropy(_fine(logits), labels.long(), reduction="none"))


def weighted(loss: Loss, class_weights: tuple[float, ...]) -> Loss:
    """The loss with each picture weighted by its class; the weights must be public.

    Args:
        loss: of each picture.
        class_weights: one a class, (class,).
    """
    weights = torch.tensor(class_weights, dtype=torch.float32)
    return lambda logits, labels: loss(logits, labels) * weights[labels]


@dataclass(frozen=True)
class Focal:
    """Cross-entropy in which what is already right counts less: (1 - p)**gamma times -log p, p of the right class.

    Source: Lin et al. 2017, equation 4, https://arxiv.org/abs/1708.02002, for the softmax of several classes.

    Attributes:
        gamma: 0 is cross-entropy.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        """Refuses a gamma that would count what is right more."""
        _must(0 <= self.gamma < float("inf"), "gamma of the focal loss must be at least 0 and finite", self.gamma)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses in nats, (picture,)."""
        right = -F.cross_entropy(_fine(logits), labels.long(), reduction="none")
        # Held above zero, where a power below one has no finite slope.
        wrong = (-torch.expm1(right)).clamp_min(torch.finfo(right.dtype).tiny)
        return _of_pictures(-right * wrong**self.gamma)


def ordinal(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared earth mover's distance between the predicted grades and the true one, for each picture.

    The sum over k of (P(grade <= k) - [label <= k])**2, P from the softmax: a grade that is off by two costs more
    than one that is off by one. It works with the ordinary head, one logit a grade; of two grades it is the Brier
    score. It lies between 0 and the number of grades less one. It is also the ranked probability score, a strictly
    proper one (Epstein 1969, https://doi.org/10.1175/1520-0450(1969)008<0985:ASSFPF>2.0.CO;2): honest
    probabilities have the smallest expected loss. Its gradient fades on pictures that are confidently wrong, which
    that of the cross-entropy does not.

    Source: Hou, Yu and Samaras 2016, the closed form for ordered classes, https://arxiv.org/abs/1611.05916.

    Args:
        logits: (picture, grade, *space).
        labels: grades 0, 1, ..., (picture, *space).

    Returns:
        Losses, (picture,).
    """
    below = torch.cumsum(torch.softmax(_fine(logits), dim=1), dim=1)
    truth = _classes(logits) >= labels.unsqueeze(1)
    return _of_pictures((below - truth.to(below.dtype)).square().sum(dim=1))


@dataclass(frozen=True)
class SoftDice:
    """One minus the mean Dice of the classes but the first, with probabilities in place of a mask.

    Of class k: (2 sum p t + s) / (sum p + sum t + s), sums over the pixels of one picture, p the probability of
    the class, t whether the pixel is of it, s the smoothing. Class 0 is the background and is left out; with two
    classes one Dice is left.

    Source: Isensee et al. 2018, equation 2, https://arxiv.org/abs/1809.10486, without smoothing and negative.

    Attributes:
        smoothing: in pixels. Of a class that a picture does not show, the loss is 1 - s / (s + sum p), whose slope
            at nothing predicted is 1 / s: with a small s, every pixel of such pictures would outweigh all of the
            others within the clipping norm.
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a smoothing that leaves 0 / 0."""
        _must(0 < self.smoothing < float("inf"), "smoothing of soft Dice must be > 0 and finite", self.smoothing)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses between 0 and 1, (picture,)."""
        return self.of_probabilities(torch.softmax(_fine(logits), dim=1), labels)

    def of_probabilities(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The same of probabilities, (picture, class, *space)."""
        predicted = probabilities[:, 1:].flatten(2)
        truth = (_classes(probabilities)[:, 1:] == labels.unsqueeze(1)).flatten(2)
        overlap = (predicted * truth).sum(dim=2)
        sizes = predicted.sum(dim=2) + truth.sum(dim=2)
        return 1 - ((2 * overlap + self.smoothing) / (sizes + self.smoothing)).mean(dim=1)


@dataclass(frozen=True)
class DiceCE:
    """Soft Dice plus cross-entropy: the first looks at the shapes, the second has a slope everywhere.

    Source: Isensee et al. 2018, equation 1, https://arxiv.org/abs/1809.10486.

    Attributes:
        smoothing: of soft Dice, in pixels.
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what soft Dice refuses."""
        SoftDice(self.smoothing)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses, (picture,)."""
        logarithms = F.log_softmax(_fine(logits), dim=1)
        entropies = F.nll_loss(logarithms, labels.long(), reduction="none")
        return SoftDice(self.smoothing).of_probabilities(logarithms.exp(), labels) + _of_pictures(entropies)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": Focal(),
    "ordinal": ordinal,
    "dice": SoftDice(),
    "dice_ce": DiceCE(),
}

LOSSES_FOR: dict[str, tuple[str, ...]] = {
    "classes": ("cross_entropy", "focal"),
    "grades": ("cross_entropy", "ordinal", "focal"),
    "masks": ("dice_ce", "dice", "cross_entropy", "focal"),
}
"""The losses that fit each target (`wardround.images.entries.Target`), the default first."""


def _fine(logits: Tensor) -> Tensor:
    """Logits in single precision at least."""
    if logits.shape[1] < 2:
        raise ModelError(
            f"a network must give at least two logits a picture or pixel, got {logits.shape[1]}. "
            "Give one a class: a finding that is there or not is two classes."
        )
    return logits if logits.dtype is torch.float64 else logits.float()


def _classes(logits: Tensor) -> Tensor:
    """The class indices 0, 1, ..., (1, class, 1, ...), with as many axes as the logits."""
    number = logits.shape[1]
    return torch.arange(number, device=logits.device).view(1, number, *[1] * (logits.ndim - 2))


def _of_pictures(values: Tensor) -> Tensor:
    """Values of pictures as they are; of pixels, the mean over each picture's own."""
    return values if values.ndim == 1 else values.flatten(1).mean(dim=1)
