"""Wardround's side of `benchmarks.simulation`: one measurement in this process.

What is heavy is imported where it is used, as commands do: their imports are part of their time.
"""

import atexit
import json
import re
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from wardround.config import Study, parse_study
from wardround.coordinator.observer import Silent

SCALE_PATIENTS, JOB_PATIENTS = 11_000, 1_250


def scale_study(hospitals: int, rounds: int, cache: str, patients: int = SCALE_PATIENTS) -> Study:
    """The same patients and the same noise, whoever holds them; every patient in every round."""
    return _study(
        {
            "data": {"test_fraction": 0.05, "phantom": {"patients": patients}},
            "hospitals": {"count": hospitals},
            "privacy": {
                "plan": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-5,
                "trust": "secure-aggregation" if hospitals > 1 else "nobody",
                "sum": "simulated",
            },
            "federation": {"rounds": rounds, "learning_rate": 0.5, "evaluate_every": rounds},
            "performance": {"threads": 1},
        },
        cache,
    )  # fmt: skip


def job_study(settings: dict[str, Any], plan: str, cache: str) -> Study:
    """FedAvg of `settings["network"]`: one local epoch, in expectation, in as many steps as the peers take."""
    private = {"noise_multiplier": 1.0, "delta": 1e-5, "trust": "nobody"}
    return _study(
        {
            "data": {"test_fraction": 0.2, "phantom": {"patients": settings["patients"]}},
            "hospitals": {"count": settings["hospitals"]},
            "privacy": {"plan": plan, "sampling_prob": 1 / settings["steps"], "num_patients": settings["train"]}
            | (private if plan != "none" else {}),
            "federation": {
                "strategy": "fedavg", "rounds": settings["rounds"], "local_steps": settings["steps"],
                "learning_rate": settings["learning_rate"], "momentum": settings["momentum"],
                "evaluate_every": settings["rounds"],
            },
            "model": {"name": settings["network"]},
        },
        cache,
    )  # fmt: skip


def _study(sections: dict[str, dict[str, Any]], cache: str) -> Study:
    phantom = {"max_images": 1, "image_size": 64, **sections["data"]["phantom"]}
    return parse_study(
        sections
        | {
            "study": {"name": "simulation"},
            "data": {"layout": "phantom", "image_size": 64, **sections["data"], "phantom": phantom},
            "model": sections.get("model", {"name": "small_cnn"}),
            "performance": {"cache": cache} | sections.get("performance", {}),
        }
    )


class _Clock(Silent):
    """Reads the time and this process's processor time after each round."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ends: list[float] = []
        self._training = False

    def seconds(self) -> list[float]:
        """Returns the seconds of each round."""
        return [after - before for before, after in pairwise(self.times)]

    def stage(self, text: str) -> None:
        self._training = text.startswith("training")
        if self._training:
            self.times.append(time.perf_counter())

    def progress(self, done: int, total: int, detail: str = "") -> None:
        if self._training:
            self.times.append(time.perf_counter())
            self.ends.append(time.process_time())


def measure(study: Study) -> dict[str, Any]:
    """A whole run: seconds of its rounds, peak memory, what it leaves on disk, its test accuracy.

    The first round, which warms up, counts in no median; nor does the last one's processor time, with its evaluation.
    """
    from wardround.simulation.run import run_study

    clock = _Clock()
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_study(study, Path(folder) / "run", clock)
        whole = time.perf_counter() - started
        accuracy = _accuracy(Path(folder) / "run")
        sizes = {path.name: path.stat().st_size for path in (Path(folder) / "run").rglob("*") if path.is_file()}
    seconds = clock.seconds()
    processor = [
        after - before for before, after in pairwise(clock.ends[:-1] if len(clock.ends) > 2 else clock.ends)
    ]
    return {
        "rounds": seconds,
        "seconds_a_round": statistics.median(seconds[1:] or seconds),
        "processor_seconds_a_round": statistics.median(processor) if processor else None,
        "run_seconds": whole,
        "peak_gb": _peak_gb(),
        "ledger_mb": sizes["ledger.sqlite"] / 1e6,
        "record_mb": (sum(sizes.values()) - sizes["ledger.sqlite"]) / 1e6,
        "accuracy": accuracy,
    }


def _peak_gb() -> float:
    """Returns the peak of this program: `ru_maxrss` is at least what the process had before it was this program."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1e6


def command(study: str, out: str) -> None:
    """Runs `wardround run` on a study file, and notes the seconds of its rounds beside the record."""
    from wardround import __main__ as process
    from wardround.cli import terminal

    clock = _Clock()

    class Timed(terminal.Terminal):
        def stage(self, text: str) -> None:
            super().stage(text)
            clock.stage(text)

        def progress(self, done: int, total: int, detail: str = "") -> None:
            super().progress(done, total, detail)
            clock.progress(done, total)

    terminal.Terminal = Timed  # type: ignore[misc]  # which the command makes
    sys.argv = ["wardround", "run", study, "--out", out]
    atexit.register(lambda: print(json.dumps({"rounds": clock.seconds(), "accuracy": _accuracy(Path(out))})))
    process.command()


def _accuracy(run: Path) -> object:
    return json.loads((run / "results.json").read_text())["metrics"].get("accuracy")


def export(study: Study, path: Path) -> dict[str, int]:
    """Writes the pictures of a study's hospitals for the peers; the numbers of pictures."""
    from wardround.simulation.materials import gather

    materials = gather(study, Silent())
    pixels = materials.images.pixels
    parts = list(materials.hospitals.values())
    rows = np.concatenate([part.rows for part in parts])
    np.savez(
        path,
        train_x=pixels[rows],
        train_y=np.concatenate([part.labels for part in parts]),
        hospital=np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts]),
        test_x=pixels[materials.test.rows],
        test_y=materials.test.labels,
    )
    return {"train": len(rows), "test": len(materials.test.rows)}


if __name__ == "__main__":
    command(*sys.argv[1:])
