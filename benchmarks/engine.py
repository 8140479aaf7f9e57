"""What a private step costs: ours, Opacus in its modes, torch.func, deepee and fastDP over an ordinary step.

    python -m benchmarks.engine [--networks small_cnn alexnet] [--engines wardround opacus_ghost] [--rounds 9]
    python -m benchmarks.engine --deepee PATH --fastdp PATH --conformance

One step is forward, loss, backward, clip of each patient, noise of std 1 times the clipping norm on the sum, SGD.
Each engine has a process of its own, as in the work of those who use it, and the ordinary step another; one of them
computes at a time, in turn, each between two turns of the ordinary step. A ratio is over the mean of those two, and
the table has the median and the quartiles of the rounds. Peak memory is that of a fresh process, less what was
resident before the first step, over the ordinary step's: of the first step, in which ours checks its batch, and
the median of three later ones (in one of 32 or more it checks again); for ours and the ordinary step the median of
three processes, as the holes of a heap differ. Every engine's clipped sum is compared with a loop of one-picture
backward passes in float64. Writes the result file (benchmarks/results/engine.json) after each network. Run from the
root of the repository, on a quiet machine.

Opacus and MONAI come with `pip install 'wardround[bench]'`; what is absent is said and left out. fastDP needs
`transformers` as well. `--allocator tuned` keeps large temporaries out of mmap, which Opacus gains from and nobody
else; the default is what users have.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.engine_measure import answer
from benchmarks.engine_networks import CASES
from benchmarks.engine_peers import ENGINES, Sources, settle
from benchmarks.engine_report import (
    OURS,
    machine,
    show_conformance,
    show_curves,
    show_network,
    show_summary,
    summary,
)
from benchmarks.engine_turns import times

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "engine.json"
PARTS = ("agreement", "times", "memory", "curves")
MEMORY_RUNS = 3
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def main() -> None:
    """Measures what was asked for and writes the table."""
    options = _options()
    if options.child:
        _child(Path(options.child))
        return
    if options.quick and options.out == RESULT:
        options.out = None
    os.environ |= TUNED if options.allocator == "tuned" else {}
    console = Console(width=None if sys.stdout.isatty() else 170)
    engines = _available(options, console)
    before = _kept(options)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    table: dict[str, Any] = before | {
        "date": now,
        "machine": machine(options.threads),
        "settings": {
            "rounds": options.rounds,
            "allocator": options.allocator,
            "memory_bytes": options.memory_bytes,
            "noise_multiplier": 1.0,
            "quick": options.quick,
        },
        "skipped": {name: text for name in options.engines if (text := ENGINES[name].missing(_sources(options)))},
        "networks": before.get("networks", {}),
    }
    for name in options.networks:
        table["networks"][name] = _network(name, engines, options, console, table["networks"].get(name, {}))
        table["summary"] = summary(table["networks"], options.quick or options.rounds < 3)
        _write(table, options.out)
    if "curves" in options.parts and OURS in engines:
        request = {"kind": "curves", "rounds": options.rounds, "quick": options.quick}
        table |= {"curves": _asked(request, options), "curves_date": now}
        show_curves(console, table["curves"])
    if options.conformance:
        asked = [name for name in engines if ENGINES[name].kind != "variant"]
        table |= {
            "conformance": _asked({"kind": "conformance", "engines": asked}, options),
            "conformance_date": now,
        }
        show_conformance(console, table["conformance"], asked)
    if table["networks"]:
        table["summary"] = summary(table["networks"], options.quick or options.rounds < 3)
        show_summary(console, table["networks"], table["summary"])
    table["machine"]["load_at_end"] = list(os.getloadavg())
    _write(table, options.out)
    console.print("nothing written" if options.out is None else f"written: {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=list(CASES), metavar="NETWORK")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, help="what is measured")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="tiny batches, for a smoke test; writes no result")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--allocator", choices=("default", "tuned"), default="default")
    parser.add_argument("--memory-bytes", type=int, default=1 << 30, help="given to our engine")
    parser.add_argument("--deepee", type=Path, help="source folder of deepee")
    parser.add_argument("--fastdp", type=Path, help="source folder of fast-differential-privacy")
    parser.add_argument("--conformance", action="store_true", help="ask every engine the conformance suite")
    parser.add_argument(
        "--keep", action="store_true", help="keep what is in the result file and is not measured anew"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _sources(options: argparse.Namespace) -> Sources:
    return Sources(*(None if folder is None else folder.resolve() for folder in (options.deepee, options.fastdp)))


def _available(options: argparse.Namespace, console: Console) -> list[str]:
    """Engines that can be tried; says what the others need."""
    found = []
    for name in options.engines:
        missing = ENGINES[name].missing(_sources(options))
        if missing is None:
            found.append(name)
        else:
            console.print(f"{ENGINES[name].title}: {missing}", markup=False)
    return found


def _kept(options: argparse.Namespace) -> dict[str, Any]:
    if not options.keep or options.out is None or not options.out.exists():
        return {}
    table: dict[str, Any] = json.loads(options.out.read_text())
    return table


def _network(
    name: str, engines: list[str], options: argparse.Namespace, console: Console, kept: dict[str, Any]
) -> dict[str, Any]:
    """Everything about one network, each part in a process of its own; parts that are not asked for are as `kept`."""
    case = CASES[name].quick() if options.quick else CASES[name]
    row = kept | {"title": case.title, "batch": case.batch, "shape": list(case.shape)}
    if case.missing is not None:
        row["missing"] = case.missing
        show_network(console, name, row)
        return row
    common = {"network": name, "quick": options.quick, "memory_bytes": options.memory_bytes}
    before = {OURS: kept.get("ours", {})} | kept.get("variants", {}) | kept.get("peers", {})
    found: dict[str, dict[str, Any]] = before | {engine: before.get(engine, {}) for engine in engines}
    if "times" in options.parts:
        timed = times(common | _environment(options), engines, options.rounds)
        row |= {key: value for key, value in timed.items() if key != "engines"}
        for engine in engines:
            found[engine].pop("fails", None)
            found[engine] |= timed["engines"][engine]
    if "agreement" in options.parts:
        asked = [
            engine for engine in engines if not engine.startswith("ordinary") and "fails" not in found[engine]
        ]
        errors = _asked({"kind": "agreement", "engines": asked, **common}, options)
        for engine in asked:
            error = errors.get(engine, errors.get("fails"))
            found[engine]["error" if isinstance(error, float) else "error_fails"] = error
    if "memory" in options.parts:
        row |= _memory(common, {engine: found[engine] for engine in engines}, options)
    ours = found.get(OURS, {})
    row |= {"step_ratio": ours.get("step_ratio"), "memory_ratio": ours.get("memory_ratio"), "ours": ours}
    row["variants"] = {engine: each for engine, each in found.items() if ENGINES[engine].kind == "variant"}
    row["peers"] = {engine: each for engine, each in found.items() if ENGINES[engine].kind == "peer"}
    show_network(console, name, row)
    return row


def _memory(
    common: dict[str, Any], found: dict[str, dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Adds each engine's memory to `found`; returns the ordinary step's."""

    def of(engine: str | None) -> dict[str, Any]:
        request = {"kind": "memory", "engine": engine, **common}
        runs = [_asked(request, options) for _ in range(MEMORY_RUNS if engine in (None, OURS) else 1)]
        failed = next((run for run in runs if "fails" in run), None)
        return failed or {key: statistics.median(run[key] for run in runs) for key in runs[0]}

    reference = of(None)
    for engine, row in found.items():
        if "fails" in row:
            continue
        answered = of(engine)
        if "fails" in answered:
            row["memory_fails"] = answered["fails"]
        else:
            row |= answered
            for key in ("memory", "first_memory"):
                ordinary = reference.get(f"{key}_mb")
                row[f"{key}_ratio"] = answered[f"{key}_mb"] / ordinary if ordinary else None
    return {"ordinary_mb": reference.get("memory_mb"), "ordinary_first_mb": reference.get("first_memory_mb")}


def _asked(request: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The answer of a fresh process, {"fails": reason} if it died."""
    request = request | _environment(options)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request))
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.engine", "--child", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        result = path.with_name("answer.json")
        if done.returncode == 0 and result.exists():
            answered: dict[str, Any] = json.loads(result.read_text())
            return answered
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"fails": f"the process ended with {done.returncode}: {last[:160]}"}


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what every process is told of its surroundings."""
    sources = _sources(options)
    return {
        "threads": options.threads,
        "deepee": None if sources.deepee is None else str(sources.deepee),
        "fastdp": None if sources.fastdp is None else str(sources.fastdp),
    }


def _child(path: Path) -> None:
    """Answers one request in this process; a peer that prints cannot spoil the answer, which is a file."""
    request = json.loads(path.read_text())
    settle(request)
    path.with_name("answer.json").write_text(json.dumps(answer(request)))


def _write(table: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
