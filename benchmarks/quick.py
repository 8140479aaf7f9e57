"""A gate against slower code: a few ratios in a minute and a half, beside the committed ones.

    python -m benchmarks.quick [--repeats 3]    prints every ratio, the committed one, and their quotient
    python -m benchmarks.quick --write          commits what it measures; run it on a quiet machine

Every time is processor time, on one thread, over that of an ordinary training step of the small CNN, or of the decoder
alone, right before and right after it: a ratio says little of the machine and less of what else runs on it. A row is
`slower` when its least ratio is above the committed most by more than a quarter; then the exit code is 1.

The slow suites (`make bench-engine`, `bench-simulation`, `bench-secure-sum`, `bench-federation`, `benchmarks.reading`)
stay: they have the peers, the quartiles and the quiet machine.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.engine_measure import workload
from benchmarks.engine_networks import CASES
from benchmarks.engine_peers import ordinary
from benchmarks.engine_report import machine
from benchmarks.engine_turns import times
from benchmarks.reading import decode_dicom, decode_picture, dicom_export, thousand_xrays
from benchmarks.secure_sum_ours import attempt
from benchmarks.simulation_ours import scale_study
from wardround.config import Study, parse_study
from wardround.coordinator.observer import Silent
from wardround.images.listing import ReaderOptions
from wardround.images.load import load_images
from wardround.simulation.run import run_study

RESULT = Path(__file__).parent / "results" / "quick.json"
NETWORKS = ("small_cnn", "resnet18", "unet")
SURROUNDINGS = {"threads": 1, "deepee": None, "fastdp": None}
ALLOWED = 1.25
"""Above the committed most by this factor, a row is slower."""

_STEPS = 3
_PATIENTS = 300

Work = Callable[[], object]


def main() -> int:
    """Measures, compares, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", action="store_true", help="commit what is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        found = measured(options.repeats, Path(folder), options.data)
    print(f"{time.perf_counter() - started:.0f} s")
    if options.write:
        RESULT.write_text(json.dumps({"machine": machine(1), "ratios": found}, indent=2) + "\n")
    committed = json.loads(RESULT.read_text())["ratios"]
    slower = [name for name, ratios in found.items() if _is_slower(ratios, committed.get(name))]
    for name, ratios in found.items():
        known = committed.get(name)
        now = statistics.median(ratios)
        beside = (
            "not committed" if known is None else f"committed {statistics.median(known):8.2f} ({_range(known)})"
        )
        change = "" if known is None else f"{now / statistics.median(known):6.2f}"
        print(f"{name:34} {now:8.2f} ({_range(ratios)})  {beside}  {change}{'  slower' * (name in slower)}")
    return bool(slower)


def measured(repeats: int, folder: Path, data: Path) -> dict[str, list[float]]:
    """Returns the ratios of every row, one a repeat."""
    found: dict[str, list[float]] = {}
    for name in NETWORKS:
        request = {"network": name, "quick": True, "memory_bytes": 1 << 30, **SURROUNDINGS}
        table = times(request, ["wardround"], repeats * 3)["engines"]["wardround"]
        low, high = table["cpu_quartiles"]
        found[f"private step, {name}"] = [low, table["cpu_ratio"], high]
    step = ordinary(workload(CASES["small_cnn"]))
    step()

    def unit() -> None:
        for _ in range(_STEPS):
            step()

    works: dict[str, tuple[Work, Work, int]] = {
        "secure sum, 10 hospitals, 0.7 M": (lambda: attempt(725_061, 10, 1.0, (300,)), unit, _STEPS),
        "simulation, 1 hospital": (_runs(scale_study(1, 2, str(folder), _PATIENTS), folder), unit, _STEPS),
        "simulation, 10 hospitals": (_runs(scale_study(10, 2, str(folder), _PATIENTS), folder), unit, _STEPS),
        "study of a head, simulated": (_runs(_head_study(folder, "simulated"), folder), unit, _STEPS),
        "study of a head, masked": (_runs(_head_study(folder, "masked"), folder), unit, _STEPS),
    }
    (folder / "dicom").mkdir()
    readings = [("dicom", folder / "dicom", dicom_export(folder / "dicom", 100), decode_dicom)]
    if (data / "chest_xray").is_dir():
        files = thousand_xrays(data / "chest_xray", folder / "xrays")
        readings.append(("chest_xray", folder / "xrays", files, decode_picture))
    for layout, root, files, decode in readings:
        reads = _reads(layout, root)
        works[f"reading, {layout}"] = (reads, lambda files=files, decode=decode: [*map(decode, files)], 1)  # type: ignore[misc]
    for work, reference, _ in works.values():
        work()  # imports, caches, first draws
        reference()
    for _ in range(repeats):
        for name, (work, reference, count) in works.items():
            before, mine, after = (_processor_time(one) for one in (reference, work, reference))
            found.setdefault(name, []).append(2 * count * mine / (before + after))
    return found


def _runs(study: Study, folder: Path) -> Work:
    def run() -> None:
        with TemporaryDirectory(dir=folder) as out:
            run_study(study, Path(out) / "run", Silent())

    return run


def _head_study(folder: Path, total: str) -> Study:
    """A head on histograms, five hospitals, from cache to report."""
    return parse_study(
        {
            "study": {"name": "quick"},
            "data": {
                "layout": "phantom", "image_size": 64,
                "phantom": {"patients": _PATIENTS, "max_images": 1, "image_size": 64},
            },
            "hospitals": {"count": 5},
            "model": {"name": "features"},
            "privacy": {
                "plan": "dp-sgd", "epsilon": 8, "delta": 1e-5, "clipping_norm": 0.25, "sampling_prob": 1.0,
                "trust": "secure-aggregation", "sum": total,
            },
            "federation": {"strategy": "fedsgd", "rounds": 20, "learning_rate": 24, "momentum": 0.9},
            "performance": {"cache": str(folder), "threads": 1},
        }
    )  # fmt: skip


def _reads(layout: str, root: Path) -> Work:
    def read() -> None:
        with TemporaryDirectory() as cache:
            load_images(layout, root, cache_dir=Path(cache), options=ReaderOptions(reviewed=True))

    return read


def _processor_time(work: Work) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _range(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _is_slower(ratios: list[float], committed: Any) -> bool:
    return committed is not None and min(ratios) > ALLOWED * max(committed)


if __name__ == "__main__":
    sys.exit(main())
