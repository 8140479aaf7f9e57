"""Membership inference at several promises: `wardround audit --model` on generated radiographs and on the chest X-rays.

    python -m benchmarks.audit_leak [--data path/to/chest_xray] [--epsilons 8 2 0] [--shadows 64]

Audits `examples/demo.toml`, or with `--data` `examples/chest_xray.toml`, as they are but for epsilon; 0 stands for no
privacy: the same clip and the same steps, with noise that does nothing. Each setting is audited once, with a seed for
coins and shadow models, and is added to `results/audit_leak.json`; the table of docs/audit.md is made from that file.
Not quiet: no time is measured. What is committed are rates over all patients; nothing of a single patient is.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.page import put_between
from wardround.audit.findings import CONFIDENCE
from wardround.audit.model import Leak, audit_model
from wardround.config import Study, read_study
from wardround.coordinator.observer import Silent

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "audit_leak.json"
PAGE = ROOT / "docs" / "audit.md"
OPENS, CLOSES = "<!-- written by benchmarks.audit_leak -->", "<!-- end -->"
OPEN = 1e6
"""Epsilon of a setting without privacy: its noise is below every other rounding."""


def study_of(example: str, epsilon: float, data: Path | None) -> Study:
    """Returns an example at an epsilon; 0 gives it so much that its noise does nothing."""
    tables: dict[str, dict[str, object]] = {"privacy": {"epsilon": epsilon or OPEN, "sum": "simulated"}}
    if data is not None:
        tables["data"] = {"path": str(data.resolve())}
    return read_study(ROOT / "examples" / f"{example}.toml", tables)


def measured(study: Study, shadows: int) -> dict[str, Any]:
    """Returns the figures of one setting."""
    leak, attacks = audit_model(study, Silent(), shadows=shadows, alpha=(1 - CONFIDENCE) / 2, seed=1)
    assert isinstance(leak, Leak), leak
    bounds = [bound for attack in attacks for bound in attack.bounds]
    return {
        "shadows": shadows,
        "trials": leak.figures[0].members + leak.figures[0].others,
        "figures": [asdict(one) for one in leak.figures],
        "bounds": [
            {"attack": one.name, "method": bound.method, "epsilon": bound.epsilon, "ceiling": bound.ceiling}
            for one in attacks
            for bound in one.bounds
        ],
        "contradicts": any(one.contradictions for one in attacks),
        "largest_bound": max(bound.epsilon for bound in bounds),
    }


def markdown(found: dict[str, Any]) -> str:
    """Returns the table of the page."""
    lines = [
        "| pictures | ε | attack | AUROC | true positives at 0.1 % | at 1 % | one-run bound on ε |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        for epsilon, row in sorted(rows.items(), key=lambda item: -float(item[0]) or -math.inf):
            for one in row["figures"]:
                least, percent = (
                    f"{at['true_positives']:.2%} ({at['low']:.2%} to {at['high']:.2%})" for at in one["at"]
                )
                bound = f"{row['largest_bound']:.2f}" if one["attack"] == "LiRA" else ""
                lines.append(
                    f"| {name} | {'none' if float(epsilon) == 0 else epsilon} | {one['attack']} "
                    f"| {one['auroc']:.3f} | {least} | {percent} | {bound} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Audits the settings and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the chest X-rays; without, generated radiographs only")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[8, 2, 0])
    parser.add_argument("--shadows", type=int, default=64)
    options = parser.parse_args()
    name, example = ("X-rays", "chest_xray") if options.data else ("phantoms", "demo")
    for epsilon in options.epsilons:
        row = measured(study_of(example, epsilon, options.data), options.shadows)
        found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        found.setdefault(name, {})[f"{epsilon:g}"] = row
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        put_between(PAGE, OPENS, CLOSES, markdown(found))
        print(name, epsilon, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
