"""What it costs to simulate hospitals on one machine, beside Flower's simulation and pfl-research.

    python -m benchmarks.simulation [--repeats 3] [--rounds 4] [--peer-python PATH]

Scale: the same phantoms, pooled and dealt out to 10, 100, 1,000 and 10,000 hospitals; private FedSGD under (simulated)
secure aggregation; seconds a round, over pooled. Jobs: FedAvg with 10 hospitals, of a small network over 20 rounds and
of ResNet-18 over 3, start to finish (a fresh process from its first import to its last file), without privacy in every
package, and ours with it. Every measurement is a process of its own; settings are interleaved, and ratios are taken
within a repeat. Peers are looked for in the Python this runs in, or in `--peer-python`; what is absent is said and left
out. Scale runs have one thread of torch. In a job every package has all processors: ours as it spreads hospitals,
Flower for one client each, and pfl-research as threads of torch. Writes benchmarks/results/simulation.json and the
tables of docs/simulation.md. Run on a quiet machine.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.engine_report import installed, machine
from benchmarks.page import put_between, say_if_not_quiet
from benchmarks.simulation_ours import JOB_PATIENTS, SCALE_PATIENTS, export, job_study, measure, scale_study
from wardround.__main__ import COLLECTIONS

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "simulation.json"
PAGE = ROOT / "docs" / "simulation.md"
OPENS, CLOSES = "<!-- written by benchmarks.simulation -->", "<!-- end -->"
HOSPITALS = (1, 10, 100, 1_000, 10_000)
PEERS = {"flower": "flwr", "pfl": "pfl"}
OURS = {"wardround": "none", "wardround private": "dp-sgd"}
"""Plans of our runs of a job."""
SCALE_TARGETS = {"1000": 1.1, "10000": 1.15}
"""Seconds a round over pooled, at most, by hospitals."""
JOB_TARGETS = {"flower": {"over_wardround": 6.0}, "pfl": {"over_wardround": 1.5, "rounds_over_wardround": 1.5}}
"""Times as long as ours, at least."""


@dataclass(frozen=True)
class Job:
    """FedAvg of one network over some rounds: 10 hospitals, 4 local steps a round, pictures of 64 pixels."""

    title: str
    network: str
    rounds: int

    def settings(self, quick: bool) -> dict[str, Any]:
        """Returns what every package is told."""
        return {
            "network": self.network, "rounds": min(self.rounds, 3) if quick else self.rounds, "hospitals": 10,
            "steps": 4, "patients": JOB_PATIENTS, "learning_rate": 0.05, "momentum": 0.9,
            "cores": os.cpu_count() or 1, "all_cores": True,
        }  # fmt: skip


JOBS = (Job("a small convolutional network", "small_cnn", 20), Job("ResNet-18", "resnet18", 3))
BUSY = 10.0
"""Percent of the processors that others may use before the machine counts as not quiet."""


def main() -> None:
    """Runs every setting in fresh processes and writes the table."""
    options = _options()
    if options.child:
        _child(json.loads(options.child))
        return
    if options.quick and options.out == RESULT:
        options.out = None
    with TemporaryDirectory() as folder:
        table = _table(options, Path(folder))
    _show(table)
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=2) + "\n")
    if options.out == RESULT:
        write_page(PAGE, table)
    print("nothing written" if options.out is None else f"written: {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="of a scale run, at least 4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hospitals", type=int, nargs="+", default=HOSPITALS)
    networks = [job.network for job in JOBS]
    parser.add_argument("--jobs", nargs="*", choices=networks, default=networks, help="by network")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--quick", action="store_true", help="few patients and rounds, for a smoke test")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cache = str(folder / "cache")
    os.makedirs(cache)
    patients = 600 if options.quick else SCALE_PATIENTS
    counts = [count for count in options.hospitals if count <= patients // 2 or not options.quick]
    chosen = {job.title: job.settings(options.quick) for job in JOBS if job.network in options.jobs}
    for settings in chosen.values():
        _prepare(settings, folder, cache)
    _ours({"hospitals": 1, "rounds": 1, "patients": patients, "cache": cache})  # fills the cache
    skipped = {peer: text for peer in options.peers if (text := _missing(peer, options.peer_python))}
    for peer, text in skipped.items():
        print(f"{peer}: {text}")
    peers = [peer for peer in options.peers if peer not in skipped]
    busy: list[float] = []
    scale: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    jobs: dict[str, dict[str, list[dict[str, Any]]]] = {
        title: {name: [] for name in (*OURS, *peers)} for title in chosen
    }
    for _ in range(options.repeats):
        for count in counts:
            request = {"hospitals": count, "rounds": options.rounds, "patients": patients, "cache": cache}
            busy.append(_busy())
            scale[count].append(_ours(request))
        for title, runs in jobs.items():
            for name in runs:
                busy.append(_busy())
                runs[name].append(_job(name, chosen[title], folder, options.peer_python))
    about = machine(1)
    about["packages"] = {
        name: v for name, v in about["packages"].items() if name in ("wardround", "torch", "numpy")
    }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "quiet": max(busy) < BUSY,
        "others_use_percent": {"median": statistics.median(busy), "most": max(busy)},
        "settings": {"scale_patients": patients, "scale_rounds": options.rounds, "repeats": options.repeats,
                     "quick": options.quick, "jobs": chosen},
        "scale": _scale_rows(scale),
        "jobs": {title: _job_rows(runs) for title, runs in jobs.items()},
        "skipped": skipped,
    }  # fmt: skip


def _prepare(settings: dict[str, Any], folder: Path, cache: str) -> None:
    """Writes the pictures and the study files of a job, and adds the sizes that follow from them to its settings."""
    settings |= export(job_study(settings | {"train": 1}, "none", cache), _pictures(settings, folder))
    settings["batch"] = settings["train"] // settings["hospitals"] // settings["steps"]
    for name, plan in OURS.items():
        _study(name, settings, folder).write_text(job_study(settings, plan, cache).to_toml())


def _pictures(settings: dict[str, Any], folder: Path) -> Path:
    return folder / f"{settings['network']}.npz"


def _study(name: str, settings: dict[str, Any], folder: Path) -> Path:
    return folder / f"{name} {settings['network']}.toml"


def _scale_rows(scale: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and each repeat's ratio over its own pooled run."""
    keys = ("seconds_a_round", "processor_seconds_a_round", "run_seconds", "peak_gb", "ledger_mb", "record_mb")
    rows = {}
    for count, runs in scale.items():
        row: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in keys}
        if 1 in scale:
            for name, key in (
                ("over_pooled", "seconds_a_round"),
                ("processor_over_pooled", "processor_seconds_a_round"),
            ):
                row[name] = _spread([run[key] / alone[key] for run, alone in zip(runs, scale[1], strict=True)])
        rows[str(count)] = row
    return rows


def _job_rows(jobs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Start to finish, and how many times as long as ours without privacy."""
    rows: dict[str, Any] = {}
    for name, runs in jobs.items():
        rows[name] = {
            "seconds": _spread([run["seconds"] for run in runs]),
            "seconds_in_rounds": statistics.median(sum(run["rounds"]) for run in runs),
            "accuracy": statistics.median(run["accuracy"] for run in runs),
            "version": runs[0].get("version"),
            "over_wardround": _spread(
                [run["seconds"] / ours["seconds"] for run, ours in zip(runs, jobs["wardround"], strict=True)]
            ),
            "rounds_over_wardround": _spread(
                [
                    sum(run["rounds"]) / sum(ours["rounds"])
                    for run, ours in zip(runs, jobs["wardround"], strict=True)
                ]
            ),
        }
    return rows


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _job(name: str, settings: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
    """One job, from the start of its process to its end."""
    threads = 1 if name == "flower" else settings["cores"]  # of one process of Flower's
    started = time.perf_counter()
    if name in PEERS:
        command = [
            python,
            "-W",
            "ignore",
            "-m",
            "benchmarks.simulation_peers",
            name,
            str(_pictures(settings, folder)),
            json.dumps(settings),
        ]
        answer = _run(command, threads)
    else:
        study = str(_study(name, settings, folder))
        with TemporaryDirectory() as out:
            command = [sys.executable, "-m", "benchmarks.simulation_ours", study, f"{out}/run"]
            answer = _run(command, threads)
    return answer | {"seconds": time.perf_counter() - started}


def _ours(request: dict[str, Any], threads: int = 1) -> dict[str, Any]:
    return _run([sys.executable, "-m", "benchmarks.simulation", "--child", json.dumps(request)], threads)


def _run(command: list[str], threads: int) -> dict[str, Any]:
    with TemporaryDirectory() as home:
        private = {
            "OMP_NUM_THREADS": str(threads), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0",
            "FLWR_HOME": home, "RAY_TMPDIR": home, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        }  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=installed() | private, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _child(request: dict[str, Any]) -> None:
    gc.set_threshold(*COLLECTIONS)  # as a command's process has it
    study = scale_study(request["hospitals"], request["rounds"], request["cache"], request["patients"])
    print(json.dumps(measure(study)))


def _missing(peer: str, python: str) -> str | None:
    """Why a peer cannot be measured; None if it can."""
    needed = f"import torch, {PEERS[peer]}" + (", ray" if peer == "flower" else "")
    try:
        found = subprocess.run([python, "-W", "ignore", "-c", needed], capture_output=True, text=True)
    except OSError as error:
        return f"{python} cannot be run ({error.strerror}); give --peer-python."
    extra = "'flwr[simulation]>=1.20,<1.42'" if peer == "flower" else "pfl"
    reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"not in {python} ({reason}); pip install {extra} there." if found.returncode else None


def _busy() -> float:
    """Percent of the processors that others use just now."""
    return float(psutil.cpu_percent(interval=0.5))


def markdown(table: dict[str, Any]) -> str:
    """The table of docs/simulation.md."""
    about, settings = table["machine"], table["settings"]
    quiet = "on a quiet machine" if table["quiet"] else "**on a machine that was not quiet: not to be quoted**"
    lines = [
        f"Measured {table['date'][:10]} {quiet}: {about['processor']}, {about['cores']} cores, torch "
        f"{about['packages']['torch']} on one thread; {settings['scale_patients']:,} phantoms of 64 pixels, 95 % "
        f"of them trained on, each in every round; medians of {settings['repeats']} runs, with the least and the most.",
        "",
        "| hospitals | seconds a round | over pooled | over pooled, processor time | peak memory, GB | ledger, MB |",
        "|---|---|---|---|---|---|",
    ]
    for count, row in table["scale"].items():
        name = "1 (pooled)" if count == "1" else f"{int(count):,}"
        ratio, processor = (
            _text(row[key]) if key in row else "" for key in ("over_pooled", "processor_over_pooled")
        )
        lines.append(
            f"| {name} | {row['seconds_a_round']:.2f} | {ratio} | {processor} | {row['peak_gb']:.2f} | "
            f"{row['ledger_mb']:.1f} |"
        )
    for title, rows in table["jobs"].items():
        lines += _job_lines(title, settings["jobs"][title], rows)
    return "\n".join(lines)


def _job_lines(title: str, job: dict[str, Any], rows: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"FedAvg of {title}, {job['hospitals']} hospitals, {job['rounds']} rounds, {job['steps']} local steps each, "
        f"{job['train']:,} patients, start to finish, with all cores for every package:",
        "",
        "| package | seconds, start to finish | in its rounds | over ours, start to finish | over ours, rounds |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        version = f" {row['version']}" if row["version"] else ""
        lines.append(
            f"| {name}{version} | {_text(row['seconds'])} | {row['seconds_in_rounds']:.2f} | "
            f"{_text(row['over_wardround'])} | {_text(row['rounds_over_wardround'])} |"
        )
    return lines


def write_page(page: Path, table: dict[str, Any]) -> None:
    """Puts the table between the two marks of the page."""
    put_between(page, OPENS, CLOSES, markdown(table))


def _show(table: dict[str, Any]) -> None:
    say_if_not_quiet(table)
    for count, row in table["scale"].items():
        ratio = row.get("over_pooled")
        text = f", {_text(ratio)} times pooled" if ratio else ""
        print(f"{int(count):>6,} hospitals: {row['seconds_a_round']:.3f} s a round{text}, {row['peak_gb']:.2f} GB")
        if ratio and count in SCALE_TARGETS:
            print(
                f"  at most {SCALE_TARGETS[count]:g}: {_verdict(table, ratio['median'] <= SCALE_TARGETS[count])}"
            )
    for title, rows in table["jobs"].items():
        print(f"{title}:")
        for name, row in rows.items():
            print(
                f"{name:>18}: {_text(row['seconds'])} s start to finish, {row['seconds_in_rounds']:.2f} s in rounds, "
                f"{_text(row['over_wardround'])} times ours, accuracy {row['accuracy']:.3f}"
            )
            for key, least in JOB_TARGETS.get(name, {}).items():
                print(f"  {key}: at least {least:g} {_verdict(table, row[key]['median'] >= least)}")


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['most']:.2f})"


def _verdict(table: dict[str, Any], met: bool) -> str:
    if not table["quiet"]:
        return "is not judged: the machine was not quiet"
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
