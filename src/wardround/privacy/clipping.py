"""The sum of per-patient gradients, each clipped: the one quantity that private training may noise.

A patient's gradient is the gradient of the mean loss over their pictures in the batch. It is one vector, so it
is clipped once, and a patient with thirty pictures weighs as much as a patient with one.

This module is the plain and right way, by functional transforms of one-picture gradients
(`torch.func.vmap` of `grad`). Engines that are faster stand behind the same two functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wardround.errors import PrivacyError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (picture, class), labels (picture,)) -> loss of each picture, (picture,); never reduced."""

# A product rounded in float32 may exceed the clipping norm by a few units in the last place; aiming this much
# below keeps the declared sensitivity an upper bound.
_SHAVE = 1.0 - 2.0**-20


@dataclass(frozen=True)
class PatientBatch:
    """Pictures of one step, and the patient each belongs to.

    Attributes:
        inputs: encoded pictures, (picture, *shape).
        labels: class indices, (picture,).
        patient: index of each picture's patient, (picture,), ascending, in [0, num_patients).
        num_patients: patients in the step; one without pictures contributes zero.
    """

    inputs: Tensor
    labels: Tensor
    patient: Tensor
    num_patients: int


@dataclass(frozen=True)
class ClippedSum:
    """A sum that knows how far one patient can move it.

    Attributes:
        vector: sum over patients of their clipped gradients, (parameter,), float64. Private until noised.
        sensitivity: L2 bound on the change of `vector` when one patient is added or removed.
    """

    vector: Tensor
    sensitivity: float


def clipped_sum(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    *,
    clipping_norm: float,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
) -> ClippedSum:
    """Sum of the per-patient gradients, each scaled to an L2 norm of at most `clipping_norm`.

    Args:
        model: maps inputs to logits; one picture's logits must not depend on the others in the batch
            (`check_trainable` refuses what does). Gradients follow `model.named_parameters()`, those that
            require a gradient, flattened in that order.
        loss: loss of each picture, unreduced.
        batch: the pictures of the sampled patients; may be empty.
        clipping_norm: L2 bound C > 0; infinity turns clipping off, and then the sensitivity is infinite.
        memory_bytes: memory for materialised gradients at one time; changes speed only.
        dropout_seed: seeds the dropout masks of this call, and nothing else.

    Guarantee:
        Relation: add or remove one patient with all their pictures. The sum moves by at most `clipping_norm`
        in L2 norm. Norms are taken in float64; a patient whose gradient is not finite contributes exactly
        zero, so the bound holds for NaN and infinities as well. Nothing here is noised: the result may not
        leave the hospital as it is.

    Edge cases:
        | case                     | result                                   |
        |--------------------------|------------------------------------------|
        | empty batch              | zeros, sensitivity `clipping_norm`       |
        | zero gradient            | contributes zero                         |
        | gradient not finite      | contributes zero                         |
        | clipping_norm = infinity | plain sum (non-finite patients left out) |

    Raises:
        PrivacyError: clipping_norm is not positive.
    """
    groups = torch.zeros(batch.num_patients, dtype=torch.int64)
    sums = clipped_sums_by_group(
        model, loss, batch, groups, 1,
        clipping_norm=clipping_norm, memory_bytes=memory_bytes, dropout_seed=dropout_seed,
    )  # fmt: skip
    return sums[0]


def clipped_sums_by_group(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    group: Tensor,
    num_groups: int,
    *,
    clipping_norm: float,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
) -> list[ClippedSum]:
    """`clipped_sum` of each group of patients, evaluated in common batches.

    Simulating many hospitals on one machine costs this way what one large hospital costs.

    Args:
        model: see `clipped_sum`; so are `loss`, `batch` and the keyword arguments.
        loss: as there.
        batch: the patients of all groups.
        group: group (hospital) of each patient, (num_patients,), in [0, num_groups).
        num_groups: how many sums are wanted; a group without patients gets zeros.
        clipping_norm: as there.
        memory_bytes: as there.
        dropout_seed: as there.

    Guarantee:
        That of `clipped_sum`, for each group: a patient moves the sum of their own group only.
    """
    if not clipping_norm > 0:
        raise PrivacyError(f"clipping_norm must be > 0, got {clipping_norm}.")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    size = sum(p.numel() for p in parameters.values())
    totals = torch.zeros(num_groups, size, dtype=torch.float64)
    for patients, gradients in _patient_gradients(model, loss, batch, memory_bytes, dropout_seed):
        norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64)
        kept = torch.isfinite(norms)
        # 0 * NaN is NaN: what is left out is replaced, gradient and scale, before anything is multiplied.
        scale = torch.where(kept, torch.clamp(clipping_norm * _SHAVE / norms, max=1.0), 0.0)
        gradients = torch.where(kept[:, None], gradients, 0.0)
        scale = scale.to(gradients.dtype)
        owners, sizes = torch.unique_consecutive(group[patients], return_counts=True)
        ends = torch.cumsum(sizes, 0).tolist()
        for owner, start, end in zip(owners.tolist(), [0, *ends], ends, strict=False):
            totals[owner] += scale[start:end] @ gradients[start:end]
    return [ClippedSum(vector, clipping_norm) for vector in totals]


def _patient_gradients(
    model: nn.Module, loss: Loss, batch: PatientBatch, memory_bytes: int, dropout_seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of (patient indices, their gradients (patient, parameter)), before clipping."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    size = sum(p.numel() for p in parameters.values())
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    ends = torch.cumsum(counts, 0).tolist()
    chunk = _chunk_pictures(size, parameters, memory_bytes)
    gradients_of = _picture_gradients(model, loss, parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dropout_seed)  # dropout draws from the global generator and from nowhere else
        for first, last in _patient_ranges(counts.tolist(), chunk):
            sums = torch.zeros(last - first, size, dtype=next(iter(parameters.values())).dtype)
            start, end = ends[first] - int(counts[first]), ends[last - 1]
            for at in range(start, end, chunk):
                piece = slice(at, min(at + chunk, end))
                picture_gradients = gradients_of(batch.inputs[piece], batch.labels[piece])
                sums.index_add_(0, batch.patient[piece] - first, picture_gradients)
            yield torch.arange(first, last), sums.div_(counts[first:last].clamp(min=1)[:, None])


def _picture_gradients(
    model: nn.Module, loss: Loss, parameters: dict[str, Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function from pictures to their gradients, (picture, parameter)."""

    def picture_loss(values: dict[str, Tensor], picture: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, values, (picture[None],)), label[None])[0]

    per_picture = vmap(grad(picture_loss), in_dims=(None, 0, 0), randomness="different")

    def gradients(inputs: Tensor, labels: Tensor) -> Tensor:
        parts = per_picture(parameters, inputs, labels)
        return torch.cat([parts[name].flatten(1) for name in parameters], dim=1)

    return gradients


def _patient_ranges(counts: list[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges [first, last) of patients with at most `chunk` pictures, or one larger patient."""
    first, pictures = 0, 0
    for index, count in enumerate(counts):
        if index > first and pictures + count > chunk:
            yield first, index
            first, pictures = index, 0
        pictures += count
    if first < len(counts):
        yield first, len(counts)


def _chunk_pictures(size: int, parameters: dict[str, Tensor], memory_bytes: int) -> int:
    """Pictures whose gradients fit: two copies of each gradient live at one time."""
    width = next(iter(parameters.values())).element_size()
    return max(1, min(64, memory_bytes // (2 * width * max(size, 1))))
