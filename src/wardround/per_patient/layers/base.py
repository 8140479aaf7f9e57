"""What one use of trained parameters owes to each patient: the rules of the book-keeping engine.

In the forward pass every operation that reads a trained parameter becomes a `Use`. In the backward pass it gets
the gradient of its output, returns the gradient of its input, and answers three questions about the gradient
of its parameter: each patient's, (patient, *shape); the squared norm of each patient's without forming it (where
there is a cheaper way); and the sum over pictures with weights, in one product. Autograd itself never forms an
ordinary weight gradient.

Source: Bu, Wang, Zha, Karypis 2022 ("book-keeping"), https://arxiv.org/abs/2210.00038, sections 3.1 and 3.2; Gram
matrices of patches from shifted pixel Gram matrices, and convolutions of a whole batch folded into groups,
are ours to re-derive: the comments do so.

Conventions: the first axis of every input is the picture; `fold` sums rows of pictures into rows of patients.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Fold = Callable[[Tensor], Tensor]
"""Rows of pictures, (picture, ...), to rows of patients, (patient, ...)."""

SMALL_WEIGHT = 100_000
"""Weights up to this size are formed for each patient; larger ones go by Gram matrices where those are cheap."""
STORE_BYTES = 96 << 20
"""Per-patient gradients of one weight above this size are not kept: formed for their norm, and dropped."""

_BLOCK = 1024


def widened(values: Tensor) -> Tensor:
    """Half precisions as float32, the rest as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, whose products would round to eight bits what is counted on."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Room:
    """Memory for per-patient gradients that outlives a step, so that the next one need not ask for it again."""

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uninitialised memory for a parameter, (count, *shape); the same again when the name is."""
        known = self._rows.get(name)
        fits = known is not None and len(known) >= count and known.shape[1:] == tuple(shape)
        if known is None or not fits or (known.dtype, known.device) != (like.dtype, like.device):
            known = self._rows[name] = like.new_empty(count, *shape)
        return known[:count]


class Use:
    """One operation with trained parameters. Subclasses hold public settings; tensors come as arguments.

    Attributes:
        names: the parameters, in the order in which `per_patient` gives their gradients.
    """

    names: tuple[str, ...]

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The operation's output, and what the backward pass has to keep."""
        raise NotImplementedError

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs."""
        raise NotImplementedError

    def per_patient(
        self, g: Tensor, saved: Sequence[Tensor], fold: Fold, room: Room | None = None
    ) -> list[Tensor]:
        """Gradients of the parameters, each (patient, *shape); a large one in `room`, if there is one."""
        raise NotImplementedError

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """Whether `squared_norms` and then `add_weighted_sum` are cheaper than `per_patient`.

        `single`: no patient has two pictures in this batch.
        """
        del g, saved, single
        return False

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Squared norm of each picture's gradient of all parameters, and of the terms it was added up from.

        Both (picture,), in float64. Where the first is far smaller than the second, terms cancelled and rounding
        decides: such a picture's gradient has to be formed.
        """
        raise NotImplementedError

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Adds the gradients of the parameters over all pictures; weights are already multiplied into `g`."""
        raise NotImplementedError


def squared(rows: Tensor) -> Tensor:
    """Squared norm of each row, (row,), in float64.

    Single precision is left only inside blocks of 1,024 entries, whose rounding is below 2^-14: a long row of
    equal entries added up in single precision would come out too small, and be clipped too little.
    """
    flat = rows.reshape(len(rows), -1)
    whole = flat.shape[1] // _BLOCK * _BLOCK
    total = torch.linalg.vector_norm(flat[:, whole:], dim=1).to(torch.float64).square()
    if whole:
        blocks = torch.linalg.vector_norm(flat[:, :whole].reshape(len(flat), -1, _BLOCK), dim=2)
        total = total + blocks.to(torch.float64).square().sum(1)
    norms: Tensor = total
    return norms


def product(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, *, copies: int = 1) -> Tensor:
    """Product of two squared norms, not smaller than the true one where squares underflowed.

    A square that vanished was below the smallest normal number; `copies` is how often an entry of `columns` may
    have been squared.
    """
    tiny = torch.finfo(rows.dtype).tiny
    return (a + tiny * rows[0].numel()) * (b + tiny * columns[0].numel() * copies)


def products(a: Tensor, b: Tensor, name: str, shape: Sequence[int], fold: Fold, room: Room | None) -> Tensor:
    """Matrix products of each picture, as gradients of a parameter, (patient, *shape)."""
    if room is None:
        return fold(torch.bmm(a, b).view(len(a), *shape))
    rows = room.rows(name, len(a), shape, a)
    torch.bmm(a, b, out=rows.view(len(a), a.shape[1], b.shape[2]))
    return rows


def over_space(g: Tensor) -> Tensor:
    """(picture, channel, *space) -> (picture, channel)."""
    return g.flatten(2).sum(2) if g.ndim > 2 else g
