"""Gradients of patients that are computed alone, from one patient's pictures, with no other patient in the batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from wardround.per_patient.anatomy import Independence
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.isolated import isolated_gradient, patients_of
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import one_thread
from wardround.training.slotted import ROW_BYTES
from wardround.types import Vector

Patient = tuple[Tensor, Tensor, int]
"""Inputs, labels and key of one patient."""


def gradients_alone(
    batches: Iterator[tuple[PatientBatch, Any]],
    keys: Sequence[int],
    size: int,
    loss: Loss,
    cores: int,
    each: Callable[[Callable[[nn.Module, Patient], Vector], Sequence[Patient]], Sequence[Vector]],
    *,
    memory_bytes: int,
    dropout_seed: int,
    independence: Independence,
) -> Iterator[Vector]:
    """Yields the gradient of each patient, (parameter,); draws follow from the keys.

    Some batches are in memory at a time: one for each core, and more while inputs and gradients take `ROW_BYTES`.

    `each` calls a function with the network, or a copy of it, and each patient. Other arguments are those of
    `wardround.per_patient.isolated.isolated_gradient`.

    Guarantee: none. Other patients do not change a bit of a gradient.
    """

    def gradient(trained: nn.Module, patient: Patient) -> Vector:
        inputs, labels, key = patient
        return isolated_gradient(
            trained, Layout.of(trained), loss, inputs, labels, memory_bytes=memory_bytes, dropout_seed=dropout_seed,
            key=key, independence=independence,
        ).cpu().numpy()  # fmt: skip

    key = iter(keys)
    while True:
        some: list[PatientBatch] = []
        held = 0
        with one_thread():
            for batch, _ in batches:
                some.append(batch)
                held += batch.inputs.nbytes + 4 * size * batch.num_patients
                if len(some) >= cores and held >= ROW_BYTES:
                    break
        if not some:
            return
        yield from each(gradient, [(*of, next(key)) for batch in some for of in patients_of(batch)])
