"""Use of trained parameters: the operations that the book-keeping engine asks of every family of layers.

In the forward pass every operation that reads a trained parameter becomes a `Use`, but for group norms, whose kernel
takes a scale of each picture's own (`norms.group_norm_of_each`). In the backward pass a use gets the gradient of its
output and returns the gradient of its input. Of its parameters it can give: each patient's gradient, (patient, *shape);
the ghost norm, a squared norm without forming the gradient (Li et al. 2022, https://arxiv.org/abs/2110.05679), where
that is cheaper; and the weighted sum over pictures, in one product. Autograd never forms an ordinary weight gradient.

Source: Bu, Wang, Zha, Karypis 2022 ("book-keeping"), https://arxiv.org/abs/2210.00038, sections 3.1 and 3.2; Two steps
have no source and are derived in comments: Gram matrices of patches from shifted pixel Gram matrices, and convolutions
of a whole batch folded into groups.

Conventions: the first axis of every input is the picture; `fold` sums per-picture values over a patient's pictures.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

Fold = Callable[[Tensor], Tensor]
"""Sums values of pictures, (picture, ...), over each patient's pictures, (patient, ...)."""

SMALL_WEIGHT = 100_000
"""Gradients of weights up to this size are formed; larger ones take ghost norms where Gram matrices are cheap."""
LARGE_WEIGHT = 1 << 22
"""Weights from this size on take ghost norms of patients with several pictures too, where their layer has a rule."""
STORE_BYTES = 96 << 20
"""Per-patient gradients of one weight above this size are not kept: formed for their norm, then dropped."""

_BLOCK = 1024


def same(values: Tensor) -> Tensor:
    """Returns per-picture values as they are: every patient has one picture."""
    return values


def folded(patient: Tensor, num_patients: int, values: Tensor) -> Tensor:
    """Returns the sum of per-picture values over each patient's pictures, (patient, ...)."""
    return values.new_zeros(num_patients, *values.shape[1:]).index_add_(0, patient, values)


def widened(values: Tensor) -> Tensor:
    """Returns half precision as float32, other types unchanged."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off: its products round norms and sums to eight bits."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Use:
    """One operation with trained parameters. Subclasses hold public settings; tensors come as arguments.

    Attributes:
        names: the parameters, in the order in which `per_patient` gives their gradients.
    """

    names: tuple[str, ...]

    def run(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the output of the operation, and the tensors that the backward pass needs."""
        raise NotImplementedError

    def input_gradients(self, g: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the inputs."""
        raise NotImplementedError

    def per_patient(self, g: Tensor, saved: Sequence[Tensor], fold: Fold) -> list[Tensor]:
        """Returns the gradients of the parameters, each (patient, *shape)."""
        raise NotImplementedError

    def prefers_norms(self, g: Tensor, saved: Sequence[Tensor], *, single: bool) -> bool:
        """Returns whether `squared_norms` and then `add_weighted_sum` are cheaper than `per_patient`.

        `single`: no patient has two pictures in this batch.
        """
        return False

    def squared_norms(self, g: Tensor, saved: Sequence[Tensor], patient: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the squared ghost norm of each picture's gradient, and the squared norm of its terms.

        Both (picture,), in float64. Where the first is far smaller than the second, terms cancelled and rounding
        decides: such a gradient has to be formed. `patient` is given where one has several pictures: then the sums
        over a patient's pictures are the patient's.
        """
        raise NotImplementedError

    def add_weighted_sum(self, g: Tensor, saved: Sequence[Tensor], into: Sequence[Tensor]) -> None:
        """Adds the gradients of the parameters over all pictures; weights are already multiplied into `g`."""
        raise NotImplementedError


@dataclass
class Weighted(Use):
    """Use of one parameter, and perhaps a second one; a norm without a scale has None."""

    names: tuple[str, ...]
    weight: Tensor


def in_blocks(rows: Tensor) -> list[Tensor]:
    """Returns the norms of blocks of 1,024 entries of each matrix row, (row, block) each; the last may be shorter.

    Single precision is kept only inside blocks, whose rounding is below 2^-14. A long row of equal entries added up in
    single precision would come out too small, and be clipped too little.
    """
    flat = rows.reshape(rows.shape[0], -1)
    width = flat.shape[1]
    rest = width % _BLOCK
    if rest == width:
        return [torch.linalg.vector_norm(flat, dim=1, keepdim=True)]
    whole = flat[:, : width - rest] if rest else flat
    blocks = [torch.linalg.vector_norm(whole.reshape(flat.shape[0], -1, _BLOCK), dim=2)]
    return [*blocks, torch.linalg.vector_norm(flat[:, width - rest :], dim=1, keepdim=True)] if rest else blocks


def squares_of(blocks: list[Tensor]) -> Tensor:
    """Returns the squared norm of each row, (row,), in float64, from the norms of its blocks, (row, block) each."""
    joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    return joined.to(torch.float64).square().sum(1)


def squared(rows: Tensor) -> Tensor:
    """Returns the squared norm of each matrix row, (row,), in float64: of single precision only inside `in_blocks`."""
    return squares_of(in_blocks(rows))


def product(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor, *, copies: int = 1) -> Tensor:
    """Returns the product of two squared norms, not smaller than the true one where squares underflowed.

    A square that vanished was below the smallest normal number; `copies` is how often an entry of `columns` may
    have been squared.
    """
    tiny = torch.finfo(rows.dtype).tiny
    return (a + tiny * rows[0].numel()) * (b + tiny * columns[0].numel() * copies)


def over_space(g: Tensor) -> Tensor:
    """Returns the sum over space: (picture, channel, *space) to (picture, channel)."""
    return g.flatten(2).sum(2) if g.ndim > 2 else g
