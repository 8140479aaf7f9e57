"""What every engine of per-patient clipped gradients must get right, and the oracle that says what right is.

An engine is any callable `(model, loss, batch, clipping_norm) -> vector`: the sum over patients of their clipped
gradients, (parameter,), trained parameters in the order of `named_parameters`. The same cases judge ours and the
peers; those that know no patients are judged on batches of one picture each:

    for case in CASES.values():
        print(judge(case, engine, counts=ONE_EACH, tolerance=1e-5))

The oracle is a loop of one-patient backward passes in float64, by ordinary autograd. Nothing here needs pytest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tests.per_patient.case import CASES, UNEVEN, Case
from tests.per_patient.cases_of_layers import add_layers
from tests.per_patient.cases_of_networks import add_networks
from tests.per_patient.cases_of_wiring import add_wiring
from tests.per_patient.oracle import (
    Loss,
    clip_and_sum,
    parameter_sizes,
    quietly,
    relative_error,
    typical_clipping_norm,
)
from torch import Tensor, nn

from wardround.per_patient.batch import PatientBatch

__all__ = ["CASES", "ONE_EACH", "UNEVEN", "Verdict", "judge"]

Engine = Callable[[nn.Module, Loss, PatientBatch, float], Tensor]
ONE_EACH = (1, 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Verdict:
    """How an engine did on a case.

    Attributes:
        case: name of the case.
        outcome: "right", "wrong", or "refused" (an exception was raised).
        error: largest relative error over the parameters; infinite where refused.
        detail: the parameter that is worst, or the exception.
        passed: right, or refused where that is allowed.
    """

    case: str
    outcome: str
    error: float
    detail: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.case:<58} {self.outcome:<8} {self.error:8.1e}  {self.detail}"


def judge(
    case: Case,
    engine: Engine,
    *,
    counts: Sequence[int] = UNEVEN,
    clipping_norm: float | None = None,
    shave: float = 1.0,
    tolerance: float = 1e-10,
    dtype: torch.dtype = torch.float64,
) -> Verdict:
    """Compares an engine with the oracle.

    Args:
        case: the network.
        engine: see the module.
        counts: pictures of each patient.
        clipping_norm: by default one that clips the larger half of the patients.
        shave: factor by which the engine aims below the clipping norm.
        tolerance: relative error allowed; a peer that adds 1e-6 to each norm needs more.
        dtype: of the engine's network and pictures; the oracle's are always float64.
    """
    gradients = case.gradients(counts)
    norm = typical_clipping_norm(gradients) if clipping_norm is None else clipping_norm
    problem = case.problem(counts, dtype)
    sizes = parameter_sizes(problem.model)
    try:
        with quietly():
            vector = engine(problem.model, problem.loss, problem.batch, norm)
    except Exception as refusal:  # a peer may raise anything at all
        detail = f"{type(refusal).__name__}: {' '.join(str(refusal).split())[:160]}"
        return Verdict(case.name, "refused", math.inf, detail, case.may_refuse)
    one = min(norm, float(gradients.norm(dim=1).max())) if len(gradients) else 0.0
    error, worst = relative_error(vector, clip_and_sum(gradients, norm, shave=shave), sizes, one=one)
    right = error < tolerance
    return Verdict(case.name, "right" if right else "wrong", error, worst, right)


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)  # some cases draw the values of their parts here
    add_layers()
    add_wiring()
    add_networks()
