"""One case of the conformance suite: a network, the pictures that it reads, and the question that they make."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tests.per_patient.oracle import Loss, cross_entropy, patient_gradients, quietly
from torch import Tensor, nn

from wardround.per_patient.batch import PatientBatch

UNEVEN = (2, 0, 3, 1, 0)


@dataclass(frozen=True)
class Problem:
    """One question to an engine. `model` may be changed by who asked for the problem: it is their copy."""

    model: nn.Module
    loss: Loss
    batch: PatientBatch


@dataclass(frozen=True)
class Case:
    """A network and the pictures it reads.

    Attributes:
        name: unique, a key of `CASES`.
        family: what part of the promise it belongs to.
        network: builds the network; its random numbers come from the global generator, which is seeded.
        inputs: pictures, from their number.
        labels: labels, from their number.
        loss: loss of each picture, unreduced.
        may_refuse: an engine may decline this network with an error; it may never be wrong on it.
    """

    name: str
    family: str
    network: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    labels: Callable[[int], Tensor]
    loss: Loss
    may_refuse: bool = False

    def problem(self, counts: Sequence[int] = UNEVEN, dtype: torch.dtype = torch.float64) -> Problem:
        """The question for patients with so many pictures each; the same one at every call."""
        model, batch, _ = _solved(self, tuple(counts))
        labels = batch.labels.to(dtype) if batch.labels.is_floating_point() else batch.labels
        inputs = batch.inputs.to(dtype) if batch.inputs.is_floating_point() else batch.inputs
        model = copy.deepcopy(model).to(dtype)
        return Problem(model, self.loss, PatientBatch(inputs, labels, batch.patient, batch.num_patients))

    def gradients(self, counts: Sequence[int] = UNEVEN) -> Tensor:
        """The oracle's gradients, (patient, parameter), float64."""
        return _solved(self, tuple(counts))[2]


@functools.cache
def _solved(case: Case, counts: tuple[int, ...]) -> tuple[nn.Module, PatientBatch, Tensor]:
    """Model, batch and the oracle's gradients; not to be changed."""
    total = sum(counts)
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(sum(case.name.encode()))
        model = case.network().double()
        with torch.no_grad():
            for p in model.parameters():  # no scale that is 1, no offset that is 0
                p.add_(0.1 * torch.randn_like(p))
        patient = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        batch = PatientBatch(case.inputs(total), case.labels(total), patient, len(counts))
        return model, batch, patient_gradients(copy.deepcopy(model), case.loss, batch)


def classes(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, 3, (number, *shape))


def findings(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, 2, (number, *shape)).double()


def noise(*shape: int) -> Callable[[int], Tensor]:
    return lambda number: torch.randn(number, *shape, dtype=torch.float64)


def tokens(length: int, vocabulary: int = 7) -> Callable[[int], Tensor]:
    return lambda number: torch.randint(0, vocabulary, (number, length))


class Custom(nn.Module):
    """A network whose forward is the function `run(self, x)`; its parts are registered in the order given."""

    def __init__(self, run: Callable[[Any, Any], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def only(part: str, module: nn.Module) -> nn.Module:
    """Freezes everything except the parameters of one name, such as "bias"."""
    for name, p in module.named_parameters():
        p.requires_grad_(name.split(".")[-1] == part)
    return module


CASES: dict[str, Case] = {}


def add(
    family: str,
    name: str,
    network: Callable[[], nn.Module],
    inputs: Callable[[int], Tensor],
    labels: Callable[[int], Tensor] | None = None,
    loss: Loss = cross_entropy,
    *,
    may_refuse: bool = False,
) -> None:
    assert name not in CASES, name
    CASES[name] = Case(name, family, network, inputs, labels or classes(), loss, may_refuse)
