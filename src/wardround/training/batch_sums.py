"""Gradient sums of one batch, for each hospital that has patients in it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wardround.per_patient.anatomy import Independence
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipped_sum import clipped_sums_by_group
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.guards.draws import keys_of
from wardround.per_patient.layout import Layout
from wardround.per_patient.slow_path import plain_sum
from wardround.training.device import mixed_precision
from wardround.training.losses import weighted
from wardround.types import Vector

BatchSum = tuple[int, Vector, int]
"""Place of a hospital, the sum of its patients in a batch, (parameter,), and how many were within the clip."""


@dataclass(frozen=True)
class Step:
    """A sum's public part; attributes are the arguments of `Workbench.gradient_sums`."""

    weights: Vector
    clipping_norm: float
    dropout_seed: int
    rule: Clipping | None
    class_weights: tuple[float, ...] | None


@dataclass(frozen=True)
class BatchSums:
    """Sums of batches; attributes are the arguments of `Workbench`, and the layout of the trained part.

    Guarantee:
        That of `clipped_sums_by_group`, for each hospital. Not noised: nothing of it may leave as it is.
    """

    trained: nn.Module
    loss: Loss
    memory_bytes: int
    independence: Independence
    device: torch.device
    layout: Layout

    def of(self, step: Step, batch: PatientBatch, group: Tensor) -> list[BatchSum]:
        """Returns the sum of each hospital's patients, at the weights of the trained part, in training mode.

        `group` is the hospital of each patient, (patient,), ascending.
        """
        loss = self.loss if step.class_weights is None else weighted(self.loss, step.class_weights)
        if math.isinf(step.clipping_norm):
            return list(self._plain(loss, batch, group, step.dropout_seed))
        present, local = torch.unique(group, return_inverse=True)
        with mixed_precision(self.device):
            sums = clipped_sums_by_group(
                self.trained, loss, batch.on(self.device), local, len(present),
                clipping_norm=step.clipping_norm, clipping=step.rule, memory_bytes=self.memory_bytes,
                dropout_seed=step.dropout_seed, independence=self.independence,
            )  # fmt: skip
        return [(at, own.vector.cpu().numpy(), own.within) for at, own in zip(present.tolist(), sums, strict=True)]

    def _plain(self, loss: Loss, batch: PatientBatch, group: Tensor, dropout_seed: int) -> Iterator[BatchSum]:
        """Yields each hospital's unclipped gradient sum: one ordinary backward pass a hospital."""
        owners, sizes = torch.unique_consecutive(group[batch.patient], return_counts=True)
        first = 0
        for hospital, size in zip(owners.tolist(), sizes.tolist(), strict=True):
            at, first = slice(first, first + size), first + size
            inputs = batch.inputs  # kernels round by where a tensor begins in memory, so a part is copied
            inputs = inputs if size == len(inputs) else inputs[at].clone()
            mine = replace(batch, inputs=inputs, labels=batch.labels[at], patient=batch.patient[at])
            with mixed_precision(self.device):
                keys = keys_of(mine, dropout_seed)
                found = plain_sum(self.trained, self.layout, loss, mine.on(self.device), keys)
            yield hospital, found.cpu().numpy(), 0
