"""Losses, one number a picture; nothing here is averaged.

A loss that averages over the batch divides every picture's gradient by the batch size before it can be
clipped. The clipping norm then silently means something else for every batch, and the realised batch
size, which depends on who was sampled, leaks into the update. So a loss returns one number a picture; the
private step means over one patient's pictures, clips, sums over patients and divides by a public constant.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (picture, class) and labels (picture,) to losses (picture,)."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Minus the logarithm of the probability given to the right class, for each picture.

    Args:
        logits: (picture, class).
        labels: class indices, (picture,), int64.

    Returns:
        Losses in nats, (picture,). No picture in, no loss out.
    """
    return F.cross_entropy(logits, labels, reduction="none")


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}
