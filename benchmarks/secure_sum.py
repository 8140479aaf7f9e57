"""What a masked round costs a hospital and the coordinator, beside Flower's SecAgg+, TenSEAL, OpenFHE and OpenDP.

    python -m benchmarks.secure_sum [--repeats 3] [--peer-python PATH] [--openfhe-python PATH]
        [--lengths 725061 11180000]

Ten hospitals, one after the other on one thread; gradients, ledger, notes and network are left out. A hospital's
seconds are those of its keys and transcript (with the hash of the model), its share of discrete Gaussian noise on
parameters and witnesses, its masks, and its upload (packing, hash, signature, bytes), each the median over the
hospitals of a repeat; the coordinator's are those of checking, unpacking and adding all uploads and opening the sum.
Every repeat of every setting is a process of its own, and settings take turns. Headlines are of the ring that a run of
`PATIENTS` patients a round chooses; those of `MORE_PATIENTS` and 2^64 stand beside it. Peers are looked for in
`--peer-python`, OpenFHE in `--openfhe-python` (its wheel wants CPython 3.10 on Ubuntu); what is absent is said and left
out. Writes benchmarks/results/secure_sum.json and the tables of docs/secure-aggregation-masks.md. Run on a quiet
machine.

`PREDICTED`, in the ring of `PATIENTS`, is not from this measurement but from earlier ones: that in the ring 2^32 of
2026-11-21, and 1.5 ms for packing or unpacking 0.7 M coordinates. Bytes of ours and of Flower are arithmetic.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engine_report import machine
from benchmarks.secure_sum_ours import PARTS, attempt, mechanism_for, rings_for
from benchmarks.secure_sum_report import CLOSES, OPENS, PAGE, markdown, show, write_page
from wardround.secure_aggregation.round.witness import WITNESSES

__all__ = ["CLOSES", "OPENS", "PAGE", "RESULT", "markdown", "write_page"]

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "secure_sum.json"
LENGTHS = (725_061, 11_180_000)
"""Parameters of a SqueezeNet and of a ResNet-18, both with two classes."""
HOSPITALS, NOISE_MULTIPLIER, PATIENTS = 10, 1.0, 300
MORE_PATIENTS = 666
"""The most that the ring 2^32 holds."""
PEERS = {"flower": "flwr", "tenseal": "tenseal", "shared_key": "tenseal", "openfhe": "openfhe", "opendp": "opendp"}
BUSY = 10.0
"""Percent of the processors that others may use before the machine counts as not quiet."""

PREDICTED: dict[int, dict[str, float]] = {
    725_061: {"hospital_seconds": 0.037, "mask_seconds": 0.005, "noise_seconds": 0.024, "sum_seconds": 0.04,
              "upload_ratio_float32": 0.9702, "over_flower_bytes": 2.06, "over_tenseal_bytes": 14.9},
    11_180_000: {"hospital_seconds": 0.5, "mask_seconds": 0.07, "noise_seconds": 0.34, "sum_seconds": 0.6,
                 "upload_ratio_float32": 0.9688, "over_flower_bytes": 2.06, "over_tenseal_bytes": 14.8},
}  # fmt: skip
TARGETS: dict[int, dict[str, tuple[str, float]]] = {
    725_061: {"upload_ratio_float32": ("at most", 1.0), "hospital_seconds": ("below", 0.6),
              "mask_seconds": ("below", 0.02), "over_tenseal_bytes": ("at least", 10.0)},
    11_180_000: {"hospital_seconds": ("below", 8.0), "over_tenseal_bytes": ("at least", 10.0)},
}  # fmt: skip


def main() -> None:
    """Measures every setting in fresh processes and writes the tables."""
    options = _options()
    if options.child:
        print(json.dumps(attempt(options.child, HOSPITALS, NOISE_MULTIPLIER, (PATIENTS, MORE_PATIENTS))))
        return
    if tuple(options.lengths) != LENGTHS and options.out == RESULT:
        options.out = None
    table = _table(options)
    show(table)
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=2) + "\n")
    if options.out == RESULT:
        write_page(PAGE, table)
    print("nothing written" if options.out is None else f"written: {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="others than these write no result"
    )
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--openfhe-python", help="the Python that has OpenFHE, if it is another")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(options: argparse.Namespace) -> dict[str, Any]:
    pythons = dict.fromkeys(PEERS, options.peer_python)
    pythons["openfhe"] = options.openfhe_python or options.peer_python
    skipped = {peer: text for peer in options.peers if (text := _missing(peer, pythons[peer]))}
    for peer, text in skipped.items():
        print(f"{peer}: {text}")
    peers = [peer for peer in options.peers if peer not in skipped]
    about, busy = machine(1), []
    about["packages"] = {name: v for name, v in about["packages"].items() if name in ("wardround", "numpy")}
    ours: dict[int, list[dict[str, Any]]] = {length: [] for length in options.lengths}
    theirs: dict[int, dict[str, list[dict[str, Any]]]] = {
        length: {peer: [] for peer in peers} for length in options.lengths
    }
    for _ in range(options.repeats):
        for length in options.lengths:
            busy.append(_busy())
            ours[length].append(_run([sys.executable, "-m", "benchmarks.secure_sum", "--child", str(length)]))
            for peer in peers:
                command = [pythons[peer], "-W", "ignore", "-m", "benchmarks.secure_sum_peers", peer]
                busy.append(_busy())
                theirs[length][peer].append(_run([*command, str(length), str(HOSPITALS)]))
    quiet = max(busy) < BUSY
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "quiet": quiet,
        "others_use_percent": {"median": statistics.median(busy), "most": max(busy)},
        "settings": {
            "hospitals": HOSPITALS, "noise_multiplier": NOISE_MULTIPLIER, "colluders": 1, "witnesses": WITNESSES,
            "patients_a_round": PATIENTS, "repeats": options.repeats,
        },
        "sizes": {str(n): _row(n, ours[n], theirs[n], quiet) for n in options.lengths},
        "skipped": skipped,
    }  # fmt: skip


def _row(
    length: int, ours: list[dict[str, Any]], theirs: dict[str, list[dict[str, Any]]], quiet: bool
) -> dict[str, Any]:
    """Headlines in the ring that a run chooses, then everything by ring and by peer."""
    mechanism = mechanism_for(length, HOSPITALS, NOISE_MULTIPLIER)
    ring = mechanism.for_patients(PATIENTS).ring
    measured = rings_for(mechanism, (PATIENTS, MORE_PATIENTS))
    rings = {str(one.bits): _spreads([run[str(one.bits)] for run in ours]) for one in measured}
    for one in measured:
        about = rings[str(one.bits)]
        about["upload_ratio_float32"] = about["upload_bytes"] / (4 * length)
        about["largest_sample"] = mechanism_for(length, HOSPITALS, NOISE_MULTIPLIER, one).largest_sample
    head = rings[str(ring.bits)]
    row: dict[str, Any] = {
        "ring_bits": ring.bits,
        "upload_bytes": head["upload_bytes"],
        "upload_ratio_float32": head["upload_ratio_float32"],
        "upload_ratio_without_witnesses": (head["upload_bytes"] - WITNESSES * ring.bits // 8) / (4 * length),
        "hospital_seconds": head["hospital_seconds"]["median"],
        **{
            f"{part[:-1] if part == 'masks' else part}_seconds": head[f"{part}_seconds"]["median"]
            for part in PARTS
        },
        "sum_seconds": head["sum_seconds"]["median"],
        "rings": rings,
        "peers": {peer: _spreads(runs) for peer, runs in theirs.items()},
    }
    for peer, about in row["peers"].items():
        if "upload_bytes" in about:
            about["upload_ratio_float32"] = about["upload_bytes"] / (4 * length)
            row[f"over_{peer}_bytes"] = about["upload_bytes"] / row["upload_bytes"]
    row["predicted"] = PREDICTED.get(length, {})
    row["targets"] = {
        name: _judged(kind, bound, row.get(name), quiet or not name.endswith("seconds"))
        for name, (kind, bound) in TARGETS.get(length, {}).items()
    }
    return row


def _judged(kind: str, bound: float, found: float | None, judged: bool) -> dict[str, Any]:
    """Seconds are judged on a quiet machine only; what was not measured, never."""
    if found is None or not judged:
        met = None
    else:
        met = {"at most": found <= bound, "below": found < bound, "at least": found >= bound}[kind]
    return {"target": f"{kind} {bound:g}", "measured": found, "met": met}


def _spreads(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Times with their spread over the repeats; the rest is the same in each, or differs by a byte or two."""
    return {
        key: {"median": statistics.median(r[key] for r in runs), "least": min(r[key] for r in runs),
              "most": max(r[key] for r in runs)}
        if isinstance(first, float) else first
        for key, first in runs[0].items()
    }  # fmt: skip


def _run(command: list[str]) -> dict[str, Any]:
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | alone | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _missing(peer: str, python: str) -> str | None:
    """Why a peer cannot be measured; None if it can."""
    try:
        found = subprocess.run(
            [python, "-W", "ignore", "-c", f"import {PEERS[peer]}"], capture_output=True, text=True
        )
    except OSError as error:
        return f"{python} cannot be run ({error.strerror}); give --peer-python or --openfhe-python."
    reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"not in {python} ({reason}); install {PEERS[peer]} there." if found.returncode else None


def _busy() -> float:
    """Percent of the processors that others use just now."""
    return float(psutil.cpu_percent(interval=0.5))


if __name__ == "__main__":
    main()
