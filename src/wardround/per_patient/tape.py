"""Tape of a backward pass: per-patient gradients that were formed, ghost norms of those that were not."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wardround.per_patient.layers.base import (
    Fold,
    Use,
    folded,
    in_blocks,
    in_full_precision,
    squared,
    squares_of,
    widened,
)
from wardround.per_patient.margins import MOST_CANCELLED

_FEW = 1 << 12
"""Per-patient gradients up to this many numbers are put side by side, and handled in one product."""


class Tape:
    """Result of a backward pass, use by use.

    `patient` is each picture's. Norms are taken of each section, or of all. `single`: no patient has two pictures.
    `materialise`: every per-patient gradient is formed, and no norm is taken.

    Attributes:
        norms: squared norm of each section of each patient's gradient so far, (section, patient), float64.
        kept: gradient of each patient by parameter, (patient, *shape), where it was formed.
        few: names of the small ones among those, and their gradients side by side, (patient, number).
        deferred: uses whose norm alone was taken: (use, output gradient, saved tensors).
        formed: gradients of patients that were left out of those: (parameters, patients, gradients).
    """

    def __init__(
        self,
        patient: Tensor,
        num_patients: int,
        fold: Fold,
        *,
        single: bool,
        materialise: bool,
        sections: dict[str, int] | None = None,
    ) -> None:
        count = 1 if sections is None else 1 + max(sections.values(), default=0)
        self.norms = torch.zeros(count, num_patients, dtype=torch.float64, device=patient.device)
        self.kept: dict[str, Tensor] = {}
        self.few: tuple[list[str], Tensor] | None = None
        self.deferred: list[tuple[Use, Tensor, tuple[Tensor, ...]]] = []
        self.formed: list[tuple[tuple[str, ...], Tensor, list[Tensor]]] = []
        self.reads: Counter[str] = Counter()
        self._uses: list[tuple[str, ...]] = []
        self._spread: list[tuple[str, Tensor]] = []
        self._small: set[str] = set()
        self._blocks: defaultdict[int, list[Tensor]] = defaultdict(list)
        # Makes every use part of the graph, the first layer's too.
        self.anchor = torch.zeros((), requires_grad=True, device=patient.device)
        self.full_precision = in_full_precision(patient.device)
        self._patient, self._sections = patient, sections
        self._fold, self._single, self._materialise = fold, single, materialise

    def apply(self, use: Use, *inputs: Tensor) -> Tensor:
        """Returns the output of a use, in the graph."""
        self._note(use.names)
        output: Tensor = _Watched.apply(self, use, self.anchor, *inputs)  # type: ignore[no-untyped-call]
        return output

    def spread(
        self, names: tuple[str, ...], values: Sequence[Tensor | None], trains: Sequence[bool], count: int
    ) -> list[Tensor | None]:
        """Returns vectors repeated for each of `count` pictures, (picture * number,), those in `trains` in the graph.

        For a kernel that takes a batch as one picture: autograd then gives each picture's gradient without a use.
        """
        self._note(names)
        copies = [None if value is None else torch.cat([widened(value)] * count) for value in values]
        trained = [
            copy.requires_grad_() for copy, on in zip(copies, trains, strict=True) if copy is not None and on
        ]
        self._spread += zip(names, trained, strict=True)
        return copies

    def _note(self, names: tuple[str, ...]) -> None:
        self._uses.append(names)
        for name in names:
            self.reads[name] += 1

    def take(self, use: Use, g: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Takes one use in the backward pass; half precision of autocast is widened first."""
        g, saved = widened(g), tuple(map(widened, saved))
        read_once = max(map(self.reads.__getitem__, use.names), default=1) == 1
        defers = read_once and not self._materialise and use.prefers_norms(g, saved, single=self._single)
        if defers and len(set(map(self._section, use.names))) == 1:
            self._defer(use, g, saved)
            return
        for name, gradient in zip(use.names, use.per_patient(g, saved, self._fold), strict=True):
            self._keep(name, gradient)

    def _keep(self, name: str, gradient: Tensor) -> None:
        known = self.kept.get(name)
        self.kept[name] = gradient if known is None else known + gradient.reshape(known.shape)
        if gradient.numel() <= _FEW * gradient.shape[0]:
            self._small.add(name)
        elif self.reads[name] == 1 and not self._materialise:
            self._measure(name, gradient)  # while it is in the processor's cache

    def _section(self, name: str) -> int:
        return 0 if self._sections is None else self._sections[name]

    def _measure(self, name: str, gradient: Tensor) -> None:
        """Takes the norms of a gradient's blocks; all of a section are squared and added up together at the end."""
        self._blocks[self._section(name)] += in_blocks(gradient)

    def _defer(self, use: Use, g: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Takes ghost norms only; the sum is formed later, when the clipping factors are known.

        Norm and sum are two computations, and the rounding of each is relative to its terms. As long as few of the
        terms cancel, both are right to a few parts in 2^13. Where more cancel (crafted pictures), the gradient is
        formed: then the vector that is measured is the vector that is added. So it is where a square overflows: a
        gradient of zeros from a huge input must not count as one that is not finite, in this batch and not in another.
        """
        norms, terms = map(self._fold, use.squared_norms(g, saved, None if self._single else self._patient))
        cancelled = torch.nonzero(~(norms >= MOST_CANCELLED * terms) | (norms == math.inf))[:, 0]
        if len(cancelled):
            pictures = torch.nonzero(torch.isin(self._patient, cancelled))[:, 0]
            fold = partial(folded, torch.searchsorted(cancelled, self._patient[pictures]), len(cancelled))
            gradients = use.per_patient(g[pictures], [t[pictures] for t in saved], fold)
            self.formed.append((use.names, cancelled, gradients))
            norms[cancelled] = torch.stack([squared(each) for each in gradients]).sum(0)
            g, saved = _without(g, pictures), tuple(_without(t, pictures) for t in saved)
        self.norms[self._section(use.names[0])] += norms
        self.deferred.append((use, g, saved))

    def finish(self) -> None:
        """Takes the norms of small gradients, and of parameters read more than once, whose uses had to be added up."""
        for name, copies in self._spread:
            if copies.grad is not None:
                self._keep(name, self._fold(copies.grad.view(len(self._patient), -1)))
        if self._materialise:
            return
        kept, among = self.kept, self._small
        # In the order of the backward pass, which blocks of the norm follow.
        small = list(dict.fromkeys(name for names in reversed(self._uses) for name in names if name in among))
        if small:
            each = (kept[name] for name in small)
            side_by_side = torch.cat([g if g.ndim == 2 else g.reshape(g.shape[0], -1) for g in each], dim=1)
            self.few = (small, side_by_side)
            if self._sections is None:
                self._blocks[0] += in_blocks(side_by_side)
        for name, reads in self.reads.items():
            is_new = self._sections is not None if name in among else reads > 1 and name in kept
            if is_new:
                self._measure(name, kept[name])
        for section, blocks in self._blocks.items():
            self.norms[section] += squares_of(blocks)
        self._blocks.clear()


def _without(values: Tensor, pictures: Tensor) -> Tensor:
    return values.index_fill(0, pictures, 0)


class _Watched(torch.autograd.Function):
    """Autograd function that runs a use without its parameters; its backward pass writes to the tape."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, use: Use, anchor: Tensor, *inputs: Tensor) -> Tensor:
        output, saved = use.run(*inputs)
        ctx.tape, ctx.use = tape, use
        ctx.save_for_backward(*saved)
        return output

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> Any:
        (g,) = output_gradients
        # Detached: else the tape holds the graph whose nodes hold the tape, a cycle that is never collected.
        saved = tuple(tensor.detach() for tensor in ctx.saved_tensors)
        with torch.no_grad(), ctx.tape.full_precision:
            ctx.tape.take(ctx.use, g, saved)
            needed = ctx.needs_input_grad[3:]
            inputs = ctx.use.input_gradients(g, *saved) if any(needed) else (None,) * len(needed)
        return (None, None, None, *inputs)
