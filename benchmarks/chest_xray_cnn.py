"""The curve of a private network from scratch on the chest X-rays: `examples/chest_xray_cnn.toml` with other values.

    python -m benchmarks.chest_xray_cnn --data path/to/chest_xray [--rounds 60 120] [--variants ...] [--splits 1]

prints one row for each variant and number of rounds: the AUROC of held-out patients by round, at epsilon 8, and
processor seconds. Evaluations are of the model that would be released in that round. There is no seed, so noise comes
from the operating system. Each run is a rehearsal, whose ledger goes with it, and nothing is left but the cache.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any
from unittest import mock

from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.records.reading import read_lines
from wardround.simulation.run import run_study

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "chest_xray_cnn.toml"
STANDARDISED: dict[str, dict[str, object]] = {"model": {"standardise_weights": True}}
COPIES: dict[str, dict[str, object]] = {
    "training": {"augment": {"rotate": 8, "shift": 0.05, "multiplicity": 2}},
}
VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "as-it-is": {},
    "standardised": STANDARDISED,
    "standardised-two-copies": STANDARDISED | COPIES,
    "last-block": {"model": {"train": "last-block"}},
    "biases": {"model": {"train": "biases"}},
}
EVERY = 20
"""Rounds between two evaluations."""


def curve(options: argparse.Namespace, variant: str, rounds: int, split: int) -> tuple[dict[int, float], float]:
    """Returns the AUROC by round, and processor seconds."""
    tables: dict[str, dict[str, object]] = {
        "data": {"path": str(options.data.resolve())},
        "hospitals": {"split_seed": split},
        "privacy": {"sum": "simulated"},
        "federation": {"rounds": rounds, "evaluate_every": EVERY, "compare": []},
    }
    if options.cache is not None:
        tables["performance"] = {"cache": str(options.cache.resolve())}
    study, started = read_study(EXAMPLE, tables | VARIANTS[variant]), process_time()
    with TemporaryDirectory() as folder, mock.patch("wardround.coordinator.recording.write_report"):
        run_study(study, Path(folder) / "run", Silent(), rehearsal=True)
        lines: Any = [line for line in read_lines(Path(folder) / "run" / "rounds.jsonl") if "metrics" in line]
    return {line["round"]: line["metrics"]["auroc"] for line in lines}, process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--rounds", type=int, nargs="+", default=[60, 120])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--splits", type=int, default=1)
    options = parser.parse_args()
    print("| variant, rounds, split | AUROC by round | processor seconds |\n|---|---|---|")
    for variant in options.variants:
        for rounds in options.rounds:
            for split in range(options.splits):
                found, seconds = curve(options, variant, rounds, split)
                shown = ", ".join(f"{round}: {value:.4f}" for round, value in found.items())
                print(f"| {variant}, {rounds}, {split} | {shown} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
