"""Figures of the chest X-rays: `examples/chest_xray.toml` as it stands, at several epsilons, over splits of patients.

    python -m benchmarks.chest_xray --data path/to/chest_xray [--sum masked] [--epsilons 8 2 1 0.5] [--splits 5]
                                    [--test published]

prints one row for each epsilon: mean and standard deviation, over splits and their noise, of AUROC and accuracy on
held-out patients, of accuracy at the private threshold of 90 % sensitivity (of the largest logit where none is
released), and the AUROC of six brightness and border numbers. Nothing is chosen but epsilon, the split and the kind of
sum; there is no seed, so noise comes from the operating system. With `--test published` the test pictures are those of
the published folder, which share 264 patients with the training folder, and a split is of hospitals and noise alone.
Each run is a rehearsal, whose ledger goes with it, and nothing is left but the cache.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any
from unittest import mock

import numpy as np

from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "chest_xray.toml"
SHOWN = (
    "AUROC", "accuracy", "accuracy at the private threshold", "AUROC of brightness and borders",
    "processor seconds of a run",
)  # fmt: skip


def figures(options: argparse.Namespace, epsilon: float) -> Iterator[tuple[float, ...]]:
    """Yields AUROC, both accuracies, the shortcut's AUROC and processor seconds of the run of each split."""
    for split in range(options.splits):
        tables: dict[str, dict[str, object]] = {
            "data": {"path": str(options.data.resolve()), "test": options.test},
            "hospitals": {"split_seed": split},
            "privacy": {"epsilon": epsilon, "sum": options.sum},
        } | ({"performance": {"cache": str(options.cache)}} if options.cache else {})
        study, started = read_study(EXAMPLE, tables), process_time()
        with TemporaryDirectory() as folder, mock.patch("wardround.coordinator.recording.write_report"):
            results = run_study(study, Path(folder) / "run", Silent(), rehearsal=True).results
        metrics: Any = results["metrics"]
        shortcut: Any = results["shortcut_auroc"]
        at_threshold: Any = results["operating_points"]
        found = metrics["auroc"], metrics["accuracy"], at_threshold[0]["accuracy"], shortcut
        yield *found, process_time() - started


def shown(values: np.ndarray, digits: int) -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sum", choices=("simulated", "masked"), default="simulated")
    parser.add_argument("--test", choices=("stratified", "patients", "published"), default="patients")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 2, 1, 0.5])
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    print("| ε, sum |", " | ".join(SHOWN), "|")
    print("|---" * (1 + len(SHOWN)) + "|")
    for epsilon in options.epsilons:
        found = np.array(list(figures(options, epsilon)))
        cells = [shown(column, digits) for column, digits in zip(found.T, (4, 4, 4, 3, 1), strict=True)]
        print(f"| {epsilon:g}, {options.sum} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
