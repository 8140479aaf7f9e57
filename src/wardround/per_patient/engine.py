"""One forward and one backward pass for every patient's gradient (book-keeping)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.layers import Fold, Room
from wardround.per_patient.layout import Layout
from wardround.per_patient.recorder import Recorder, Unruled
from wardround.per_patient.rules import RULES
from wardround.per_patient.tape import Tape


@dataclass(frozen=True)
class Anatomy:
    """What the engine knows of a network.

    Attributes:
        whole: the network is left to `torch.func` as a whole.
        loop: not even `torch.func` can take it; one backward pass a picture.
        alone: modules run under `torch.func.vmap`, each by itself.
        bytes_per_picture: activations of one picture, summed over all functions.
        kept_per_picture: bytes of the gradients that are formed for each picture.
    """

    whole: bool
    alone: tuple[nn.Module, ...]
    bytes_per_picture: int
    loop: bool = False
    kept_per_picture: int = 0


def take(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    batch: PatientBatch,
    anatomy: Anatomy,
    *,
    materialise: bool,
    sections: dict[str, int] | None = None,
    room: Room | None = None,
) -> Tape | None:
    """Forward and backward pass of one batch; the tape has every patient's norm afterwards.

    None when the network did something that no rule knows, and had not done it when it was studied.
    """
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    single = bool((counts <= 1).all())
    identity = single and len(batch.patient) == batch.num_patients
    fold: Fold = same if identity else _Folded(batch.patient, batch.num_patients)
    room = room if identity else None
    tape = Tape(
        batch.num_patients, fold, batch.inputs.device,
        single=single, materialise=materialise, sections=sections, room=room,
    )  # fmt: skip
    recorder = Recorder(layout.parameters, len(batch.inputs), tape, RULES)
    with torch.enable_grad():
        try:
            with recorder.alone(anatomy.alone), recorder:
                output = model(batch.inputs)
        except Unruled:
            return None
        losses = losses_of(loss, output, batch.labels, len(batch.inputs))
        if losses.requires_grad:
            torch.autograd.backward((losses / counts[batch.patient]).sum())
    tape.finish()
    return tape


def same(rows: Tensor) -> Tensor:
    """Rows as they are: every patient has one picture."""
    return rows


class _Folded:
    """Adds the rows of each patient's pictures."""

    def __init__(self, patient: Tensor, num_patients: int) -> None:
        self._patient, self._num_patients = patient, num_patients

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(self._num_patients, *rows.shape[1:]).index_add_(0, self._patient, rows)
