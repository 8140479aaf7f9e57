"""Batches of whole patients, as a training step reads them: encoded, and varied if that is asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from wardround.models.network import Network
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.microbatches import patient_ranges
from wardround.training.augment.augmentation import Augmentation, Keys, views
from wardround.training.encodings import Lattice, encoded, is_arithmetic, strided
from wardround.training.patients import Rows, Sample
from wardround.types import Labels, Masks, Pictures

_KEPT_BYTES = 1 << 26
"""Inputs that are kept although the network does not ask for it, at most."""


@dataclass(frozen=True)
class Members:
    """Whole patients of a batch, before a picture is read.

    Attributes:
        rows: of pictures in the cache, (picture,), `keys` and classes (`labels`) likewise.
        patient: position of each picture's patient in the batch, (picture,).
        names: key of each patient, (patient,).
        group: sample (hospital) that each patient belongs to, (patient,).
    """

    rows: Rows
    keys: Keys
    labels: Labels
    patient: Tensor
    names: list[int]
    group: Tensor


@dataclass(frozen=True)
class Batching:
    """The reader of a workbench's pictures; its arguments are those of `Workbench`.

    Attributes:
        at_once: pictures of a batch, at most, unless one patient has more.
    """

    network: Network
    pixels: Pictures
    inputs: Tensor | None
    masks: Masks | None
    augmentation: Augmentation
    lattice: Lattice | None
    at_once: int

    def inputs_of(self, rows: Rows) -> Tensor:
        """Returns inputs of the trained part, (picture, ...): fixed, public, and of each picture alone."""
        kept = self._kept if self.inputs is None else self.inputs
        if kept is not None:
            return kept[torch.from_numpy(rows)]
        return self._encode(self.augmentation.centre(torch.from_numpy(self.pixels[rows]))[0])

    @cached_property
    def _kept(self) -> Tensor | None:
        """Inputs of a small set of pictures, (picture, ...), the same bits as anew; None of a large one."""
        if not len(self.pixels) or self.lattice is not None:
            return None
        if not self.augmentation.is_identity or not is_arithmetic(self.network):
            return None
        one = self._encode(torch.from_numpy(np.array(self.pixels[:1])))  # may be many times its pixels
        is_small = one.nbytes * len(self.pixels) <= _KEPT_BYTES
        return encoded(self.network, self.pixels) if is_small else None

    def batches(
        self, samples: Sequence[Sample], seed: int, at_once: int | None = None
    ) -> Iterator[tuple[PatientBatch, Tensor]]:
        """Yields batches of whole patients of all samples, with the sample (hospital) that each patient belongs to.

        A batch has one patient at least, and at most as many pictures as fit, or `at_once` where that is fewer.
        """
        for members in self.shared_out(samples, at_once):
            yield self.read(members, seed), members.group

    def shared_out(self, samples: Sequence[Sample], at_once: int | None = None) -> Iterator[Members]:
        """Yields the patients of each batch of `batches`."""
        most = self.at_once if at_once is None else min(at_once, self.at_once)
        drawn = [sample.patients.pictures_of(sample.chosen) for sample in samples]
        if not (names := [key for of in samples for key in of.patients.keys[of.chosen].tolist()]):
            return
        rows = np.concatenate([part.rows for part in drawn])
        keys = np.concatenate([part.keys for part in drawn])
        labels = np.concatenate([part.labels for part in drawn])
        group = torch.from_numpy(np.repeat(np.arange(len(samples)), [len(sample.chosen) for sample in samples]))
        counts = np.concatenate([sample.patients.counts[sample.chosen] for sample in samples]).tolist()
        patient = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        ends = [0, *accumulate(counts)]
        for first, last in patient_ranges(counts, most):
            of = slice(ends[first], ends[last])
            yield Members(
                rows[of], keys[of], labels[of], patient[of] - first, names[first:last], group[first:last]
            )

    def read(self, members: Members, seed: int) -> PatientBatch:
        """Returns the pictures of a batch; those that are varied follow from the seed and their own keys."""
        rows, keys, labels = members.rows, members.keys, torch.from_numpy(members.labels)
        batch = self._batch(rows, keys, labels, members.patient, len(members.names), seed)
        return replace(batch, keys=members.names)

    def _batch(
        self, rows: Rows, keys: Keys, labels: Tensor, patient: Tensor, num_patients: int, seed: int
    ) -> PatientBatch:
        """Returns some pictures and their targets, varied if that is asked for."""
        masks = None if self.masks is None else torch.from_numpy(self.masks[rows])
        if self.lattice is not None and masks is not None:
            targets = strided(masks[:, None], self.lattice.stride)[:, 0].long()
            return PatientBatch(self.lattice.inputs[torch.from_numpy(rows)], targets, patient, num_patients)
        if self.augmentation.is_identity:
            targets = labels if masks is None else masks.long()
            return PatientBatch(self.inputs_of(rows), targets, patient, num_patients)
        at, view = views(len(rows), self.augmentation.multiplicity)
        of = torch.from_numpy(at)
        pictures, masks = self.augmentation(
            torch.from_numpy(self.pixels[rows[at]]), None if masks is None else masks[of],
            keys=keys[at], seed=seed, view=view,
        )  # fmt: skip
        targets = labels[of] if masks is None else masks.long()
        return PatientBatch(self._encode(pictures), targets, patient[of], num_patients)

    @torch.no_grad()
    def _encode(self, pictures: Tensor) -> Tensor:
        return torch.as_tensor(self.network.encode(pictures))
