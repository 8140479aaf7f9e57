"""The chest X-rays between five agent processes, beside simulations of the same study: AUROC within their spread.

    python -m benchmarks.radiographs_between --data path/to/chest_xray [--rounds 60] [--runs 5] [--out FILE]

Five hospitals, gradient histograms at 64 pixels, masked sums, epsilon 8, no seed: a deployed hospital refuses one on
real pictures, so that weights differ from run to run by their noise. Every run has the same division of patients, in
which each hospital sets its own test patients aside. Agents are processes with folders of their own, cohorts of their
own, and Unix sockets. The AUROC of every model is that on all test patients together, computed here: no figure of one
leaves a hospital in the run. The exit code is 1 where the run between agents lies outside of what the simulations
foresee (95 %: Student's t with one degree less than there are runs, on the standard deviation of one further run).
"""

import argparse
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import t as student

from benchmarks.engine_report import machine
from benchmarks.hospitals import make_homes, start_agents, wait_for
from wardround.config import Study, read_study
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.records.arrays import arrays_from_file
from wardround.simulation.evaluation import evaluate_models
from wardround.simulation.materials import Materials, gather
from wardround.simulation.run import run_study
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "chest_xray.toml"
NAMES = tuple(map(HospitalName, ("north", "south", "east", "west", "centre")))


def study_of(data: Path, cache: Path, rounds: int) -> Study:
    tables: dict[str, dict[str, Any]] = {
        "site": {"path": str(data.resolve())},
        "data": {"image_size": 64, "classes": ["normal", "pneumonia"], "test": "patients"},
        "hospitals": {"count": len(NAMES), "names": list(NAMES), "scheme": "even"},
        "model": {"name": "features"},
        "privacy": {"sum": "masked", "num_patients": 2220},
        "federation": {
            "rounds": rounds, "learning_rate": 24.0, "average_last": 0.0, "score_rounds": 0, "compare": (),
            "evaluate_every": rounds,
        },
        "performance": {"cache": str(cache), "threads": 1},
    }  # fmt: skip
    return read_study(EXAMPLE, tables)


def simulated(study: Study, folder: Path) -> float:
    with mock.patch("wardround.coordinator.recording.write_report"):
        metrics: Any = run_study(study, folder, Silent(), rehearsal=True).results["metrics"]
    return float(metrics["auroc"])


def between(study: Study, materials: Materials, folder: Path, cache: Path) -> float:
    """Returns the AUROC of a run between agents: a cohort has training patients and a share of the test patients."""
    sites = {}
    for number, name in enumerate(NAMES):
        cohort = [*materials.split.hospitals[name], *materials.split.test[number :: len(NAMES)]]
        (folder / f"{name}.txt").write_text("".join(f"{patient.id}\n" for patient in cohort))
        sites[name] = (
            f'cohort = "{folder / name}.txt"\n[site]\nlayout = "{study.site.layout}"\npath = "{study.site.path}"\n'
        )
    homes, keys = make_homes(folder, study, sites, "epsilon_limit = 20.0\ndelta = 1e-5\n")
    for home in homes.values():
        shutil.copytree(cache, home / "cache")  # pictures are decoded once
    with ExitStack() as stack:
        sockets = start_agents(stack, homes, folder)
        wait_for(list(sockets.values()))
        channel = SocketChannel(sockets, keys)
        stack.callback(channel.close)
        coordinate(study, channel, keys.hospitals, keys.key, folder / "run", Silent())
    last = max((folder / "run" / "checkpoints").iterdir())
    weights = arrays_from_file(last)["state:weights"]
    quality: Any = evaluate_models({"global": weights}, materials)["global"]
    return float(quality.auroc)


def foreseen(found: Sequence[float]) -> tuple[float, float]:
    """Returns where 95 % of further runs lie, by those that were found."""
    runs, mean, std = len(found), float(np.mean(found)), float(np.std(found, ddof=1))
    half = float(student.ppf(0.975, runs - 1)) * std * math.sqrt(1 + 1 / runs)
    return mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="wr-"))  # short: the path of a socket has at most 100 bytes
    try:
        cache = folder / "cache"
        study = study_of(options.data, cache, options.rounds)
        materials = gather(study, Silent())
        print(f"{len(materials.test)} test patients, {options.rounds} rounds", flush=True)
        agents = between(study, materials, folder, cache)
        print(f"between five agents  {agents:.4f}", flush=True)
        found = []
        for number in range(options.runs):
            found.append(simulated(study, folder / f"simulated-{number}"))
            print(f"simulated            {found[-1]:.4f}", flush=True)
    finally:
        shutil.rmtree(folder)
    low, high = foreseen(found)
    print(
        f"simulations {np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}; one further run: {low:.4f} to {high:.4f}"
    )
    if options.out is not None:
        table = {
            "machine": machine(1), "rounds": options.rounds, "agents": agents, "simulated": found,
            "foreseen": [low, high],
        }  # fmt: skip
        options.out.write_text(json.dumps(table, indent=2) + "\n")
    raise SystemExit(not low <= agents <= high)


if __name__ == "__main__":
    main()
