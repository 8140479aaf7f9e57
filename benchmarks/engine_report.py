"""From measured ratios to what is said: the geometric means, the targets met or missed, the tables."""

import math
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.engine_measure import AGREES
from benchmarks.engine_networks import CASES
from benchmarks.engine_peers import ENGINES
from benchmarks.engine_turns import STEADY

STEP_MEAN, STEP_EACH, MEMORY_EACH, SPEEDUP_MEAN = 1.1, 1.4, 1.3, 2.5
OURS = "wardround"

UNSTEADY = 0.2
"""With a larger share of unsteady neighbours a network's times are not to be quoted; no time target is judged."""


def machine(threads: int | None) -> dict[str, Any]:
    """Where the numbers come from."""
    packages = ("wardround", "torch", "opacus", "monai", "numpy")
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads or os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "load_at_start": list(os.getloadavg()),
    }


def installed() -> dict[str, str]:
    """Returns the environment of a process that is timed: it keeps compiled modules, as what is installed does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def best_of(peer: str, peers: dict[str, Any]) -> tuple[str, float] | None:
    """The fastest mode of a peer that is right on the network, None if no mode is."""
    found = {
        name: row["step_ratio"]
        for name, row in peers.items()
        if name.startswith(peer) and "step_ratio" in row and row.get("error", 0.0) < AGREES
    }
    return min(found.items(), key=lambda item: item[1]) if found else None


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of no values."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def summary(networks: dict[str, Any], smoke: bool) -> dict[str, Any]:
    """Geometric means over the networks that were measured, and each target with what came of it.

    No target is judged in a smoke test (tiny batches, or fewer than three rounds), and none of time on a
    machine that was not quiet.
    """
    timed = {name: row for name, row in networks.items() if row.get("step_ratio")}
    noisy = sorted(name for name, row in timed.items() if row.get("unsteady_share", 1.0) > UNSTEADY)
    steps = {name: row["step_ratio"] for name, row in timed.items()}
    memory = {name: row["memory_ratio"] for name, row in networks.items() if row.get("memory_ratio")}
    speedups = {}
    for name, ratio in steps.items():
        best = best_of("opacus", networks[name]["peers"])
        if best is not None:
            speedups[name] = best[1] / ratio
    mean_step, mean_speedup = geometric_mean(steps.values()), geometric_mean(speedups.values())
    targets = {
        f"step <= {STEP_MEAN} in geometric mean": _target(mean_step, lambda x: x <= STEP_MEAN, {}),
        f"step <= {STEP_EACH} on each": _each(steps, lambda x: x <= STEP_EACH, max),
        f"{SPEEDUP_MEAN}x faster than Opacus's best in geometric mean": _target(
            mean_speedup, lambda x: x >= SPEEDUP_MEAN, {}
        ),
        "never slower than Opacus's best": _each(speedups, lambda x: x >= 1.0, min),
        f"memory of later steps <= {MEMORY_EACH} on each": _each(memory, lambda x: x <= MEMORY_EACH, max),
    }
    for text, target in targets.items():
        if smoke or (noisy and "memory" not in text):
            target["met"] = None
    return {
        "networks": sorted(steps),
        "not_quiet_on": noisy,
        "step_ratio_geometric_mean": mean_step,
        "memory_ratio_geometric_mean": geometric_mean(memory.values()),
        "speedup_over_opacus_best": speedups,
        "speedup_over_opacus_best_geometric_mean": mean_speedup,
        "targets": targets,
    }


def _each(values: dict[str, float], holds: Any, worst: Any) -> dict[str, Any]:
    missed = {name: value for name, value in values.items() if not holds(value)}
    return _target(worst(values.values()) if values else None, holds, missed)


def _target(value: float | None, holds: Any, missed: dict[str, float]) -> dict[str, Any]:
    met = None if value is None else bool(holds(value)) and not missed
    return {"value": value, "met": met, "missed_on": missed}


def show_network(console: Console, name: str, row: dict[str, Any]) -> None:
    """One table: every engine on one network."""
    if "missing" in row:
        console.print(f"[bold]{row['title']}[/bold]: {escape(row['missing'])}")
        return
    heading = f"{row['title']}, batch {row['batch']}: ordinary step {_number(row.get('ordinary_ms'), '.0f')} ms"
    heading += f", peak {_number(row.get('ordinary_mb'), '.0f')} MB"
    table = Table(title=heading, title_justify="left")
    for column in ("engine", "step", "quartiles", "cpu", "memory", "in first step", "error"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for engine in ENGINES:
        found = (
            row["variants"].get(engine) or row["peers"].get(engine) or (row["ours"] if engine == OURS else None)
        )
        if not found:
            continue
        if "fails" in found:
            table.add_row(ENGINES[engine].title, escape(f"fails: {found['fails']}"))
            continue
        low, high = found.get("quartiles") or (None, None)
        error = found.get("error")
        table.add_row(
            ENGINES[engine].title,
            _number(found.get("step_ratio")),
            "" if low is None else f"{low:.2f}-{high:.2f}",
            _number(found.get("cpu_ratio")),
            "fails" if "memory_fails" in found else _number(found.get("memory_ratio")),
            _number(found.get("first_memory_ratio")),
            "" if error is None else f"{'WRONG ' if error >= AGREES else ''}{error:.0e}",
        )
    console.print(table)
    for text in row["ours"].get("slow_path", []):
        console.print(f"wardround says: {text}", markup=False)
    if row.get("unsteady_share", 0.0) > UNSTEADY:
        console.print(
            f"[bold]NOT QUIET[/bold]: {100 * row['unsteady_share']:.0f} % of neighbouring ordinary steps "
            f"differ by more than {STEADY} times "
            f"(load {row['load']:.1f}, cores busy in a step {row['busy_cores']:.1f}). "
            "Do not quote these times; repeat on a quiet machine."
        )


def show_summary(console: Console, networks: dict[str, Any], found: dict[str, Any]) -> None:
    """The networks side by side, then the targets."""
    table = Table(title="step time over the ordinary step in torch's default format", title_justify="left")
    columns = ("network", "ordinary ms", "channels last", "+ noise", "wardround", "memory", "torch.func")
    for column in (*columns, "Opacus best", "Opacus hooks", "fastDP best", "deepee"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in (key for key in CASES if key in networks):
        row = networks[name]
        if "missing" in row:
            table.add_row(row["title"], escape(row["missing"]))
            continue
        peers = row["peers"]
        table.add_row(
            row["title"],
            _number(row.get("ordinary_ms"), ".0f"),
            _ratio(row["variants"].get("ordinary_channels_last")),
            _ratio(row["variants"].get("ordinary_noise")),
            _ratio(row["ours"]),
            _number(row.get("memory_ratio")),
            _ratio(peers.get("torch_func")),
            _best("opacus", peers),
            _ratio(peers.get("opacus_hooks")),
            _best("fastdp", peers),
            _ratio(peers.get("deepee")),
        )
    console.print(table)
    for text, target in found["targets"].items():
        verdict = {True: "met", False: "MISSED", None: "not judged"}[target["met"]]
        missed = ", ".join(f"{name} {value:.2f}" for name, value in target["missed_on"].items())
        console.print(f"{verdict:>12}  {text}: {_number(target['value'])}{' on ' + missed if missed else ''}")


def show_curves(console: Console, found: dict[str, Any]) -> None:
    """Fits of our step time, and the cost of the gradients as rows."""
    if "fails" in found:
        console.print(f"curves: fails: {found['fails']}")
        return
    for name in ("batch", "pixels", "patients"):
        curve = found[name]
        points = ", ".join(f"{size}: {ms:.1f}" for size, ms in zip(curve["sizes"], curve["ms"], strict=True))
        console.print(
            f"ms by {name}: {points}; "
            f"fit {curve['intercept_ms']:.1f} + {curve['slope_ms']:.3g} x, R² {_number(curve['r2'], '.3f')}"
        )
    rows = found["per_patient_gradients"]
    console.print(f"per_patient_gradients, over the ordinary step: {rows.get('fails') or _ratio(rows)}")


def show_conformance(console: Console, found: dict[str, Any], engines: list[str]) -> None:
    """A line for each case and a column for each engine; the reasons of refusals are in the file."""
    if "fails" in found:
        console.print(f"conformance: fails: {found['fails']}")
        return
    table = Table(title="conformance suite: ok, wrong by, or refuses", title_justify="left")
    for column in ("case", *(ENGINES[name].title for name in engines)):
        table.add_column(column)
    for case, row in found.items():
        table.add_row(case, *(row[name].split(": ")[0] for name in engines))
    for word in ("ok", "wrong", "refuses"):
        counts = (str(sum(row[name].startswith(word) for row in found.values())) for name in engines)
        table.add_row(f"[bold]{word}[/bold]", *counts)
    console.print(table)


def _ratio(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    if "step_ratio" not in found:
        return "fails" if "fails" in found else "-"
    return f"{found['step_ratio']:.2f}" + (" WRONG" if found.get("error", 0.0) >= AGREES else "")


def _best(peer: str, peers: dict[str, Any]) -> str:
    best = best_of(peer, peers)
    tried = [name for name in peers if name.startswith(peer)]
    if best is None:
        return "none right" if tried else "-"
    return f"{best[1]:.2f} {best[0].removeprefix(peer + '_')}"


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
