"""A hospital's patients in training: rows of pictures and labels, at most a fixed number each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.images.patients import ImageRef, Patient
from wardround.randomness import Indices, Names, names_of
from wardround.types import Labels

Rows = npt.NDArray[np.int64]
"""Positions in the picture cache, (picture,)."""


@dataclass(frozen=True)
class TrainingPatients:
    """Patients of one hospital, their pictures end to end: each one's row in the cache and its class, (picture,).

    `starts` is the position in `rows` of each patient's first picture, (patient + 1,). `names` are of the patients,
    (patient, 2): each draw for a patient is keyed by the name, and never by a row or a position, which shift
    when another patient is removed.
    """

    rows: Rows
    labels: Labels
    starts: npt.NDArray[np.int64]
    names: Names

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.starts) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Pictures of each patient, (patient,)."""
        return np.diff(self.starts)

    def pictures_of(self, patients: npt.NDArray[np.int64]) -> "Drawn":
        """Returns the pictures of some patients, in the order given."""
        counts = self.counts[patients]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self.starts[patients], counts) + offsets
        position = np.repeat(np.arange(len(patients)), counts)
        keys = self.keys[patients][position] + offsets.astype(np.uint64)
        return Drawn(self.rows[at], self.labels[at], torch.from_numpy(position), keys)

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """64 bits of each patient's name, (patient,), for generators that take a key of that length."""
        return self.names[:, 0]


@dataclass(frozen=True)
class Drawn:
    """Pictures of some patients, (picture,) each.

    Attributes:
        rows: in the cache.
        labels: their classes.
        patient: position of each picture's patient, 0, 1, ...
        keys: 64 bits that follow from the patient's name and the picture's number among the patient's own.
    """

    rows: Rows
    labels: Labels
    patient: Tensor
    keys: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Sample:
    """Some of a hospital's patients."""

    patients: TrainingPatients
    chosen: Indices


def training_patients(patients: Sequence[Patient], images_per_patient: int | None) -> TrainingPatients:
    """Returns patients with at most `images_per_patient` pictures each, spread evenly over their fixed order.

    Of a volume's slices this takes some from its whole length. The bound depends on the patient's own pictures
    alone, so it couples no two patients. None keeps all pictures, which is meant for test patients.
    """
    kept = [_spread(patient.images, images_per_patient) for patient in patients]
    return TrainingPatients(
        rows=np.array([image.row for images in kept for image in images], dtype=np.int64),
        labels=np.array([image.label for images in kept for image in images], dtype=np.int64),
        starts=np.cumsum([0] + [len(images) for images in kept]).astype(np.int64),
        names=names_of(patient.id for patient in patients),
    )


def united(parts: Sequence[TrainingPatients]) -> TrainingPatients:
    """Returns the patients of several hospitals, one hospital after the other."""
    return TrainingPatients(
        rows=np.concatenate([part.rows for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        starts=np.concatenate([[0], *(part.counts for part in parts)]).cumsum().astype(np.int64),
        names=np.concatenate([part.names for part in parts]),
    )


def _spread(images: tuple[ImageRef, ...], most: int | None) -> tuple[ImageRef, ...]:
    if most is None or len(images) <= most:
        return images
    return tuple(images[(2 * k + 1) * len(images) // (2 * most)] for k in range(most))
