"""Clipped sum of per-patient (per-example) gradients: the one quantity that private training may noise.

A patient's gradient is the gradient of the mean loss over their pictures in the batch. It is one vector, so it is
clipped once, and a patient with thirty pictures weighs as much as a patient with one.

One forward and one backward pass give every patient's gradient norm and the clipped sum (`engine`). Parts of a network
that the engine has no rule for are computed by `torch.func`, exact and slower; a `SlowPath` warning names them once.

Sensitivity in finite precision: norms and sums of a float32 network carry float32 rounding. Where a gradient is formed,
the clipped vector is the vector that is added, and only the last product rounds. Where a ghost norm is taken,
cancellation is measured and kept so small that norm and sum agree to a few parts in 2^13. The clip aims 2^-12 of itself
below the clipping norm, more than either (`margins`). The device makes no difference to that: float32 products keep
their factors in float32 while a sum is formed (`process.in_single_precision`), and norms are added up in float64.

Under autocast activations and their gradients may be bfloat16. Per-patient gradients, norms and sums are computed from
them in float32. Coarse activations change the value of a patient's gradient; they mix no patients, and the bound is
enforced on the vectors that are added.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.errors import PrivacyError
from wardround.per_patient.anatomy import Independence, Reason, independence_of
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipping_rules import Clipping, Flat
from wardround.per_patient.guards.company import Company
from wardround.per_patient.guards.draws import keys_of
from wardround.per_patient.guards.state import unchanged
from wardround.per_patient.layers.base import in_full_precision
from wardround.per_patient.layout import Layout
from wardround.per_patient.margins import LEAST_CLIPPING_NORM
from wardround.per_patient.microbatches import Microbatch, microbatches
from wardround.per_patient.process import in_single_precision, in_the_heap, one_at_a_time
from wardround.per_patient.sums import Factors, add, norms_of


@dataclass(frozen=True)
class ClippedSum:
    """Sum of clipped gradients that carries its sensitivity.

    Attributes:
        vector: sum over patients of their clipped gradients, (parameter,): in the network's precision (single for
            weights of half precision) where they fitted into one microbatch, else in float64. Private until noised.
        sensitivity: L2 bound on the change of `vector` when one patient is added or removed.
        within: patients whose gradient's norm was at most the clipping norm, for a clipping norm that adapts. One
            patient moves it by at most 1. Private until noised.
    """

    vector: Tensor
    sensitivity: float
    within: int = 0


def clipped_sum(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    *,
    clipping_norm: float,
    clipping: Clipping | None = None,
    memory_bytes: int = 1 << 30,
    dropout_seed: int | None = None,
    independence: Reason = Independence.CHECKED,
    out: Tensor | None = None,
) -> ClippedSum:
    """Returns the sum of the per-patient gradients, each scaled to an L2 norm of at most `clipping_norm`.

    Args:
        model: maps inputs to logits; one picture's logits must not depend on the others in the batch. Gradients
            follow `model.named_parameters()`, those that require a gradient, flattened in that order.
        loss: loss of each picture, unreduced.
        batch: the pictures of the sampled patients; may be empty.
        clipping_norm: L2 bound C > 0; infinity turns clipping off, and then the sensitivity is infinite.
        clipping: how gradients are brought to that norm; `Flat()` if not given.
        memory_bytes: memory for activations and gradients at one time; changes speed only.
        dropout_seed: of this step's dropout masks and all other draws of the network, each keyed by the patient's own
            key in the batch; the same seed and key give the same draws. Without it they come from the operating
            system, and are others at each call.
        independence: reason why no patient's gradient depends on another patient (`Independence`). "checked" runs whole
            batches and checks some of them: 1.5 % of 1,000 steps of a small CNN, and at the first batch four to
            five steps (`guards.company`). "by-construction" never shows the network two pictures, at the cost of
            `torch.func`: 1.3 to 8 ordinary steps (docs/engine.md).
        out: memory for the vector, (parameter,), of the network's precision; overwritten. Used where the pictures
            fit into one microbatch. A vector of many millions that is asked for anew at each step costs more than
            adding it up.

    Guarantee:
        Relation: add or remove one patient with all their pictures. The sum moves by at most `clipping_norm`
        in L2 norm. Norms are taken in float64. A patient whose gradient is not finite contributes exactly
        zero, so the bound holds for NaN and infinities as well. Draws of the network are keyed by patient, so
        the others' draws stay as they are. The result is not noised, and must not leave the hospital.

        The bound needs gradients that do not depend on other patients. With "by-construction" that follows from the
        computation. With "checked" it rests on checks of made-up and real batches (`guards.company`), which a network
        made to deceive them could pass; it is meant for networks that are known. A network that changes a buffer or
        a parameter in its forward pass is refused with either, and is left as it was (a parameter that only a later
        batch changes is refused and not put back).

    Edge cases:
        | case                     | result                                   |
        |--------------------------|------------------------------------------|
        | empty batch              | zeros, sensitivity `clipping_norm`       |
        | zero gradient            | contributes zero                         |
        | gradient not finite      | contributes zero                         |
        | clipping_norm = infinity | plain sum (non-finite patients left out) |

    Raises:
        PrivacyError: clipping_norm is not positive, or too small to be measured in the network's precision; a seed
            without keys (code `privacy-keys`).
        ModelError: the network changes itself (code `model-buffer`), keeps something of earlier pictures
            (`model-state`), draws random numbers outside torch (`model-draws`), mixes patients in a batch after the
            first (`model-mixes`), or is of a kind that has no such gradients (`model-compiled`, `-scripted`, `-lazy`,
            `-complex`, `-checkpoint`, `-inference`). In a first batch a network that mixes patients is taken picture by
            picture from then on, with a `SlowPath` warning.
    """
    groups = torch.zeros(batch.num_patients, dtype=torch.int64)
    return clipped_sums_by_group(
        model, loss, batch, groups, 1,
        clipping_norm=clipping_norm, clipping=clipping, memory_bytes=memory_bytes, dropout_seed=dropout_seed,
        independence=independence, out=None if out is None else out[None],
    )[0]  # fmt: skip


@in_single_precision()
@in_the_heap()
def clipped_sums_by_group(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    group: Tensor,
    num_groups: int,
    *,
    clipping_norm: float,
    clipping: Clipping | None = None,
    memory_bytes: int = 1 << 30,
    dropout_seed: int | None = None,
    independence: Reason = Independence.CHECKED,
    out: Tensor | None = None,
) -> list[ClippedSum]:
    """Returns the `clipped_sum` of each group of patients, evaluated in common batches.

    A simulation of many hospitals on one machine costs this way as much as one large hospital. `group` is the group
    (hospital) of each patient, (num_patients,), in [0, num_groups); a group without patients gets zeros. `out` is
    (num_groups, parameter); the other arguments are those of `clipped_sum`.

    Guarantee:
        That of `clipped_sum`, for each group: a patient moves the sum of their own group only.
    """
    layout, rule = Layout.of(model), clipping or Flat()
    if not clipping_norm > 0 or (clipping_norm < LEAST_CLIPPING_NORM and layout.dtype is not torch.float64):
        raise PrivacyError(
            f"clipping_norm must be > 0, and >= {LEAST_CLIPPING_NORM:g} in single precision, got {clipping_norm}."
        )
    rule.check(clipping_norm)
    sections = rule.sections(list(layout.parameters))
    shape = (num_groups, layout.size)
    if out is not None and (out.shape != shape or out.dtype != layout.dtype or out.device != layout.device):
        raise ValueError(f"out must be {shape} of {layout.dtype}, got {tuple(out.shape)} of {out.dtype}.")
    totals: Tensor | None = None
    within = torch.zeros(num_groups, dtype=torch.int64)
    keys, company = keys_of(batch, dropout_seed), Company(model, layout, loss, rule, clipping_norm)
    with torch.no_grad(), unchanged(model):
        for microbatch in microbatches(
            model, layout, loss, batch, keys, memory_bytes,
            sections=sections, independence=independence_of(independence), examine=company,
        ):  # fmt: skip
            owner = group[microbatch.patients].cpu()
            if microbatch.tape is None and microbatch.gradients is None:
                # No pictures: a gradient of zero, within every norm.
                within.index_add_(0, owner, torch.ones_like(owner))
                continue
            # Over many microbatches one bit of a single-precision total would outgrow the margin below the clip.
            part = _zeros(shape, layout, out if totals is None else None)
            with in_full_precision(layout.device):
                is_within = _add_clipped(part, microbatch, owner, layout, rule, clipping_norm)
            totals = part if totals is None else totals.to(torch.float64) + part
            within.index_add_(0, owner, is_within)
            del microbatch  # its memory is the next one's
    return [
        ClippedSum(vector, clipping_norm, int(count))
        for vector, count in zip(_zeros(shape, layout, out) if totals is None else totals, within, strict=True)
    ]


def _add_clipped(
    totals: Tensor, microbatch: Microbatch, owner: Tensor, layout: Layout, rule: Clipping, clipping_norm: float
) -> Tensor:
    """Adds a microbatch's clipped gradients; returns 1 for each patient within the norm, (patient,)."""
    sections = rule.sections(list(layout.parameters))
    sizes = layout.sizes_of(sections)
    norms = norms_of(microbatch, layout, sections, len(sizes))
    finite = torch.isfinite(norms).all(0)
    values = torch.where(finite, rule.factors(torch.where(finite, norms, 1.0), sizes, clipping_norm), 0.0)
    add(totals, microbatch, owner, layout, Factors(values, finite, bool(finite.all()), sections))
    is_within: Tensor = finite & (torch.linalg.vector_norm(norms, dim=0) <= clipping_norm)
    return is_within.cpu().to(torch.int64)


def _zeros(shape: tuple[int, int], layout: Layout, out: Tensor | None) -> Tensor:
    return torch.zeros(shape, dtype=layout.dtype, device=layout.device) if out is None else out.zero_()


@one_at_a_time()
@in_the_heap()
def per_patient_gradients(
    model: nn.Module,
    loss: Loss,
    batch: PatientBatch,
    *,
    memory_bytes: int = 1 << 30,
    dropout_seed: int | None = None,
    independence: Reason = Independence.CHECKED,
) -> Tensor:
    """Returns every patient's gradient, not clipped, (patient, parameter); for audits.

    Gradients are computed in common batches, whose size decides the last bits of each. Where a gradient must not depend
    on the other patients, use `wardround.per_patient.isolated` or `wardround.per_patient.fixed_shape`. Arguments are
    those of `clipped_sum`; `memory_bytes` does not count the result. A patient without pictures has a gradient
    of zeros.

    Guarantee: none. Each gradient is one patient's, and private.
    """
    layout = Layout.of(model)
    gradients = torch.zeros(batch.num_patients, layout.size, dtype=layout.dtype, device=layout.device)
    keys = keys_of(batch, dropout_seed)
    with torch.no_grad(), unchanged(model):
        for microbatch in microbatches(
            model, layout, loss, batch, keys, memory_bytes,
            materialise=True, independence=independence_of(independence),
        ):  # fmt: skip
            if microbatch.gradients is not None:
                gradients[microbatch.patients] = microbatch.gradients
            elif microbatch.tape is not None:
                for name, gradient in microbatch.tape.kept.items():
                    gradients[microbatch.patients, layout.place(name)] = gradient.reshape(len(gradient), -1)
            del microbatch  # its memory is the next one's
    return gradients
