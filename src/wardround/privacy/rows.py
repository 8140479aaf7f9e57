"""One patient's gradient, formed and brought to a norm of at most C by the plan's rule, for sums on a grid.

Released: nothing; a row is one patient's own and private. Neighbouring relation: add or remove one patient. A row is
made from one patient's gradient and from what is public, so a sum of such rows by a party that checks the norm of each,
as `wardround.secure_aggregation.integers.grid` does in whole numbers, is moved by one patient by C at most, under every
rule. The bound there does not rest on the arithmetic here.

As nothing relies on it, no margin is left below C: rules aim at C, not 2^-12 of it below (`per_patient.margins`),
and a flat clip is left to the grid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from wardround.errors import PrivacyError
from wardround.per_patient.clipping_rules import Clipping, Flat
from wardround.per_patient.layout import Layout
from wardround.per_patient.margins import before_margin
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.kinds import Clip
from wardround.types import Vector

Row: TypeAlias = Vector | npt.NDArray[np.float64]
"""One patient's gradient, or what the patient adds to a sum before it is rounded, (coordinate,)."""


def rows_of(clip: Clip, layout: Layout, asked: float | None) -> Callable[[Row], Row]:
    """Returns how a patient's gradient, (parameter,), becomes a row of one round, (coordinate,).

    `asked` is the clipping norm of the round, where norms adapt; else None.

    Raises:
        PrivacyError: a clipping norm that the plan does not accept.
    """
    if not clip.accepts(asked):
        raise PrivacyError(
            f"A round must ask for a clipping norm where norms adapt, and for none elsewhere, got {asked}."
        )
    if clip.adaptive is not None and asked is not None:
        return CountedRow(clip.adaptive, asked, clip.norm)
    if clip.fixed == Flat():
        return lambda gradient: gradient
    return SectionedRow(clip.fixed, layout, clip.norm)


@dataclass(frozen=True)
class SectionedRow:
    """A gradient whose sections (layers) are each multiplied by the factor of a rule."""

    rule: Clipping
    layout: Layout
    clipping_norm: float

    def __post_init__(self) -> None:
        self.rule.check(self.clipping_norm)

    def __call__(self, gradient: Row) -> Row:
        """The row, (parameter,), of norm C at most but for rounding; zeros where a section has no finite norm."""
        sections, sizes = self._sections
        row = gradient.astype(np.float64)
        squares = np.zeros(len(sizes))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for place, section in sections:
                squares[section] += np.add.reduce(np.square(row[place]))
        norms = torch.from_numpy(np.sqrt(squares))
        if not torch.isfinite(norms).all():
            return np.zeros_like(row)
        factors = self.rule.factors(norms[:, None], sizes, before_margin(self.clipping_norm))[:, 0].tolist()
        for place, section in sections:
            row[place] *= factors[section]
        return row

    @cached_property
    def _sections(self) -> tuple[list[tuple[slice, int]], list[int]]:
        """Place and section of each parameter, and the numbers in each section."""
        names = list(self.layout.parameters)
        sections = self.rule.sections(names)
        return (
            [(self.layout.place(name), 0 if sections is None else sections[name]) for name in names],
            self.layout.sizes_of(sections),
        )


@dataclass(frozen=True)
class CountedRow:
    """A gradient clipped flat, and whether it was within the clip: one patient's part of what `AdaptiveNorm` extends.

    With C the norm of the round, s the count's share and u the plan's clipping norm, in whose units all rounds are:

        g · min(1, C sqrt(1 - s) / |g|) · u / C,   then   u sqrt(s) if |g| <= C sqrt(1 - s), else -u sqrt(s)

    The squares add up to u² (1 - s) + u² s at most, so that the norm is u at most. Over a sample the last coordinate is
    2 u sqrt(s) (within - patients / 2), as in `AdaptiveNorm.extended`.

    C is `clipping_norm`, and u is `unit`.
    """

    adaptive: AdaptiveNorm
    clipping_norm: float
    unit: float

    def __call__(self, gradient: Row) -> Row:
        """The row, (parameter + 1,); zeros, the count with them, where the norm is not finite."""
        row = np.zeros(gradient.size + 1, dtype=np.float64)
        row[:-1] = gradient
        share, most = self.adaptive.share, self.adaptive.gradient_norm(self.clipping_norm)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            norm = math.sqrt(float(np.add.reduce(np.square(row[:-1]))))
            if not math.isfinite(norm):
                return np.zeros_like(row)
            row *= self.unit * math.sqrt(1 - share) / max(norm, most)
        row[-1] = math.copysign(self.unit * math.sqrt(share), most - norm)
        return row
