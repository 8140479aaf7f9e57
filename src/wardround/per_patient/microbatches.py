"""Microbatches: whole patients that fit into memory, computed by the engine or, without rules, on the slow path."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from wardround.per_patient.anatomy import Independence, anatomy_of, distrusted, now_known
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.engine import Anatomy, take
from wardround.per_patient.guards.draws import PictureKeys, Unkeyed, drawing
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import outside_the_heap
from wardround.per_patient.slow_path import Unforeseen, gradient_in_parts, slow_gradients
from wardround.per_patient.tape import Tape


@dataclass(frozen=True)
class Microbatch:
    """Some whole patients and their gradients.

    Attributes:
        patient: patient of each picture within the microbatch, (picture,).
        tape: result of the engine, or None.
        gradients: or each patient's gradient, (patient, parameter); neither where they have no pictures.
    """

    patients: slice
    patient: Tensor
    tape: Tape | None = None
    gradients: Tensor | None = None


class Examine(Protocol):
    """Check of the engine's results against the same patients alone."""

    def is_due(self, part: PatientBatch) -> bool:
        """Returns whether the result of these pictures is to be checked."""

    def __call__(self, found: Microbatch, part: PatientBatch, keys: PictureKeys | None, anatomy: Anatomy) -> bool:
        """Returns whether the same patients alone give the same."""


def microbatches(
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    batch: PatientBatch,
    keys: Callable[[], list[bytes]],
    memory_bytes: int,
    *,
    sections: dict[str, int] | None = None,
    materialise: bool = False,
    independence: Independence = Independence.CHECKED,
    examine: Examine | None = None,
) -> Iterator[Microbatch]:
    """Yields whole patients in their order, as many as fit; hold none of them while the next one is computed.

    Norms are taken of each section apart, or of all; `materialise` forms every gradient and takes no norms.
    `memory_bytes` are for activations and per-patient gradients at one time. `keys` are the pictures' own, for draws.
    A microbatch that does not pass `examine` is computed anew, each picture by itself, and so are all that follow. One
    that is checked, the first of a network among them, is computed outside of the C library's heap, as its check is:
    the two together then need less memory.
    """
    if len(batch.inputs) == 0:
        yield Microbatch(slice(0, batch.num_patients), batch.patient)
        return
    inputs, labels = _plain(batch.inputs), _plain(batch.labels)
    anatomy = anatomy_of(model, layout, loss, inputs, labels, independence)
    patient = batch.patient.to(inputs.device)
    counts = torch.bincount(patient, minlength=batch.num_patients)
    ends = torch.cumsum(counts, 0).tolist()
    single = not bool((counts > 1).any())
    chunk = _pictures_at_once(anatomy, layout, memory_bytes, materialise=materialise, single=single)

    def computed(part: PatientBatch, members: slice, own: PictureKeys | None, *, is_due: bool) -> Microbatch:
        nonlocal anatomy
        if part.num_patients == 1 and len(part.inputs) > chunk:
            formed = gradient_in_parts(model, layout, loss, part, 1 if anatomy.whole else chunk, own)
            return Microbatch(members, part.patient, gradients=formed)
        if not anatomy.whole:
            with outside_the_heap() if is_due else nullcontext(), drawing(own, layout.device) as watched:
                tape = take(model, layout, loss, part, anatomy, sections=sections, materialise=materialise)
            if watched.unforeseen:
                raise Unforeseen
            if tape is not None:
                found = Microbatch(members, part.patient, tape=tape)
                if examine is None or not is_due or examine(found, part, own, anatomy):
                    return found
            why = (
                "it does something new at this size"
                if tape is None
                else "one picture's gradient depends on others"
            )
            anatomy = distrusted(model, anatomy, why)
        return Microbatch(members, part.patient, gradients=_slow(model, layout, loss, part, own, anatomy))

    def with_keys(part: PatientBatch, members: slice, pictures: slice) -> Microbatch:
        nonlocal anatomy
        is_due = examine is not None and not anatomy.whole and examine.is_due(part)
        try:
            return computed(part, members, keys()[pictures] if anatomy.draws else None, is_due=is_due)
        except Unforeseen:
            anatomy = now_known(model, anatomy, replace(anatomy, draws=True))
        return computed(part, members, keys()[pictures], is_due=is_due)

    for first, last in patient_ranges(counts.tolist(), chunk):
        start, end = ends[first] - int(counts[first]), ends[last - 1]
        pictures, members = slice(start, end), slice(first, last)
        part = PatientBatch(inputs[pictures], labels[pictures], patient[pictures] - first, last - first)
        yield Microbatch(members, part.patient) if end == start else with_keys(part, members, pictures)


def _slow(
    model: nn.Module, layout: Layout, loss: Loss, part: PatientBatch, keys: PictureKeys | None, anatomy: Anatomy
) -> Tensor:
    try:
        return slow_gradients(model, layout, loss, part, keys, loop=anatomy.loop)
    except Unkeyed:
        return slow_gradients(model, layout, loss, part, keys, loop=True)


def _plain(values: Tensor) -> Tensor:
    """Returns a loader's tensor subclass, which brings its own functions, as a plain tensor."""
    if values.is_inference():
        values = values.clone()  # one that autograd can save
    if type(values) is Tensor:
        return values
    with torch._C.DisableTorchFunctionSubclass():
        return values.as_subclass(Tensor)


def _pictures_at_once(
    anatomy: Anatomy, layout: Layout, memory_bytes: int, *, materialise: bool, single: bool
) -> int:
    """Returns how many pictures fit: their activations and kept gradients; or their gradients twice.

    Where a patient has several pictures few layers take ghost norms: of the others each picture's gradient is formed,
    and the patient's beside it.
    """
    gradient_bytes = layout.size * layout.dtype.itemsize
    if anatomy.whole:
        each, most = 2 * gradient_bytes, 64
    else:
        kept = gradient_bytes if materialise else anatomy.kept_per_picture
        if not single:
            kept = 2 * (gradient_bytes - (not materialise) * anatomy.numbers_spared * layout.dtype.itemsize)
        each, most = anatomy.bytes_per_picture + kept, 256
    return max(1, min(most, memory_bytes // max(1, each)))


def patient_ranges(counts: list[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Yields consecutive ranges [first, last) of patients with at most `chunk` pictures, or one larger patient."""
    first, pictures = 0, 0
    for index, count in enumerate(counts):
        if index > first and pictures + count > chunk:
            yield first, index
            first, pictures = index, 0
        pictures += count
    if first < len(counts):
        yield first, len(counts)
