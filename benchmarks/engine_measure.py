"""Measured in one process: peak memory of an engine, our curves, agreement, conformance.

Each function takes names and numbers and returns a table of names and numbers, because `benchmarks.engine` calls
it in a process of its own.
"""

import copy
import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine_networks import CASES, Case, SmallCnn, picture_loss
from benchmarks.engine_peers import ENGINES, Loss, Step, Workload, ordinary, wardround
from wardround.per_patient import PatientBatch, clipped_sum, per_patient_gradients
from wardround.per_patient.margins import SINGLE_PRECISION

WARM_UP = 2
"""Steps before any time is taken: an engine may look for the best method in its first ones."""

AGREES = 1e-4
"""Largest relative error that still counts as the same sum: Opacus adds 1e-6 to norms, a wrong layer is wrong by
far more. How far ours aims below the clipping norm is in the sum it is compared with."""

SUITE = Path(__file__).parents[1] / "tests" / "per_patient" / "conformance.py"

CHECKED_PICTURES = 4


def workload(case: Case, **changes: Any) -> Workload:
    """The case with its own copy of the weights."""
    inputs, labels = case.pictures()
    return replace(Workload(case.model(), picture_loss, inputs, labels), **changes)


def timed(step: Step) -> tuple[float, float]:
    """Seconds by the wall clock and of processor time that one step takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def agreement(case: Case, engines: Sequence[str]) -> dict[str, Any]:
    """Relative error of each engine's clipped sum on this network, in float64, without noise and dropout.

    The oracle is a loop of one-picture backward passes; half of the pictures are clipped.
    """
    case = replace(case, batch=min(case.batch, CHECKED_PICTURES))
    model = case.model().double()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    inputs, labels = case.pictures()
    inputs = inputs.double()
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    gradients = torch.stack(
        [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(picture_loss(model(x[None]), y[None])[0], parameters)]
            )
            for x, y in zip(inputs, labels, strict=True)
        ]
    )
    norms = gradients.norm(dim=1)
    clipping_norm = 0.9 * float(norms.median())
    expected = {
        kind: (clipping_norm * (SINGLE_PRECISION if kind == "ours" else 1.0) / norms).clamp(max=1.0) @ gradients
        for kind in ("ours", "peer")
    }
    del gradients
    table: dict[str, Any] = {}
    for name in engines:
        try:
            found = sum_of(name, copy.deepcopy(model), picture_loss, inputs, labels, clipping_norm)
            table[name] = _largest_error(found, expected[_clips_as(name)], sizes)
        except Exception as error:
            table[name] = reason(error)
        gc.collect()
    return table


def sum_of(
    name: str, model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, clipping_norm: float,
    patient: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The clipped sum of an engine, (parameter,), read off one noiseless step of learning rate 1."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = torch.cat([parameter.detach().flatten() for parameter in parameters]).clone()
    work = Workload(model, loss, inputs, labels, 0.0, clipping_norm, 1.0, patient)
    ENGINES[name].build(work)()
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    patients = len(inputs) if patient is None else int(patient.max()) + 1
    return (before - after) * patients


def _clips_as(name: str) -> str:
    return "ours" if name.startswith("wardround") else "peer"


def _largest_error(found: Tensor, expected: Tensor, sizes: list[int]) -> float:
    """The largest error of a parameter, relative to its own norm; what is rounding of the whole counts as zero."""
    floor = 1e-6 * expected.norm()
    errors = [
        float((mine - theirs).norm() / theirs.norm().clamp(min=floor))
        for mine, theirs in zip(torch.split(found, sizes), torch.split(expected, sizes), strict=True)
    ]
    return max(errors)


def peak_memory(case: Case, engine: str | None, memory_bytes: int) -> dict[str, Any]:
    """Growth of resident memory to its peak in the first step, and the median of three later ones, in MB.

    Engine None is the ordinary step. The first step studies the network and checks its batch. A later one checks it
    again about once in 32 steps, and needs as much as the first then: the median leaves it out.
    """
    work = workload(case, memory_bytes=memory_bytes)
    peaks = []
    try:
        step = ordinary(work) if engine is None else ENGINES[engine].build(work)
        gc.collect()
        before = _status_mb("VmRSS")
        for _ in range(4):
            _forget_peak()  # from here on the peak is this step's own
            step()
            peaks.append(_status_mb("VmHWM"))
    except Exception as error:
        return {"fails": reason(error)}
    first, later = (max(peak - before, 0.0) for peak in (peaks[0], statistics.median(peaks[1:])))
    return {"memory_mb": later, "first_memory_mb": first}


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status_mb(field: str) -> float:
    """A line of /proc/self/status. The peak there, unlike `ru_maxrss`, is not inherited from the parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def curves(rounds: int, quick: bool) -> dict[str, Any]:
    """Our step over batch, pixels and patients, for the small network; and the cost of the gradients as rows."""
    batches = (4, 8) if quick else (8, 16, 32, 48, 64)
    sides = (16, 32) if quick else (32, 64, 96, 128)
    pictures = 8 if quick else 64
    patients = tuple(number for number in (1, 2, 8, 32, 64) if number <= pictures)
    over_patients = {
        number: wardround(_small(pictures, 64, torch.arange(pictures) * number // pictures)) for number in patients
    }
    table = {
        "batch": _curve({size: wardround(_small(size, 64)) for size in batches}, rounds),
        "pixels": _curve({side * side: wardround(_small(16, side)) for side in sides}, rounds),
        "patients": _curve(over_patients, rounds),
        "per_patient_gradients": _rows_cost(pictures, rounds),
    }
    table["patients"]["over_one_each"] = [each / table["patients"]["ms"][-1] for each in table["patients"]["ms"]]
    return table


def _small(batch: int, side: int, patient: Tensor | None = None) -> Workload:
    case = Case("", batch, (3, side, side), lambda shape: SmallCnn(shape[0]))
    return workload(case, patient=patient)


def _curve(steps: dict[int, Step], rounds: int) -> dict[str, Any]:
    """Median times, interleaved, and the straight line through them."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    found: dict[int, list[float]] = {size: [] for size in steps}
    for _ in range(rounds):
        for size, step in steps.items():
            found[size].append(1000 * timed(step)[0])
    sizes, medians = np.array(list(found)), np.array([statistics.median(each) for each in found.values()])
    slope, intercept = np.polyfit(sizes, medians, 1)
    left = medians - (slope * sizes + intercept)
    spread = ((medians - medians.mean()) ** 2).sum()
    return {
        "sizes": sizes.tolist(),
        "ms": medians.tolist(),
        "quartiles": [quartiles(each) for each in found.values()],
        "slope_ms": float(slope),
        "intercept_ms": float(intercept),
        "r2": float(1 - (left**2).sum() / spread) if len(sizes) > 2 and spread > 0 else None,
    }


def _rows_cost(pictures: int, rounds: int) -> dict[str, Any]:
    """Every patient's gradient as a row, not clipped, over the ordinary step."""
    work, reference = _small(pictures, 64), ordinary(_small(pictures, 64))
    batch = PatientBatch(work.inputs, work.labels, torch.arange(pictures), pictures)

    def step() -> None:
        per_patient_gradients(work.model, work.loss, batch)

    try:
        step()
    except Exception as error:
        return {"fails": reason(error)}
    reference()
    ratios = []
    for _ in range(rounds):
        before, mine, after = timed(reference)[0], timed(step)[0], timed(reference)[0]
        ratios.append(mine / ((before + after) / 2))
    return {"step_ratio": statistics.median(ratios), "quartiles": quartiles(ratios)}


def conformance(engines: Sequence[str]) -> dict[str, Any]:
    """The project's own conformance suite, asked of each engine: "ok", "wrong 1.1e+00" or "refuses: reason".

    Ours is asked about uneven patients, the others about one picture each.
    """
    if not SUITE.exists():
        return {"fails": f"there is no {SUITE}"}
    # By its folder: a peer's source folder may hold a package called `tests`, which would be found instead.
    sys.modules["tests"] = tests = ModuleType("tests")
    tests.__path__ = [str(SUITE.parents[1])]
    suite = importlib.import_module("tests.per_patient.conformance")
    table: dict[str, Any] = {}
    for case in suite.CASES.values():
        row: dict[str, str] = {}
        for name in engines:
            ours = ENGINES[name].kind == "ours"
            verdict = suite.judge(
                case,
                _asked(name),
                counts=suite.UNEVEN if ours else suite.ONE_EACH,
                shave=SINGLE_PRECISION if ours else 1.0,
                # Opacus and deepee add 1e-6 to norms, which is no fault; on small gradients that is 1e-5 of them.
                tolerance=1e-5 if ours else AGREES,
            )
            texts = {"right": "ok", "wrong": f"wrong {verdict.error:.1e}", "refused": f"refuses: {verdict.detail}"}
            row[name] = texts[verdict.outcome]
        table[case.name] = {"family": case.family, **row}
    return table


def _asked(name: str) -> Callable[[nn.Module, Loss, Any, float], Tensor]:
    """An engine as the conformance suite asks it."""

    def engine(model: nn.Module, loss: Loss, batch: Any, clipping_norm: float) -> Tensor:
        if ENGINES[name].kind == "ours":
            return clipped_sum(model, loss, batch, clipping_norm=clipping_norm).vector
        return sum_of(name, model, loss, batch.inputs, batch.labels, clipping_norm)

    return engine


def reason(error: Exception) -> str:
    """The kind of an exception and the start of its sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def quartiles(values: list[float]) -> list[float] | None:
    """None of fewer than three values: two numbers would look like a spread."""
    if len(values) < 3:
        return None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What one process is asked for, by name."""
    kind = request["kind"]
    if kind == "curves":
        return curves(request["rounds"], request["quick"])
    if kind == "conformance":
        return conformance(request["engines"])
    case = CASES[request["network"]]
    case = case.quick() if request["quick"] else case
    if kind == "agreement":
        return agreement(case, request["engines"])
    return peak_memory(case, request["engine"], request["memory_bytes"])
