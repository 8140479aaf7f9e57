"""Isolated gradient of one patient: no other patient is in the batch.

A kernel may add up in another order when a batch grows by one. In common batches a patient who joins therefore changes
the last bits of every gradient, by an amount without a bound (a value next to zero may pass a ReLU or not). Sums on a
grid state their sensitivity in whole numbers, in which such bits count. An isolated gradient is a function of the
patient, the public weights and, with dropout, the seed of the step and a key of that patient. It does not change when
another patient joins.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wardround.per_patient.anatomy import Independence, anatomy_of
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.guards.draws import keys_of
from wardround.per_patient.guards.state import unchanged
from wardround.per_patient.layers.base import in_full_precision
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import in_single_precision, one_thread
from wardround.per_patient.slow_path import Unforeseen, gradient_in_parts


@one_thread()
@in_single_precision()
def isolated_gradient(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    *,
    memory_bytes: int = 1 << 30,
    dropout_seed: int | None = None,
    key: int | str = 0,
    independence: Independence = Independence.CHECKED,
) -> Tensor:
    """Returns the gradient of the mean loss over one patient's pictures, (parameter,); zero without pictures.

    Arguments are those of `wardround.per_patient.clipped_sum.clipped_sum`, with inputs and labels of one patient. All
    are public but the pictures and labels. The patient's draws follow from the seed of the step and the patient's key.

    Guarantee: none: the gradient is private. It depends on this patient only, bit for bit.
    """
    if len(inputs) == 0:
        return layout.flat([None] * len(layout.parameters))
    # Studied with zeros: the number of pictures at a time must not depend on a picture.
    public = torch.zeros_like(inputs[:1]), torch.zeros_like(labels[:1])
    anatomy = anatomy_of(model, layout, loss, *public, independence)
    at_once = 1 if anatomy.whole else max(1, memory_bytes // max(1, anatomy.bytes_per_picture))
    patient = PatientBatch(inputs, labels, torch.zeros(len(inputs), dtype=torch.int64), 1, keys=(key,))
    keys = keys_of(patient, dropout_seed)
    with unchanged(model), in_full_precision(inputs.device):  # a caller's autocast holds in its own thread only
        try:
            own = keys() if anatomy.draws else None
            return gradient_in_parts(model, layout, loss, patient, at_once, own)[0]
        except Unforeseen:
            return gradient_in_parts(model, layout, loss, patient, at_once, keys())[0]


def patients_of(batch: PatientBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields inputs and labels of each patient of a batch, in their order; empty ones without pictures."""
    counts = torch.bincount(batch.patient, minlength=batch.num_patients).tolist()
    yield from zip(torch.split(batch.inputs, counts), torch.split(batch.labels, counts), strict=True)
