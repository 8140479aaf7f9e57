"""A hospital's patients in training: rows of pictures and labels, at most a fixed number each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.images.patients import ImageRef, Patient
from wardround.types import Labels

Rows = npt.NDArray[np.int64]
"""Positions in the picture cache, (picture,)."""


@dataclass(frozen=True)
class TrainingPatients:
    """Patients of one hospital, their pictures end to end: each one's row in the cache and its class, (picture,).

    `starts` is the position in `rows` of each patient's first picture, (patient + 1,).
    """

    rows: Rows
    labels: Labels
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.starts) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Pictures of each patient, (patient,)."""
        return np.diff(self.starts)

    def pictures_of(self, patients: npt.NDArray[np.int64]) -> tuple[Rows, Labels, Tensor]:
        """Returns rows, labels and patient position (0, 1, ... in the order given) of some patients' pictures."""
        counts = self.counts[patients]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self.starts[patients], counts) + offsets
        return self.rows[at], self.labels[at], torch.from_numpy(np.repeat(np.arange(len(patients)), counts))


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
    )


def _spread(images: tuple[ImageRef, ...], most: int | None) -> tuple[ImageRef, ...]:
    if most is None or len(images) <= most:
        return images
    return tuple(images[(2 * k + 1) * len(images) // (2 * most)] for k in range(most))
