"""Gradients of patients that are computed alone, from one patient's pictures, with no other patient in the batch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from wardround.per_patient.anatomy import Independence
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.isolated import isolated_gradient, patients_of
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import one_thread
from wardround.types import Vector

Patient = tuple[Tensor, Tensor, int]
"""Inputs, labels and key of one patient."""


def gradients_alone(
    batches: Iterator[tuple[PatientBatch, Any]],
    keys: Sequence[int],
    loss: Loss,
    at_once: int,
    each: Callable[[Callable[[nn.Module, Patient], Vector], Sequence[Patient]], Sequence[Vector]],
    *,
    memory_bytes: int,
    dropout_seed: int,
    independence: Independence,
) -> Iterator[Vector]:
    """Yields the gradient of each patient, (parameter,), `at_once` batches at a time; draws follow from the keys.

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
        with one_thread():
            some = [batch for batch, _ in islice(batches, at_once)]
        if not some:
            return
        yield from each(gradient, [(*of, next(key)) for batch in some for of in patients_of(batch)])
