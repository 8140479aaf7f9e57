"""The sum of per-patient gradients, each clipped: the one quantity that private training may noise.

A patient's gradient is the gradient of the mean loss over their pictures in the batch. It is one vector, so it
is clipped once, and a patient with thirty pictures weighs as much as a patient with one.

One forward and one backward pass give every patient's gradient norm and the clipped sum (`engine`); what the
engine has no rule for is computed by `torch.func`, exact and slower, and said once by name (`SlowPath`).

Sensitivity in finite precision: norms and sums of a float32 network carry float32 rounding. Where a gradient is
formed, what is clipped is what is added, and only the last product rounds. Where its norm is taken without forming
it, cancellation is watched and kept so small that norm and sum agree to a few parts in 2^13. The clip aims
2^-12 of itself below the clipping norm, which is more than both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.errors import PrivacyError
from wardround.privacy.engine import Anatomy, Batch, Loss, anatomy_of, distrusted, functional_rows, take
from wardround.privacy.watch import Tape

_SHAVE = 1.0 - 2.0**-12


@dataclass(frozen=True)
class PatientBatch:
    """Pictures of one step, and the patient each belongs to.

    Attributes:
        inputs: encoded pictures, (picture, *shape).
        labels: class indices, (picture,).
        patient: index of each picture's patient, (picture,), ascending, in [0, num_patients).
        num_patients: patients in the step; one without pictures contributes zero.
    """

    inputs: Tensor
    labels: Tensor
    patient: Tensor
    num_patients: int


@dataclass(frozen=True)
class ClippedSum:
    """A sum that knows how far one patient can move it.

    Attributes:
        vector: sum over patients of their clipped gradients, (parameter,): in the network's precision where they
            fitted into one piece, else in float64. Private until noised.
        sensitivity: L2 bound on the change of `vector` when one patient is added or removed.
    """

    vector: Tensor
    sensitivity: float


def clipped_sum(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    *,
    clipping_norm: float,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
) -> ClippedSum:
    """Sum of the per-patient gradients, each scaled to an L2 norm of at most `clipping_norm`.

    Args:
        model: maps inputs to logits; one picture's logits must not depend on the others in the batch
            (`check_trainable` refuses what does). Gradients follow `model.named_parameters()`, those that
            require a gradient, flattened in that order.
        loss: loss of each picture, unreduced.
        batch: the pictures of the sampled patients; may be empty.
        clipping_norm: L2 bound C > 0; infinity turns clipping off, and then the sensitivity is infinite.
        memory_bytes: memory for materialised gradients at one time; changes speed only.
        dropout_seed: seeds the dropout masks of this call, and nothing else.

    Guarantee:
        Relation: add or remove one patient with all their pictures. The sum moves by at most `clipping_norm`
        in L2 norm. Norms are taken in float64; a patient whose gradient is not finite contributes exactly
        zero, so the bound holds for NaN and infinities as well. Nothing here is noised: the result may not
        leave the hospital as it is.

    Edge cases:
        | case                     | result                                   |
        |--------------------------|------------------------------------------|
        | empty batch              | zeros, sensitivity `clipping_norm`       |
        | zero gradient            | contributes zero                         |
        | gradient not finite      | contributes zero                         |
        | clipping_norm = infinity | plain sum (non-finite patients left out) |

    Raises:
        PrivacyError: clipping_norm is not positive.
    """
    groups = torch.zeros(batch.num_patients, dtype=torch.int64)
    sums = clipped_sums_by_group(
        model, loss, batch, groups, 1,
        clipping_norm=clipping_norm, memory_bytes=memory_bytes, dropout_seed=dropout_seed,
    )  # fmt: skip
    return sums[0]


def clipped_sums_by_group(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    group: Tensor,
    num_groups: int,
    *,
    clipping_norm: float,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
) -> list[ClippedSum]:
    """`clipped_sum` of each group of patients, evaluated in common batches.

    Simulating many hospitals on one machine costs this way what one large hospital costs.

    Args:
        model: see `clipped_sum`; so are `loss`, `batch` and the keyword arguments.
        loss: as there.
        batch: the patients of all groups.
        group: group (hospital) of each patient, (num_patients,), in [0, num_groups).
        num_groups: how many sums are wanted; a group without patients gets zeros.
        clipping_norm: as there.
        memory_bytes: as there.
        dropout_seed: as there.

    Guarantee:
        That of `clipped_sum`, for each group: a patient moves the sum of their own group only.
    """
    if not clipping_norm > 0:
        raise PrivacyError(f"clipping_norm must be > 0, got {clipping_norm}.")
    layout = _layout(model)
    totals: Tensor | None = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(dropout_seed)  # dropout draws from the global generator and from nowhere else
        for patients, piece in _pieces(model, loss, batch, memory_bytes):
            owner = group[patients]
            part = torch.zeros(num_groups, _size(layout), dtype=_dtype(model))
            if isinstance(piece, Tensor):
                _add_rows(part, piece, owner, clipping_norm)
            else:
                _add_tape(part, piece, owner, clipping_norm, layout)
            # Over many pieces one bit of a single-precision total would outgrow the margin below the clip.
            totals = part if totals is None else totals.to(torch.float64) + part
    if totals is None:
        totals = torch.zeros(num_groups, _size(layout), dtype=_dtype(model))
    return [ClippedSum(vector, clipping_norm) for vector in totals]


def per_patient_gradients(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    *,
    memory_bytes: int = 1 << 30,
    dropout_seed: int = 0,
) -> Tensor:
    """Every patient's gradient, not clipped, (patient, parameter); for integer rounding and for audits.

    Args:
        model: see `clipped_sum`; so are the others.
        loss: as there.
        batch: as there; a patient without pictures has a row of zeros.
        memory_bytes: as there; the result itself is not counted.
        dropout_seed: as there.

    Guarantee: none. Every row is one patient's own.
    """
    layout = _layout(model)
    rows = torch.zeros(batch.num_patients, _size(layout), dtype=_dtype(model))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(dropout_seed)
        for patients, piece in _pieces(model, loss, batch, memory_bytes, materialise=True):
            if isinstance(piece, Tensor):
                rows[patients] = piece
            else:
                for name, gradient in piece.tape.kept.items():
                    place = layout[name]
                    rows[patients, place.start : place.end] = gradient.reshape(len(patients), -1)
    return rows


@dataclass(frozen=True)
class _Taped:
    """One batch that the engine has taken."""

    tape: Tape
    patient: Tensor


@dataclass(frozen=True)
class _Place:
    """Where a trained parameter stands in the vector."""

    start: int
    end: int
    shape: torch.Size


_Layout = dict[str, _Place]


def _layout(model: nn.Module) -> _Layout:
    layout: _Layout = {}
    start = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layout[name] = _Place(start, start + parameter.numel(), parameter.shape)
            start += parameter.numel()
    return layout


def _size(layout: _Layout) -> int:
    return max((place.end for place in layout.values()), default=0)


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.requires_grad)


def _scales(norms: Tensor, clipping_norm: float) -> Tensor:
    """What each patient's gradient is multiplied by, (patient,); zero where the norm is not finite."""
    return torch.where(torch.isfinite(norms), torch.clamp(clipping_norm * _SHAVE / norms, max=1.0), 0.0)


def _ranges(owner: Tensor) -> list[tuple[int, int, int]]:
    """(group, first patient, last patient + 1) of every run of patients of one group."""
    owners, sizes = torch.unique_consecutive(owner, return_counts=True)
    ends = torch.cumsum(sizes, 0).tolist()
    return list(zip(owners.tolist(), [0, *ends[:-1]], ends, strict=True))


def _add_rows(totals: Tensor, rows: Tensor, owner: Tensor, clipping_norm: float) -> None:
    """Adds clipped rows, (patient, parameter)."""
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    scale = _scales(norms, clipping_norm).to(rows.dtype)
    # 0 * NaN is NaN: what is left out is replaced before anything is multiplied.
    rows = torch.where(torch.isfinite(norms)[:, None], rows, 0.0)
    for group, start, end in _ranges(owner):
        totals[group] += scale[start:end] @ rows[start:end]


def _add_tape(totals: Tensor, piece: "_Taped", owner: Tensor, clipping_norm: float, layout: _Layout) -> None:
    """Adds what the engine left of a batch: kept gradients by one product, deferred uses by one more each."""
    tape, norms = piece.tape, piece.tape.norms.sqrt()
    scale, finite = _scales(norms, clipping_norm), torch.isfinite(norms)
    all_finite = bool(finite.all())
    for name, gradient in tape.kept.items():
        place = layout[name]
        rows = gradient.reshape(len(scale), -1)
        rows = rows if all_finite else torch.where(finite[:, None], rows, 0.0)
        for group, first, last in _ranges(owner):
            totals[group, place.start : place.end] += scale[first:last].to(rows.dtype) @ rows[first:last]
    for names, pictures, rows_of_names in tape.formed:
        patients = piece.patient[pictures]
        for name, rows in zip(names, rows_of_names, strict=True):
            place = layout[name]
            clean = torch.where(finite[patients][:, None], rows.reshape(len(patients), -1), 0.0)
            clipped = scale[patients].to(rows.dtype)[:, None] * clean
            totals[:, place.start : place.end].index_add_(0, owner[patients], clipped)
    for use, g, saved in tape.deferred:
        weights = scale[piece.patient].to(g.dtype)
        good = finite[piece.patient]
        tensors = [_weighted(g, weights, good, all_finite), *(_cleaned(t, good, all_finite) for t in saved)]
        for group, first, last in _ranges(owner[piece.patient]):
            part = [t if last - first == len(t) else t[first:last] for t in tensors]
            into = [
                totals[group, layout[name].start : layout[name].end].view(layout[name].shape) for name in use.names
            ]
            use.add_weighted_sum(part[0], part[1:], into)


def _weighted(g: Tensor, weights: Tensor, good: Tensor, all_finite: bool) -> Tensor:
    return _cleaned(g, good, all_finite) * weights.view(-1, *(1,) * (g.ndim - 1))


def _cleaned(values: Tensor, good: Tensor, all_finite: bool) -> Tensor:
    return values if all_finite else torch.where(good.view(-1, *(1,) * (values.ndim - 1)), values, 0.0)


def _pieces(
    model: nn.Module, loss: Loss, batch: PatientBatch, memory_bytes: int, *, materialise: bool = False
) -> Iterator[tuple[Tensor, "_Taped | Tensor"]]:
    """Whole patients, as many as fit: (their indices, what the engine took, or their gradients as rows)."""
    if len(batch.inputs) == 0:
        return
    anatomy = anatomy_of(model, loss, batch.inputs, batch.labels)
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    ends = torch.cumsum(counts, 0).tolist()
    size = _size(_layout(model))
    chunk = _pictures_at_once(anatomy, size * _dtype(model).itemsize, memory_bytes)
    for first, last in _patient_ranges(counts.tolist(), chunk):
        start, end = ends[first] - int(counts[first]), ends[last - 1]
        pictures = slice(start, end)
        members = torch.arange(first, last)
        part = Batch(batch.inputs[pictures], batch.labels[pictures], batch.patient[pictures] - first, last - first)
        if end == start:
            yield members, torch.zeros(last - first, size, dtype=_dtype(model))
        elif last - first == 1 and end - start > chunk:
            yield members, _large_patient(model, loss, part, chunk)
        elif anatomy.whole:
            yield members, _rows_of_patients(model, loss, part, loop=anatomy.loop)
        else:
            taken = take(model, loss, part, anatomy, materialise=materialise)
            if taken is None:  # the network did something new at this size
                anatomy = distrusted(model, anatomy)
                yield members, _rows_of_patients(model, loss, part, loop=True)
            else:
                yield members, _Taped(taken, part.patient)


def _pictures_at_once(anatomy: Anatomy, gradient_bytes: int, memory_bytes: int) -> int:
    """Pictures that fit: their activations and their gradients; or their gradients twice, as rows."""
    each = 2 * gradient_bytes if anatomy.whole else anatomy.bytes_per_picture + min(gradient_bytes, 1 << 20)
    return max(1, min(64 if anatomy.whole else 256, memory_bytes // max(1, each)))


def _large_patient(model: nn.Module, loss: Loss, part: Batch, chunk: int) -> Tensor:
    """Gradient of one patient whose pictures do not fit at once, (1, parameter), by ordinary backward passes."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(1, sum(p.numel() for p in parameters), dtype=_dtype(model))
    for at in range(0, len(part.inputs), chunk):
        piece = slice(at, at + chunk)
        with torch.enable_grad():
            value = loss(model(part.inputs[piece]), part.labels[piece]).sum() / len(part.inputs)
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        flat = [
            (torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, found, strict=True)
        ]
        total[0] += torch.cat(flat)
    return total


def _rows_of_patients(model: nn.Module, loss: Loss, part: Batch, *, loop: bool) -> Tensor:
    """Each patient's gradient on the slow path, (patient, parameter)."""
    counts = torch.bincount(part.patient, minlength=part.num_patients).clamp(min=1)
    if loop:
        pictures = [
            Batch(x[None], y[None], part.patient[:1], 1) for x, y in zip(part.inputs, part.labels, strict=True)
        ]
        rows = torch.cat([_large_patient(model, loss, picture, 1) for picture in pictures])
    else:
        rows = functional_rows(model, loss, part)
    sums = torch.zeros(part.num_patients, rows.shape[1], dtype=rows.dtype).index_add_(0, part.patient, rows)
    return sums.div_(counts[:, None])


def _patient_ranges(counts: list[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges [first, last) of patients with at most `chunk` pictures, or one larger patient."""
    first, pictures = 0, 0
    for index, count in enumerate(counts):
        if index > first and pictures + count > chunk:
            yield first, index
            first, pictures = index, 0
        pictures += count
    if first < len(counts):
        yield first, len(counts)
