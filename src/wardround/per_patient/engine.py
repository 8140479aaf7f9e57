"""One forward and one backward pass that give every patient's gradient or its norm.

The method is "book-keeping" (Bu, Wang, Zha, Karypis 2022, https://arxiv.org/abs/2210.00038). Autograd forms no weight
gradient; the backward pass of each use writes to a `Tape` what belongs to each patient.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.guards.draws import Unkeyed
from wardround.per_patient.layers.base import Fold, folded, same
from wardround.per_patient.layout import Layout
from wardround.per_patient.recorder import Recorder, Unruled
from wardround.per_patient.rules import FASTER, RULES
from wardround.per_patient.tape import Tape


@dataclass(frozen=True)
class Anatomy:
    """Findings about a network: which of its parts the engine has rules for.

    Attributes:
        whole: the network is left to `torch.func` as a whole.
        loop: not even `torch.func` can take it; one backward pass a picture.
        vmapped: modules run under `torch.func.vmap`, each by itself.
        bytes_per_picture: activations of one picture, summed over all functions.
        kept_per_picture: bytes of the gradients that are formed for each picture.
        numbers_spared: in the gradients that are not formed where a patient has several pictures either.
        draws: the network draws random numbers, which are keyed by picture.
    """

    whole: bool
    vmapped: tuple[nn.Module, ...]
    bytes_per_picture: int
    loop: bool = False
    kept_per_picture: int = 0
    numbers_spared: int = 0
    draws: bool = False


def take(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    batch: PatientBatch,
    anatomy: Anatomy,
    *,
    materialise: bool,
    sections: dict[str, int] | None = None,
) -> Tape | None:
    """Runs the forward and backward pass of one microbatch; returns a tape with every patient's norm.

    Returns None when the network reads a parameter, or draws numbers, in a way that has no rule and that it did not
    show when it was studied.
    """
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    single = bool((counts <= 1).all())
    identity = single and len(batch.patient) == batch.num_patients
    fold: Fold = same if identity else partial(folded, batch.patient, batch.num_patients)
    tape = Tape(
        batch.patient, batch.num_patients, fold,
        single=single, materialise=materialise, sections=sections,
    )  # fmt: skip
    recorder = Recorder(layout.parameters, len(batch.inputs), tape, RULES, FASTER)
    with torch.enable_grad():
        try:
            with recorder.vmapping(anatomy.vmapped), recorder:
                output = model(batch.inputs)
        except (Unruled, Unkeyed):
            return None
        losses = losses_of(loss, output, batch.labels, len(batch.inputs))
        if losses.requires_grad:
            torch.autograd.backward((losses / counts[batch.patient]).sum())
    tape.finish()
    return tape
