"""Pictures of one step with the patient of each, and the loss of each picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output (picture, ...), labels (picture, ...)) -> loss of each picture, (picture,); never reduced."""


class NotPerPicture(ValueError):
    """Error of a loss that gives anything but one value for each picture."""


@dataclass(frozen=True)
class PatientBatch:
    """Pictures of one step, and the patient that each belongs to.

    Attributes:
        inputs: encoded pictures, (picture, *shape).
        labels: class indices, (picture,), or other labels that the loss takes, the picture first.
        patient: index of each picture's patient, (picture,), ascending, in [0, num_patients).
        num_patients: patients in the step; one without pictures contributes zero.
        keys: key of each patient, (num_patients,), in which no other patient has a say: an id, never a place in a
            list. Dropout masks and other draws of the network follow from it where a seed is given.
    """

    inputs: Tensor
    labels: Tensor
    patient: Tensor
    num_patients: int
    keys: Sequence[int | str] | None = None

    def on(self, device: torch.device) -> "PatientBatch":
        """Returns the batch on a device."""
        inputs, labels, patient = (each.to(device) for each in (self.inputs, self.labels, self.patient))
        return replace(self, inputs=inputs, labels=labels, patient=patient)

    def singles(self) -> "list[PatientBatch]":
        """Returns every picture in a batch of its own."""
        pairs = zip(self.inputs, self.labels, strict=True)
        return [PatientBatch(x[None], y[None], self.patient[:1] * 0, 1) for x, y in pairs]


def losses_of(loss: Loss, output: Tensor, labels: Tensor, count: int) -> Tensor:
    """Returns the loss of each picture, (picture,).

    Every call is checked. A mean over the batch would divide every gradient by the number of pictures, so that one
    patient who joins would move the gradients of all.

    Raises:
        NotPerPicture: another shape.
    """
    losses = loss(output, labels)
    if losses.shape != (count,):
        raise NotPerPicture(
            f"The loss must give one value for each picture, got shape {tuple(losses.shape)} for {count} "
            'pictures; reduce over pixels only (reduction="none").'
        )
    return losses
