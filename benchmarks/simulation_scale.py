"""What it costs to simulate many hospitals on one machine: seconds a round, memory, and time beside the model.

    python benchmarks/simulation_scale.py [--rounds 10] [--repeats 3]

The same phantoms are dealt out to 5 and to 200 hospitals; each setting runs in a fresh process, interleaved,
`repeats` times. The peer is this package's own pooled run: one hospital with all patients, on the same work.
Writes benchmarks/results/simulation_scale.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RESULT = Path(__file__).parent / "results" / "simulation_scale.json"
PATIENTS = 1250


def study_for(hospitals: int, rounds: int, network: str, cache: str) -> dict[str, dict[str, Any]]:
    """The same patients and the same promise, whoever holds them."""
    trust = "secure-aggregation" if hospitals > 1 else "nobody"
    return {
        "study": {"name": "scale"},
        "data": {"layout": "phantom", "image_size": 64, "phantom": {"patients": PATIENTS, "image_size": 64}},
        "hospitals": {"count": hospitals},
        "model": {"name": network},
        "privacy": {"plan": "dp-sgd", "epsilon": 8, "delta": 1e-5, "trust": trust},
        "federation": {"rounds": rounds, "learning_rate": 0.5, "evaluate_every": rounds},
        "performance": {"cache": cache},
    }


def measure(hospitals: int, rounds: int, network: str, cache: str) -> dict[str, float]:
    """One run in this process: medians over its rounds, and the peak of resident memory."""
    import resource

    from wardround.config import parse_study
    from wardround.run.observer import Silent
    from wardround.run.stages import run_study
    from wardround.training.workbench import Workbench

    inside = 0.0
    original = Workbench.gradient_sums

    def timed(self: Workbench, *args: Any) -> Any:
        nonlocal inside
        started = time.perf_counter()
        sums = original(self, *args)
        inside += time.perf_counter() - started
        return sums

    setattr(Workbench, "gradient_sums", timed)  # noqa: B010  # the type checker refuses the plain assignment
    with TemporaryDirectory() as folder:
        study = parse_study(study_for(hospitals, rounds, network, cache))
        record = run_study(study, Path(folder) / "run", Silent())
        seconds = [float(str(line["seconds"])) for line in record.rounds]
    return {
        "seconds_a_round": statistics.median(seconds[1:]),
        "outside_share": 1 - inside / sum(seconds),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    """Runs every setting in fresh processes and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        hospitals, rounds, network, cache = options.one
        print(json.dumps(measure(int(hospitals), int(rounds), network, cache)))
        return
    table: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "cores": _cores()},
        "patients": PATIENTS,
        "rounds": options.rounds,
        "repeats": options.repeats,
        "networks": {},
    }
    with TemporaryDirectory() as cache:
        for network in ("small_cnn", "features"):
            table["networks"][network] = _compare(network, options.rounds, options.repeats, cache)
    RESULT.write_text(json.dumps(table, indent=2) + "\n")
    print(f"written: {RESULT.relative_to(Path.cwd()) if RESULT.is_relative_to(Path.cwd()) else RESULT}")


def _compare(network: str, rounds: int, repeats: int, cache: str) -> dict[str, Any]:
    settings = (1, 5, 200)
    runs: dict[int, list[dict[str, float]]] = {hospitals: [] for hospitals in settings}
    for _ in range(repeats):
        for hospitals in settings:
            command = [sys.executable, __file__, "--one", str(hospitals), str(rounds), network, cache]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[hospitals].append(json.loads(done.stdout))
    ratios = [
        many["seconds_a_round"] / few["seconds_a_round"] for many, few in zip(runs[200], runs[5], strict=True)
    ]
    rows = {
        str(hospitals): {key: statistics.median(run[key] for run in found) for key in found[0]}
        for hospitals, found in runs.items()
    }
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{network}: 200 hospitals over 5: {statistics.median(ratios):.2f} ({spread})")
    for name, row in rows.items():
        print(
            f"  {name:>4} hospitals  {row['seconds_a_round']:.3f} s a round, "
            f"{100 * row['outside_share']:.1f} % outside the model, peak {row['peak_gb']:.2f} GB"
        )
    return {"hospitals": rows, "ratio_200_over_5": {"median": statistics.median(ratios), "all": ratios}}


def _cores() -> int:
    import os

    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
