"""Check of real batches: each patient's clipped gradient in company against the same patient's alone.

A network is tried on made-up pictures before it is trusted (`anatomy`). That does not see a coupling that shows only
above some batch size, for large values, or in some pictures. So the first real batch of a network is checked, every
later one that is larger by an eighth or has values beyond twice the range that was checked, and random others: the k-th
with probability 1 / (k + 31), at least 1 / 128. On the first batch every patient is compared, with all pictures; later
a random quarter, and sixteen at least.

Cost: a patient alone takes the slow path. The first check costs as much as four to five steps, and a later one as much
as one or two. A small CNN had 17 checks in 1,000 batches of 64 patients, 1.5 % of its time on a processor; SqueezeNet
had 3 in 100, 6 %.

The clipped sum may move by the clipping norm C when one patient joins, so agreement is measured in C: the clipped
gradients of patients, each with a random sign, are added up twice, once in company and once alone. The difference d of
the two vectors has the expected square of the sum of squares of all patients' differences, and sqrt(patients) |d|
bounds, in expectation, what they add up to in the worst direction. Up to `MOST` C is called rounding in single
precision; above, double precision decides.

A check sees what it tries. Where a network is not known, `Independence.BY_CONSTRUCTION` needs none.
"""

import copy
import math
import secrets
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wardround.errors import ModelError
from wardround.per_patient.batch import Loss, PatientBatch
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.engine import Anatomy, take
from wardround.per_patient.guards.draws import PictureKeys, drawing
from wardround.per_patient.guards.state import modules_of
from wardround.per_patient.layers.base import in_full_precision
from wardround.per_patient.layout import Layout
from wardround.per_patient.microbatches import Microbatch, patient_ranges
from wardround.per_patient.process import outside_the_heap
from wardround.per_patient.slow_path import gradient_in_parts, slow_gradients
from wardround.per_patient.sums import Factors, add, norms_of

MOST = 2.0**-8
"""Difference in units of the clipping norm that rounding in single precision may make."""

_MOST_DOUBLE = 2.0**-16
_LATER = 16
"""Patients, at least, that are compared in batches after the first; a quarter of all, if that is more."""

_SELDOM = 128
"""Batches of which one is checked, where nothing is new."""

_BYTES_AT_ONCE = 1 << 24
"""Gradients of patients alone that are in memory at one time, at most, unless one is larger.

They lie beside the kept gradients of the batch, so that they decide the peak of the first step.
"""


@dataclass
class Seen:
    """Batches of one network and shape: their number, how many were checked, and the range that was checked.

    `pictures` are those of the largest batch, `largest` is the largest absolute value of an input; `infinite` says that
    one that is no finite number was checked.
    """

    batches: int = 0
    checked: int = 0
    pictures: int = 0
    largest: float = 0.0
    infinite: bool = False

    def is_due(self, inputs: Tensor) -> bool:
        """Returns whether a batch is to be checked, and counts it."""
        self.batches += 1
        largest = _largest(inputs)
        is_larger = largest > 2.0 * self.largest if math.isfinite(largest) else not self.infinite
        is_larger = is_larger or 8 * len(inputs) > 9 * self.pictures
        return is_larger or not secrets.randbelow(min(self.batches + 31, _SELDOM))

    def note(self, inputs: Tensor) -> None:
        """Counts a batch as checked."""
        largest = _largest(inputs)
        self.checked += 1
        self.pictures = max(self.pictures, len(inputs))
        self.infinite = self.infinite or not math.isfinite(largest)
        self.largest = max(self.largest, largest) if math.isfinite(largest) else self.largest


def _largest(inputs: Tensor) -> float:
    """Returns the largest absolute value, infinite or NaN where one is no finite number."""
    low, high = (float(bound) for bound in torch.aminmax(inputs.detach()))
    return max(-low, high) + 0.0 * (high - low)


_SEEN: "WeakKeyDictionary[nn.Module, dict[object, Seen]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Company:
    """The check of one call of `clipped_sum`, whose arguments are its fields."""

    model: nn.Module
    layout: Layout
    loss: Loss
    rule: Clipping
    clipping_norm: float

    def is_due(self, part: PatientBatch) -> bool:
        """Returns whether a batch is to be checked: never one of a single patient, or where nothing is clipped."""
        has_company = math.isfinite(self.clipping_norm) and part.num_patients > 1
        return has_company and self._seen(part).is_due(part.inputs)

    def _seen(self, part: PatientBatch) -> Seen:
        switches = (part.inputs.shape[1:], part.inputs.dtype, *(m.training for m in modules_of(self.model)))
        return _SEEN.setdefault(self.model, {}).setdefault(switches, Seen())

    def __call__(self, found: Microbatch, part: PatientBatch, keys: PictureKeys | None, anatomy: Anatomy) -> bool:
        """Returns whether patients alone give what the engine found.

        Raises:
            ModelError: a batch after the first does not agree; code `model-mixes`.
        """
        seen, of = self._seen(part), torch.unique(part.patient.cpu())
        if seen.checked:
            of = of[torch.tensor(_some(len(of), max(_LATER, len(of) // 4)))]
        signs = torch.tensor([1.0 - 2.0 * secrets.randbits(1) for _ in of], dtype=torch.float64)
        seen.note(part.inputs)
        with outside_the_heap():
            if self._difference(found, part, keys, of, signs) <= MOST:
                return True
            if self._in_double(part, keys, anatomy, of, signs) <= _MOST_DOUBLE:
                return True
        if seen.checked == 1:
            return False
        raise ModelError(
            "One patient's gradient must not depend on the other patients in the batch, and this network's does in "
            'batches like this one. Look for operations over the first axis, or use independence="by-construction", '
            "which runs the network on one picture at a time.",
            code="model-mixes",
        )

    def _difference(
        self, found: Microbatch, part: PatientBatch, keys: PictureKeys | None, of: Tensor, signs: Tensor
    ) -> float:
        """Returns what the differences of all patients add up to, judged by some, in units of the clipping norm."""
        every = torch.zeros(part.num_patients, dtype=torch.float64).index_copy_(0, of, signs)
        total = torch.zeros(1, self.layout.size, dtype=self.layout.dtype, device=self.layout.device)
        self._add_signed(total, found, every)
        patient = part.patient.cpu()
        places = torch.nonzero(torch.isin(patient, of))[:, 0]
        own = PatientBatch(
            part.inputs[places], part.labels[places], torch.searchsorted(of, patient[places]), len(of)
        )
        own_keys = None if keys is None else [keys[place] for place in places.tolist()]
        ends = [0, *torch.cumsum(torch.bincount(own.patient), 0).tolist()]
        at_once = max(1, _BYTES_AT_ONCE // (self.layout.size * self.layout.dtype.itemsize))
        for first, last in patient_ranges([1] * len(of), at_once):
            pictures = slice(ends[first], ends[last])
            some = PatientBatch(
                own.inputs[pictures], own.labels[pictures],
                own.patient[pictures].to(part.patient.device) - first, last - first,
            )  # fmt: skip
            some_keys = None if own_keys is None else own_keys[pictures]
            members = slice(first, last)  # no name for their gradients: each is freed before the next is formed
            self._add_signed(
                total, Microbatch(members, some.patient, gradients=self._alone(some, some_keys)), -signs[members]
            )
        difference = torch.linalg.vector_norm(total, dtype=torch.float64)
        return float(difference) * part.num_patients / math.sqrt(len(of)) / self.clipping_norm

    def _add_signed(self, total: Tensor, found: Microbatch, signs: Tensor) -> None:
        """Adds the clipped gradients of a microbatch, each times its sign, to a vector, (1, parameter)."""
        sections = self.rule.sections(list(self.layout.parameters))
        sizes = self.layout.sizes_of(sections)
        with torch.no_grad(), in_full_precision(self.layout.device):
            norms = norms_of(found, self.layout, sections, len(sizes))
            finite = torch.isfinite(norms).all(0)
            factors = self.rule.factors(torch.where(finite, norms, 1.0), sizes, self.clipping_norm)
            values = torch.where(finite, factors * signs.to(norms.device), 0.0)
            owner = torch.zeros(len(signs), dtype=torch.int64)
            add(total, found, owner, self.layout, Factors(values, finite, bool(finite.all()), sections))

    def _alone(self, part: PatientBatch, keys: PictureKeys | None) -> Tensor:
        if part.num_patients == 1:
            return gradient_in_parts(self.model, self.layout, self.loss, part, 1, keys)
        return slow_gradients(self.model, self.layout, self.loss, part, keys, loop=True)

    def _in_double(
        self, part: PatientBatch, keys: PictureKeys | None, anatomy: Anatomy, of: Tensor, signs: Tensor
    ) -> float:
        """Returns the difference on a copy of the network in double precision; infinite if that does not run."""
        try:
            names = {module: name for name, module in self.model.named_modules()}
            model = copy.deepcopy(self.model).double()
            vmapped = tuple(model.get_submodule(names[module]) for module in anatomy.vmapped)
            double = replace(self, model=model, layout=Layout.of(model))
            inputs = part.inputs.double() if part.inputs.is_floating_point() else part.inputs
            part = replace(part, inputs=inputs)
            sections = self.rule.sections(list(double.layout.parameters))
            with drawing(keys, self.layout.device):
                tape = take(
                    model, double.layout, self.loss, part, replace(anatomy, vmapped=vmapped),
                    sections=sections, materialise=False,
                )  # fmt: skip
            if tape is None:
                return math.inf
            return double._difference(
                Microbatch(slice(0, part.num_patients), part.patient, tape=tape), part, keys, of, signs
            )
        except Exception:  # a network that does not run in double precision
            return math.inf


def _some(count: int, most: int) -> list[int]:
    """Returns numbers below a count, ascending, at most so many, drawn without repetition."""
    return sorted(secrets.SystemRandom().sample(range(count), min(count, most)))
