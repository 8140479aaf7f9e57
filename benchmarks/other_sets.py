"""Figures of sets that nothing was chosen on: a study with path, layout and epsilon alone, against two floors.

    python -m benchmarks.other_sets --out folder [--hippocampus path/to/Task04_Hippocampus] [--sets fundus mri]

makes the sets of `benchmarks.generated_sets` in the folder where they are missing, and prints a row for each set and
epsilon: mean and standard deviation over splits by patient, each with its own noise, of the headline figure (quadratic
kappa of grades, else AUROC) and of the accuracy, by default, and with a head on histograms under the fixed schedule
that earlier versions showed (64 pixels, 60 rounds at a rate of 24); beside them six brightness and border numbers in
the same measure, not private. Five hospitals, one colluder, delta 1e-5, noise from the operating system.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.chest_xray import shown
from benchmarks.generated_sets import write_fundus, write_hippocampus, write_mri, write_ultrasound
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

SETS: dict[str, Callable[[Path], None]] = {
    "fundus": write_fundus, "mri": write_mri, "ultrasound": write_ultrasound,
}  # fmt: skip

EARLIER: dict[str, Any] = {
    "data": {"image_size": 64},
    "model": {"name": "features", "encoder": "hog"},
    "federation": {"strategy": "fedsgd", "rounds": 60, "learning_rate": 24.0},
}
"""The chest X-rays' study before there was the recipe."""


def figures(
    options: argparse.Namespace, name: str, epsilon: float, split: int, given: dict[str, Any]
) -> tuple[float, float, float]:
    """Returns the headline figure, the accuracy, and the headline figure of six brightness numbers."""
    layout, data = "aptos" if name == "fundus" else "folder", given.get("data", {})
    study = parse_study(
        given
        | {
            "study": {"name": name},
            "site": {"layout": layout, "path": str((options.out / name).resolve())},
            "data": data,
            "hospitals": {"split_seed": split},
            "privacy": {"plan": "dp-sgd", "epsilon": epsilon, "delta": 1e-5, "sum": "simulated"},
            "performance": {"cache": str(options.out / "cache")},
        }
    )
    with TemporaryDirectory() as folder, mock.patch("wardround.coordinator.recording.write_report"):
        results = run_study(study, Path(folder) / "run", Silent(), rehearsal=True).results
    metrics: Any = results["metrics"]
    headline = metrics["shown"][0]["key"]
    shortcut: Any = results["shortcut_kappa" if headline == "quadratic_kappa" else "shortcut_auroc"]
    return metrics[headline], metrics["accuracy"], shortcut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets and of the cache")
    parser.add_argument("--hippocampus", type=Path, help="folder of Task04_Hippocampus")
    parser.add_argument("--sets", nargs="+", default=[*SETS])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 2, 1, 0.5])
    parser.add_argument("--splits", type=int, default=3)
    options = parser.parse_args()
    makers = dict(SETS)
    if options.hippocampus is not None:
        makers["hippocampus"] = lambda folder: write_hippocampus(folder, options.hippocampus)
        options.sets = [*dict.fromkeys([*options.sets, "hippocampus"])]
    print("| set, ε | by default | accuracy | histograms, fixed schedule | accuracy | six brightness numbers |")
    print("|---" * 6 + "|")
    for name in options.sets:
        if not (options.out / name).exists():
            makers[name](options.out / name)
        for epsilon in options.epsilons:
            ways = [
                np.array([figures(options, name, epsilon, split, given) for split in range(options.splits)])
                for given in ({}, EARLIER)
            ]
            cells = [shown(way[:, column], 3) for way in ways for column in (0, 1)]
            print(f"| {name}, {epsilon:g} |", " | ".join([*cells, shown(ways[0][:, 2], 3)]), "|", flush=True)


if __name__ == "__main__":
    main()
