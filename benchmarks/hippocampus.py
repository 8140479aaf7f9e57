"""Figures of the hippocampus in MRI: what a study gets that names nothing but epsilon, over splits of volumes.

    python -m benchmarks.hippocampus --data path/to/Task04_Hippocampus [--view slices] [--epsilons 8] [--splits 0 1 2]

prints one row for each split and one for each epsilon: mean and standard deviation, over splits and their noise, of the
Dice of held-out volumes, and the Dice of the mask that most training patients have at each place, without any picture.
Nothing is chosen but epsilon, the split, the size of the volumes and the view; there is no seed, so noise comes from
the operating system. Each run is a rehearsal, whose ledger goes with it, and nothing is left but the cache.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.chest_xray import shown
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

STUDY: dict[str, dict[str, object]] = {
    "study": {"name": "hippocampus"},
    "data": {"layout": "decathlon", "volume_size": [40, 56, 40], "spacing": [1.0, 1.0, 1.0]},
    "hospitals": {"count": 5},
    "privacy": {"plan": "dp-sgd", "delta": 1e-5, "sum": "simulated"},
    "federation": {"evaluate_every": 1000},
}
SHOWN = ("Dice", "Dice of the place alone", "processor seconds of a run")


def figures(options: argparse.Namespace, epsilon: float) -> Iterator[tuple[float, ...]]:
    """Yields the mean Dice of the parts, that of the place alone, and processor seconds of the run of each split."""
    for split in options.splits:
        tables = {name: dict(table) for name, table in STUDY.items()}
        tables["data"] |= {"path": str(options.data.resolve()), "view": options.view}
        tables["hospitals"]["split_seed"] = split
        tables["privacy"]["epsilon"] = epsilon
        if options.cache is not None:
            tables["performance"] = {"cache": str(options.cache.resolve())}
        study, started = parse_study(tables), process_time()
        with TemporaryDirectory() as folder, mock.patch("wardround.coordinator.recording.write_report"):
            results = run_study(study, Path(folder) / "run", Silent(), rehearsal=True).results
        metrics: Any = results["metrics"]
        place: Any = results["location_dice"]
        found = (metrics["dice"], place, process_time() - started)
        print(f"| {epsilon:g}, split {split} |", " | ".join(f"{value:.4g}" for value in found), "|", flush=True)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--view", choices=("volume", "slices"), default="volume")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8])
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    print(f"| ε, {options.view} |", " | ".join(SHOWN), "|")
    print("|---" * (1 + len(SHOWN)) + "|")
    for epsilon in options.epsilons:
        found = np.array(list(figures(options, epsilon)))
        cells = [shown(column, digits) for column, digits in zip(found.T, (3, 3, 0), strict=True)]
        print(f"| **{epsilon:g}**, {len(options.splits)} splits |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
