"""Batches of a fixed shape: gradients of several pictures at once, none of which depends on another patient.

A kernel may add up in another order when a batch grows by one, or when a picture moves within the batch. Here a batch
never grows and a picture never moves. Every batch has the same number of slots, and empty slots hold zeros. The slot of
a picture follows from its patient's name and its number among the patient's own, not from its position in the sample,
which shifts when a patient before it is left out. Where two pictures have the same slot, the second waits for the next
batch. The batch of a picture depends on the other pictures; the gradient of the picture does not.

Assumption: with equal shapes, memory layout and number of threads (one), a kernel does the same operations for one
element of a batch for any values of the others. Layers that mix elements are refused before (`check_trainable`), and
no step here depends on pixel values: gradients are formed, not deferred. A vectorised function may still take another
branch for eight numbers at once when one of them is large (sine does). `stays_apart` therefore tests the exact shape on
the machine that runs, with made-up weights and pictures, some of them huge, infinite or not numbers.

Dropout: the masks of a picture follow from the seed of the step and the key of the picture, and do not change when
another patient joins.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.per_patient.anatomy import anatomy_of
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipped_sum import per_patient_gradients
from wardround.per_patient.layers.base import in_full_precision
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import in_single_precision, one_thread

Ints = npt.NDArray[np.int64]

EMPTY = -1

_MOST, _FEWEST = 32, 8
_BATCH_BYTES = 8 << 20
"""Activations and gradients of a batch; larger ones leave the cache, and are no faster than one picture at a time."""

_STRANGERS = (0.0, 1e3, -1e30, float("inf"), float("nan"))


@one_thread()
def slots_for(model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor) -> int:
    """Returns the number of slots of a batch, a power of two; 0 where gradients are to be isolated.

    Model and loss are as in `wardround.per_patient.clipped_sum.clipped_sum`; of inputs and labels the shape is read.

    Guarantee: public: pixel values are not read.

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
    if anatomy.whole or anatomy.vmapped or fit < _FEWEST:
        return 0
    count = 1 << (fit.bit_length() - 1)
    return count if stays_apart(model, loss, inputs, labels, count) else 0


def slots_of(keys: npt.NDArray[np.uint64], count: int) -> Ints:
    """Returns the slot of each picture, from its key, (picture,): a patient's pictures have one after the other."""
    return (keys % np.uint64(count)).astype(np.int64)


def placed(slots: Ints, count: int) -> Iterator[Ints]:
    """Yields the pictures of each batch by slot, (slot,), from the slot of each picture; `EMPTY` in empty slots."""
    order = np.argsort(slots, kind="stable")
    taken = slots[order]
    before = np.arange(len(slots)) - np.searchsorted(taken, taken)
    batches = np.full((int(before.max(initial=-1)) + 1, count), EMPTY, dtype=np.int64)
    batches[before, taken] = order
    yield from batches


def in_slots(values: Tensor, batch: Ints) -> Tensor:
    """Returns values by slot, (slot, ...), zeros in empty ones, in new memory, so that the alignment is always equal.

    The values are of the pictures in a batch of `placed`, in the order of their slots.
    """
    filled = torch.zeros(len(batch), *values.shape[1:], dtype=values.dtype)
    filled[torch.from_numpy(batch != EMPTY)] = values
    return filled


@one_thread()
@in_single_precision()
def gradients_of_slots(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    keys: Sequence[int | str],
    *,
    memory_bytes: int,
    dropout_seed: int,
) -> npt.NDArray[np.float32]:
    """Returns the gradient of each slot's picture, (slot, parameter).

    Inputs and labels are (slot, ...), of as many slots as at every other call. Draws follow from the seed of the step
    and the key of each slot's picture.

    Guarantee: none. A gradient depends on its picture, its slot and its masks, and on no other picture (see above).
    """
    batch = PatientBatch(inputs, labels, torch.arange(len(inputs)), len(inputs), keys)
    with in_full_precision(inputs.device):  # a caller's autocast holds in its own thread only
        found = per_patient_gradients(model, loss, batch, memory_bytes=memory_bytes, dropout_seed=dropout_seed)
    return np.asarray(found.numpy())


def mean_of(gradients: Sequence[npt.NDArray[np.float32]], size: int) -> npt.NDArray[np.float32]:
    """Returns a patient's gradient, (size,): the mean over their pictures', added up in order in float64."""
    if len(gradients) < 2:
        return gradients[0] if gradients else np.zeros(size, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        total = gradients[0].astype(np.float64)
        for gradient in gradients[1:]:
            total += gradient
        total /= len(gradients)
        return total.astype(np.float32)


def stays_apart(model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, count: int) -> bool:
    """Returns whether no bit of a slot's gradient changed when other slots were filled with something else.

    Tested with made-up pictures and weights, because a head that starts at zero would pass untested. Gradients that are
    zero or not finite test nothing: a network that gives many of the first or one of the second is refused.
    """
    generator = torch.Generator().manual_seed(count)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)

    def gradients(pictures: Tensor) -> npt.NDArray[np.float32]:
        targets = labels.expand(count, *labels.shape[1:])
        return gradients_of_slots(
            model, loss, pictures, targets, range(count), memory_bytes=1 << 30, dropout_seed=0
        )

    pictures = torch.randn(count, *inputs.shape[1:], generator=generator, dtype=inputs.dtype)
    known = gradients(pictures)
    if not (np.isfinite(known).all() and known.any(axis=1).mean() >= 0.5):
        return False
    for stranger in _STRANGERS:
        for kept in (slice(0, None, 2), slice(1, None, 2)):
            among = torch.full_like(pictures, stranger)
            among[kept] = pictures[kept]
            if not np.array_equal(gradients(among)[kept], known[kept]):
                return False
    return True
