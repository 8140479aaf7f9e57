"""Gradients of several patients at once, none of which depends on another patient: batches of a fixed shape.

A kernel may add up in another order when a batch grows by one, or when a picture stands elsewhere in it. So here the
batch never grows and a picture never moves: every batch has the same number of slots, those that nobody takes hold
zeros, and the slot of a picture follows from the picture alone (a checksum of its stored bytes), not from its place in
the sample, which shifts when somebody before it is left out. Where two pictures have the same slot, the second waits
for the next batch. Which batch a picture is in follows from the others; what is computed for it does not.

Assumed: with the same shapes, memory layout and number of threads (one) a kernel does the same operations for one
element of a batch whatever the others hold. Layers that mix elements are refused before (`check_trainable`), and no
step here is chosen by what pictures hold: gradients are formed, not deferred. But a vectorised function may take
another branch for eight numbers at once when one of them is large (sines do). Hence `stays_apart`, which tries the very
shape on the machine that runs, with made-up weights and pictures, some of them huge, infinite or not numbers.

Dropout: every batch has a seed of its own, so all masks are independent of each other and of all pictures. Which masks
a patient gets follows from who else is there, how they are distributed does not: for every choice of the masks of all
patients the sum moves by one patient's row, and a mixture of such mechanisms over one distribution keeps the promise
(joint convexity).
"""

import copy
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.per_patient.anatomy import anatomy_of
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipped_sum import per_patient_gradients
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import one_thread

Ints = npt.NDArray[np.int64]

EMPTY = -1

_MOST, _FEWEST = 64, 8
_BATCH_BYTES = 4 << 20
"""Of activations and gradients of a batch; more leave the processor's cache, and are no faster than one at a time."""

_STRANGERS = (0.0, 1e3, -1e30, float("inf"), float("nan"))


@one_thread()
def slots_for(model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor) -> int:
    """Slots of a batch, a power of two; 0 where each gradient is to be computed alone.

    Args:
        model: as in `wardround.per_patient.clipped_sum.clipped_sum`; so is the loss.
        loss: of each picture.
        inputs: at least one encoded picture, for its shape only.
        labels: at least one label, likewise.

    Guarantee: public: what pictures hold is not looked at.

    Edge cases:
        a large network: 0, as its gradients take as long in common batches.
        a network that the engine has no rules for, one on an accelerator, one that fails `stays_apart`: 0.
    """
    layout = Layout.of(model)
    if layout.device.type != "cpu":
        return 0
    inputs, labels = torch.zeros_like(inputs[:1]), torch.zeros_like(labels[:1])
    anatomy = anatomy_of(model, layout, loss, inputs, labels)
    each = anatomy.bytes_per_picture + layout.size * layout.dtype.itemsize
    fit = min(_MOST, _BATCH_BYTES // each)
    if anatomy.whole or anatomy.alone or fit < _FEWEST:
        return 0
    count = 1 << (fit.bit_length() - 1)
    return count if stays_apart(model, loss, inputs, labels, count) else 0


def slot_of(picture: npt.NDArray[np.generic], count: int) -> int:
    """The slot of a picture, from its bytes alone."""
    return zlib.crc32(np.ascontiguousarray(picture).data) % count


def placed(slots: Ints, count: int) -> Iterator[Ints]:
    """Pictures by slot, (slot,), batch after batch; `EMPTY` where there is none.

    Args:
        slots: of each picture, (picture,).
        count: slots of a batch.
    """
    order = np.argsort(slots, kind="stable")
    taken = slots[order]
    before = np.arange(len(slots)) - np.searchsorted(taken, taken)
    batches = np.full((int(before.max(initial=-1)) + 1, count), EMPTY, dtype=np.int64)
    batches[before, taken] = order
    yield from batches


def in_slots(values: Tensor, batch: Ints) -> Tensor:
    """Values by slot, (slot, ...), zeros in empty ones; always in new memory, whose alignment is that of all.

    Args:
        values: of the pictures in this batch, in the order of their slots.
        batch: as `placed` gives it.
    """
    filled = torch.zeros(len(batch), *values.shape[1:], dtype=values.dtype)
    filled[torch.from_numpy(batch != EMPTY)] = values
    return filled


@one_thread()
def rows_of_slots(
    model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, *, memory_bytes: int, dropout_seed: int
) -> npt.NDArray[np.float32]:
    """The gradient of each slot's picture, (slot, parameter).

    Args:
        model: see `slots_for`; so is the loss.
        loss: of each picture.
        inputs: encoded, (slot, ...), of as many slots as at every other call.
        labels: (slot, ...).
        memory_bytes: as for `clipped_sum`.
        dropout_seed: of this batch, and of no other.

    Guarantee: none. A row depends on its picture, its slot and its masks, and on no other picture (see above).
    """
    count = len(inputs)
    batch = PatientBatch(inputs, labels, torch.arange(count), count)
    rows: npt.NDArray[np.float32] = per_patient_gradients(
        model, loss, batch, memory_bytes=memory_bytes, dropout_seed=dropout_seed
    ).numpy()
    return rows


def mean_of(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A patient's gradient: the mean over their pictures' rows, added up in their order in double precision."""
    if len(rows) == 1:
        only: npt.NDArray[np.float32] = rows[0]
        return only
    total = np.zeros(rows.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):
        for row in rows:
            total += row
        mean: npt.NDArray[np.float32] = (total / max(1, len(rows))).astype(rows.dtype)
    return mean


def stays_apart(model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, count: int) -> bool:
    """Whether no bit of a slot's row moved when other slots were filled with something else.

    Tried with made-up pictures and weights, as a head that starts at zero has nothing to tell. Nor have rows that are
    zero or not finite: a network that gives many of the first or one of the second is not taken.
    """
    generator = torch.Generator().manual_seed(count)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)

    def rows(pictures: Tensor) -> npt.NDArray[np.float32]:
        targets = labels.expand(count, *labels.shape[1:])
        return rows_of_slots(model, loss, pictures, targets, memory_bytes=1 << 30, dropout_seed=0)

    pictures = torch.randn(count, *inputs.shape[1:], generator=generator, dtype=inputs.dtype)
    known = rows(pictures)
    if not (np.isfinite(known).all() and known.any(axis=1).mean() >= 0.5):
        return False
    for stranger in _STRANGERS:
        for kept in (slice(0, None, 2), slice(1, None, 2)):
            among = torch.full_like(pictures, stranger)
            among[kept] = pictures[kept]
            if not np.array_equal(rows(among)[kept], known[kept]):
                return False
    return True
