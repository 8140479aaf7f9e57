"""Checks and times our private step on one device: the bound first, then what a step costs over an ordinary one.

    python -m benchmarks.device [--device cuda] [--quick]

Takes under five minutes on a GPU, some minutes more on a processor, and ends with 1 if a check fails. On the device:

1. every conformance case in float64 against the oracle, on the processor, of one-patient backward passes;
2. clipped sums of the timed networks in float32 against float64 on the processor, and no slow path;
3. one patient moves a sum by at most the clip, in float32 and under bfloat16 autocast, at four scales of pictures;
4. the noise added to a sum that was formed there is the noise of the processor, to the last bit;
5. a small study from pictures to report, its device recorded, and a study with a seed that keeps to the processor.

Times are medians of a private step without noise over the mean of the ordinary steps before and after it, the device
waited for; `bf16` is both under autocast. An ordinary float32 step of a GPU is TF32 in convolutions, ours is not.
Writes nothing but what it prints, as JSON at the end. Run from the root of the repository.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tests.per_patient.conformance import CASES as CONFORMANCE
from tests.per_patient.conformance import UNEVEN, judge
from torch import Tensor, nn

from benchmarks.engine_networks import CASES, picture_loss
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.per_patient import PatientBatch, SlowPath, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION
from wardround.randomness import Randomness
from wardround.simulation.run import run_study

NETWORKS = ("small_cnn", "resnet18", "unet", "vit_tiny")
CLIP = 0.1
OWN_TENSORS = {
    "positions by Embedding of arange, as many as pictures", "Linear on a table, as long as there are pictures",
    "weighted, smoothed cross-entropy",
}  # fmt: skip
"""Conformance cases that make tensors on the processor in their own forward pass or loss."""

Failures = list[str]


def main() -> None:
    """Runs the checks, then the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="few cases and tiny batches, for a smoke test")
    options = parser.parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    networks = NETWORKS[:1] if options.quick else NETWORKS
    failures: Failures = []
    began = time.perf_counter()
    _conformance(device, failures, 40 if options.quick else 1)
    for name in networks:
        _agreement(name, device, failures)
        _bound(name, device, failures)
    _noise(device, failures)
    _studies(device, failures)
    times = {name: _times(name, device, options.rounds, quick=options.quick) for name in networks}
    for failure in failures:
        print("FAILED", failure)
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "torch": torch.__version__,
        "failures": failures, "times": times, "seconds": round(time.perf_counter() - began),
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    sys.exit(bool(failures))


def _there(batch: PatientBatch, device: torch.device) -> PatientBatch:
    inputs, labels, patient = (each.to(device) for each in (batch.inputs, batch.labels, batch.patient))
    return PatientBatch(inputs, labels, patient, batch.num_patients)


def _conformance(device: torch.device, failures: Failures, every: int) -> None:
    def engine(model: nn.Module, loss: Any, batch: PatientBatch, norm: float) -> Tensor:
        return clipped_sum(model.to(device), loss, _there(batch, device), clipping_norm=norm).vector.cpu()

    for name in [name for name in CONFORMANCE if name not in OWN_TENSORS][::every]:
        verdict = judge(CONFORMANCE[name], engine, counts=UNEVEN, shave=SINGLE_PRECISION, tolerance=1e-9)
        if not verdict.passed:
            failures.append(f"conformance: {verdict}")


def _batch(name: str, pictures: int, scale: float = 1.0) -> PatientBatch:
    """Returns pictures, the last patient of which has two."""
    inputs, labels = CASES[name].quick().pictures()
    while len(inputs) < pictures:
        inputs, labels = torch.cat([inputs, 0.7 * inputs]), torch.cat([labels, labels])
    patient = torch.arange(pictures).clamp(max=pictures - 2)
    return PatientBatch(scale * inputs[:pictures], labels[:pictures], patient, pictures - 1)


def _agreement(name: str, device: torch.device, failures: Failures) -> None:
    model, batch = CASES[name].quick().model(), _batch(name, 6)
    fine = PatientBatch(batch.inputs.double(), batch.labels, batch.patient, batch.num_patients)
    expected = clipped_sum(copy.deepcopy(model).double(), picture_loss, fine, clipping_norm=CLIP).vector
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = clipped_sum(model.to(device), picture_loss, _there(batch, device), clipping_norm=CLIP).vector.cpu()
    error = float((found.double() - expected).norm() / expected.norm())
    if not error < 1e-3:
        failures.append(f"agreement: {name} is {error:.1e} away from float64")
    if any(issubclass(each.category, SlowPath) for each in caught):
        failures.append(f"agreement: {name} took the slow path: {caught[-1].message}")


def _bound(name: str, device: torch.device, failures: Failures) -> None:
    model = CASES[name].quick().model().to(device)
    for scale in (1e-10, 1.0, 1e4, 1e30):
        whole = _there(_batch(name, 6, scale), device)
        fewer = PatientBatch(whole.inputs[:4], whole.labels[:4], whole.patient[:4], 4)
        for kind in ("float32", "bf16"):
            with _precision(kind, device):
                sums = [
                    clipped_sum(model, picture_loss, each, clipping_norm=CLIP).vector.double()
                    for each in (whole, fewer)
                ]
            moved = float((sums[0] - sums[1]).norm()) / CLIP
            if not moved <= 1.0:
                failures.append(f"bound: {name}, {kind}, scale {scale:g}: moved by {moved:.9g} clips")


def _noise(device: torch.device, failures: Failures) -> None:
    formed = torch.ones(100_000, device=device).cpu().numpy()
    known = np.ones(100_000, dtype=np.float32)
    for values in (formed, known):
        Randomness(7, "benchmark").stream("noise").add_normal(values, 2.5)
    if not np.array_equal(formed, known):
        failures.append("noise: it depends on the device")


def _studies(device: torch.device, failures: Failures) -> None:
    for seed, expected in ((None, device.type), (7, "cpu")):
        raw: dict[str, Any] = {
            "study": {"name": "device"} | ({} if seed is None else {"seed": seed}),
            "data": {"layout": "phantom", "image_size": 32, "phantom": {"patients": 60, "image_size": 32}},
            "hospitals": {"count": 3}, "model": {"name": "small_cnn"}, "performance": {"device": "auto"},
            "privacy": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-4, "sum": "simulated"},
            "federation": {"strategy": "fedsgd", "rounds": 4},
        }  # fmt: skip
        with TemporaryDirectory() as folder:
            raw["privacy"]["ledger"] = str(Path(folder) / "ledger.sqlite")
            run_study(parse_study(raw), Path(folder) / "run", Silent())
            said = json.loads((Path(folder) / "run" / "environment.json").read_text())["device"]
        if said != expected:
            failures.append(f"study: seed {seed} ran on {said}")


def _times(name: str, device: torch.device, rounds: int, *, quick: bool) -> dict[str, float]:
    case = CASES[name].quick() if quick else CASES[name]
    model = case.model().to(device)
    inputs, labels = (each.to(device) for each in case.pictures())
    batch = PatientBatch(inputs, labels, torch.arange(len(inputs), device=device), len(inputs))

    def ordinary() -> None:
        model.zero_grad()
        torch.autograd.backward(picture_loss(model(inputs), labels).sum())

    def private() -> None:
        clipped_sum(model, picture_loss, batch, clipping_norm=CLIP)

    found = {}
    for kind in ("float32", "bf16"):
        with _precision(kind, device):
            for _ in range(3):
                ordinary()
                private()
            ratios, before = [], _seconds(ordinary, device)
            for _ in range(rounds):
                mine, after = _seconds(private, device), _seconds(ordinary, device)
                ratios.append(2 * mine / (before + after))
                before = after
        found[f"{kind}_ratio"] = statistics.median(ratios)
        found[f"{kind}_ordinary_ms"] = 1000 * before
    return {key: round(value, 3) if math.isfinite(value) else value for key, value in found.items()}


def _precision(kind: str, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if kind == "bf16" else nullcontext()


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
