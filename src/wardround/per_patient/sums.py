"""Norms of the per-patient gradients of a microbatch, and their sum weighted by clipping factors."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wardround.per_patient.layers.base import squared
from wardround.per_patient.layout import Layout
from wardround.per_patient.microbatches import Microbatch
from wardround.per_patient.tape import Tape


def norms_of(microbatch: Microbatch, layout: Layout, sections: dict[str, int] | None, count: int) -> Tensor:
    """Returns the L2 norm of each section of each patient's gradient, (section, patient), float64."""
    if microbatch.tape is not None:
        return microbatch.tape.norms.sqrt()
    assert microbatch.gradients is not None
    if sections is None:
        return squared(microbatch.gradients).sqrt()[None]
    squares = torch.zeros(
        count, len(microbatch.gradients), dtype=torch.float64, device=microbatch.gradients.device
    )
    for name, section in sections.items():
        squares[section] += squared(microbatch.gradients[:, layout.place(name)])
    return squares.sqrt()


_BYTES_AT_ONCE = 1 << 24
"""Clipped gradients that are formed to be added, at most, unless one is larger: more clear pages in each step."""


@dataclass(frozen=True)
class Factors:
    """Clipping factors of each patient's gradient.

    Attributes:
        values: (section, patient), float64; zero for a patient who is left out.
        finite: which patients' gradients are finite, (patient,). The others contribute exactly zero: as 0 * NaN is
            NaN, their values are replaced before anything is multiplied.
        sections: section of each parameter; None is one for all.
    """

    values: Tensor
    finite: Tensor
    all_finite: bool
    sections: dict[str, int] | None
    _rows: dict[torch.dtype, tuple[Tensor, ...]] = field(default_factory=dict)

    def of(self, name: str, dtype: torch.dtype) -> Tensor:
        """Returns the factors of one parameter, (patient,)."""
        if dtype not in self._rows:
            self._rows[dtype] = self.values.to(dtype).unbind()
        return self._rows[dtype][0 if self.sections is None else self.sections[name]]

    def cleaned(self, values: Tensor, patients: Tensor | slice) -> Tensor:
        """Returns values of some patients, (patient, ...), zero for those that are left out."""
        if self.all_finite:
            return values
        return torch.where(self.finite[patients].view(-1, *(1,) * (values.ndim - 1)), values, 0.0)


def add(totals: Tensor, microbatch: Microbatch, owner: Tensor, layout: Layout, factors: Factors) -> None:
    """Adds a microbatch's clipped gradients to the totals, (group, parameter), of the groups that own its patients."""
    if microbatch.tape is not None:
        _add_kept(totals, microbatch.tape, owner, layout, factors)
        _add_formed(totals, microbatch.tape, owner, layout, factors)
        _add_deferred(totals, microbatch.tape, microbatch.patient, owner, layout, factors)
    elif microbatch.gradients is not None:
        for group, first, last in _ranges(owner):
            members = slice(first, last)
            gradients = factors.cleaned(microbatch.gradients[members], members)
            if factors.sections is None:
                totals[group] += factors.of("", gradients.dtype)[members] @ gradients
                continue
            for name in layout.parameters:
                place = layout.place(name)
                totals[group, place] += factors.of(name, gradients.dtype)[members] @ gradients[:, place]


def _add_kept(totals: Tensor, tape: Tape, owner: Tensor, layout: Layout, factors: Factors) -> None:
    """Adds kept gradients: one product for each large parameter, one for all small ones together."""
    small, few = tape.few if tape.few is not None else ([], None)
    among = set(small)
    large = {name: found.reshape(found.shape[0], -1) for name, found in tape.kept.items() if name not in among}
    for group, first, last in _ranges(owner):
        members, is_all = slice(first, last), last - first == len(owner)
        places = layout.places(totals[group])
        for name, gradients in large.items():
            weights = factors.of(name, gradients.dtype)
            if not is_all:
                gradients, weights = gradients[members], weights[members]
            places[name].addmv_(factors.cleaned(gradients, members).t(), weights)
        if few is None:
            continue
        clean = factors.cleaned(few[members], members)
        into = [places[name] for name in small]
        if factors.sections is None:
            sums = factors.of("", few.dtype)[members] @ clean
        else:
            of_column = [factors.sections[name] for name, place in zip(small, into, strict=True) for _ in place]
            sums = (factors.values[of_column][:, members].t().to(few.dtype) * clean).sum(0)
        torch._foreach_add_(into, list(torch.split(sums, [place.shape[0] for place in into])))


def _add_formed(totals: Tensor, tape: Tape, owner: Tensor, layout: Layout, factors: Factors) -> None:
    """Adds gradients of patients that were left out of the deferred uses."""
    for names, patients, gradients_of_names in tape.formed:
        owners = owner[patients.cpu()].to(totals.device)
        for name, gradients in zip(names, gradients_of_names, strict=True):
            rows, into = gradients.reshape(len(patients), -1), totals[:, layout.place(name)]
            weights = factors.of(name, gradients.dtype)[patients]
            at_once = max(1, _BYTES_AT_ONCE // max(1, rows.shape[1] * rows.element_size()))
            for first in range(0, len(patients), at_once):  # added one after the other in any case
                some = slice(first, first + at_once)
                clipped = weights[some, None] * factors.cleaned(rows[some], patients[some])
                into.index_add_(0, owners[some], clipped)


def _add_deferred(
    totals: Tensor, tape: Tape, patient: Tensor, owner: Tensor, layout: Layout, factors: Factors
) -> None:
    """Adds deferred uses: one product for each, the factors multiplied into its output gradient."""
    ranges = _ranges(owner[patient.cpu()])
    for use, g, saved in tape.deferred:
        weights = factors.of(use.names[0], g.dtype)[patient]
        weighted = factors.cleaned(g, patient) * weights.view(-1, *(1,) * (g.ndim - 1))
        tensors = [weighted, *(factors.cleaned(tensor, patient) for tensor in saved)]
        for group, first, last in ranges:
            part = [t if last - first == len(t) else t[first:last] for t in tensors]
            into = [totals[group, layout.place(name)].view(layout.parameters[name].shape) for name in use.names]
            use.add_weighted_sum(part[0], part[1:], into)


def _ranges(owner: Tensor) -> list[tuple[int, int, int]]:
    """Returns (group, first patient, last patient + 1) of every run of patients of one group."""
    owners, sizes = torch.unique_consecutive(owner, return_counts=True)
    ends = torch.cumsum(sizes, 0).tolist()
    return list(zip(owners.tolist(), [0, *ends[:-1]], ends, strict=True))
