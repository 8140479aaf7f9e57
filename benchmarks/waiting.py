"""Seconds that a person waits for a study of the chest X-rays whose pictures are in the cache.

    python -m benchmarks.waiting --data path/to/chest_xray [--repeats 3]

Each row runs the whole command, `wardround run` to its report, on a throw-away ledger, after one run that is not timed
and fills the cache. As machines differ, and one machine from hour to hour, a process that imports what any such tool
needs (torch, scikit-learn's metrics, matplotlib's pyplot) is timed right before each run, and the ratio stands beside
the seconds. Needs a quiet machine; the last row keeps one core busy on purpose, for run and import alike.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.engine_report import installed, machine
from benchmarks.page import put_between

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "waiting.json"
PAGE = ROOT / "docs" / "results.md"
OPENS, CLOSES = "<!-- written by benchmarks.waiting -->", "<!-- end of benchmarks.waiting -->"
IMPORTS = "import torch, sklearn.metrics, matplotlib.pyplot"

COMMON = """
[study]
name = "waiting"
[data]
layout = "chest_xray"
image_size = 64
[privacy]
plan = "dp-sgd"
epsilon = 8
delta = 1e-5
colluders = 1
sum = "{sum}"
"""
HEAD = (
    COMMON
    + """
clipping_norm = 0.25
[model]
name = "features"
[federation]
rounds = 60
learning_rate = 24
momentum = 0.9
compare = [{compare}]
"""
)
SCRATCH = (
    COMMON
    + """
[model]
name = "small_cnn"
[federation]
rounds = 12
compare = []
"""
)
ALL = '"no-privacy", "pooled", "pooled-no-privacy", "alone", "alone-no-privacy"'
EXAMPLE = (ROOT / "examples" / "chest_xray.toml").read_text()
STUDIES = {
    "linear head on histograms, 60 rounds": HEAD.format(sum="simulated", compare=""),
    "the same, sums under masks": HEAD.format(sum="masked", compare=""),
    "the same, simulated, with five references": HEAD.format(sum="simulated", compare=ALL),
    "`examples/chest_xray.toml`, sums simulated": EXAMPLE.replace(
        "delta = 1e-5", 'delta = 1e-5\nsum = "simulated"'
    ),
    "`examples/chest_xray.toml`, as it is": EXAMPLE,
    "`small_cnn` from scratch, 12 rounds, sums simulated": SCRATCH.format(sum="simulated"),
    "the same, under masks": SCRATCH.format(sum="masked"),
    "linear head on histograms, one core busy": HEAD.format(sum="simulated", compare=""),
}
BUSY = "linear head on histograms, one core busy"


def seconds(*command: str) -> float:
    """Returns the seconds of a process that has to succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=installed())
    return time.perf_counter() - started


def timed(study: Path, data: Path) -> float:
    """Returns the seconds of a whole run."""
    program, out = Path(sys.executable).parent / "wardround", study.with_suffix("")
    return seconds(
        str(program), "run", str(study), "--data", str(data), "--out", str(out), "--fresh", "--rehearsal"
    )  # fmt: skip


def measured(data: Path, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of each study's runs, and of the imports right before each."""
    found: dict[str, dict[str, list[float]]] = {}
    with TemporaryDirectory() as folder:
        for number, (name, text) in enumerate(STUDIES.items()):
            study = Path(folder) / f"{number}.toml"
            study.write_text(text)
            timed(study, data)
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if name == BUSY else None
            try:
                both = [(seconds(sys.executable, "-c", IMPORTS), timed(study, data)) for _ in range(repeats)]
            finally:
                if busy is not None:
                    busy.kill()
            found[name] = {"imports": [pair[0] for pair in both], "run": [pair[1] for pair in both]}
            print(name, found[name], flush=True)
    return found


def markdown(found: dict[str, dict[str, list[float]]]) -> str:
    """Returns the table of medians, with the least and the most."""
    rows = ["| study, from the cache to the report | seconds | over the imports alone |", "|---|---|---|"]
    for name, times in found.items():
        over = [run / imports for run, imports in zip(times["run"], times["imports"], strict=True)]
        cells = (f"{statistics.median(of):.1f} ({min(of):.1f} to {max(of):.1f})" for of in (times["run"], over))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measures, and writes the result and the table of the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = measured(options.data.resolve(), options.repeats)
    RESULT.write_text(json.dumps({"machine": machine(None), "seconds": found}, indent=2) + "\n")
    put_between(PAGE, OPENS, CLOSES, markdown(found))


if __name__ == "__main__":
    main()
