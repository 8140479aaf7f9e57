"""Frozen numbers: runs every case as `wardround run` does and holds what it leaves to `golden.json`.

    python -m tests.golden.make            writes golden.json anew
    python -m tests.golden.make --check    says what differs, and ends with 1 if anything does
    python -m tests.golden.make --only NAME [--check]    one case, or all whose name begins so; on another machine than
                                                         the others it is frozen without what hangs on the machine

Rebuilding the house changes no number: whoever moves a record adapts `observed`, and nothing in golden.json.
"""

import argparse
import json
import math
import platform
import re
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from tests.golden.cases import Tables, tables_of_cases, to_toml, write_volumes

from wardround.accounting.events import to_json
from wardround.accounting.numbers import number_to_json
from wardround.agreed.plans import plan_of
from wardround.config import read_study
from wardround.config.sweep import read_sweep
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.ledger.entry import Begun, Charge
from wardround.ledger.file import LedgerFile
from wardround.records.arrays import arrays_from_file
from wardround.records.folder import RunRecord
from wardround.records.reading import read_json, read_lines
from wardround.simulation.run import run_study
from wardround.simulation.sweeps.compare import compare

GOLDEN = Path(__file__).with_name("golden.json")
OF_THE_MACHINE = ("weights", "released", "measured")
"""What another processor or another torch may round differently; everything else holds anywhere."""

Found = dict[str, Any]
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?|-?\d+e[-+]?\d+")


class Cases:
    """The cases, with a folder of their own for volumes, decoded pictures and runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        write_volumes(folder / "volumes")
        self.tables = tables_of_cases(folder / "volumes")

    def found(self, name: str) -> Found:
        """What a case leaves when it is run now; a study that is refused says only that."""
        folder = self._folder / "runs" / name
        folder.mkdir(parents=True)
        path = folder / "study.toml"
        path.write_text(to_toml(self._tables(name)))
        try:
            if "sweep" in self.tables[name]:
                return _swept(path, folder / "out")
            study = read_study(path)
            plan_of(study)
        except StudyError:
            return {"refused": True}
        with mock.patch("wardround.coordinator.recording.write_report"):  # drawing the page takes longest
            run_study(study, folder / "out", Silent(), rehearsal=True)
        return observed(folder / "out")

    def _tables(self, name: str) -> Tables:
        return self.tables[name] | {"performance": {"threads": 1, "cache": str(self._folder / "cache")}}


def _swept(path: Path, out: Path) -> Found:
    sweep = read_sweep(path)
    compare([sweep], out, Silent(), workers=1)
    return {name: observed(out / name) for each in sweep.configurations for name in each.runs}


def observed(folder: Path) -> Found:
    """The frozen numbers of a finished run, from its folder and its certificate."""
    certificate, results = read_json(folder / "certificate.json"), read_json(folder / "results.json")
    rounds = read_lines(folder / "rounds.jsonl")
    statement: Any = certificate["statement"]
    references: Any = RunRecord.read(folder).results["references"]
    hospitals: Any = results["hospitals"]
    insiders: Any = certificate["insiders"]
    validation: Any = results["validation"]
    said = ("caveats", "released_what", "released_to", "reason", "sampler")  # all of it stands in the sentence
    operating_points: Any = results["operating_points"]
    points = {
        f"{row['class']}, {row['asked_sensitivity']}": f"{row['score']:.3g}"
        for row in operating_points
        if not row["reason"]
    }
    [bound] = statement.keys() & {"clipping_norm", "truncation", "row_norm", "sensitivity"}
    return {
        "weights": _hashes(folder / "model.safetensors"),
        "released": _hashes(folder / "released.safetensors"),
        "measured": {
            "test": _numbers(results["metrics"]),
            "validation": None if validation is None else _numbers(validation["metrics"]),
            "references": {name: _numbers(row["metrics"]) for name, row in references.items()},
            "rounds": {str(line["round"]): _numbers(line["metrics"]) for line in rounds if "metrics" in line},
        },
        "promise": {
            "statement": {
                "clipping_norm" if key == bound else key: value  # its name when the numbers were frozen
                for key, value in statement.items()
                if key not in said
            },
            "sentence": str(certificate["sentence"]).replace(f" and {bound} ", " and clipping_norm "),
            "short": certificate["short"],
            "event": json.dumps(certificate["event"], sort_keys=True),
            "insiders": [f"{row['adversary']}: {row['epsilon']}" for row in insiders],
            "rounds": certificate["rounds"],
            "stopped": certificate["stopped"],
            "references": {name: row["epsilon"] for name, row in references.items()},
        },
        "rounds": {
            str(line["round"]): {
                key: line[key] for key in ("epsilon", "missing", "attempts", "witness") if key in line
            }
            for line in rounds
        },
        "hospitals": {row["name"]: f"{row['patients']} patients, {row['images']} images" for row in hospitals},
        "ledger": _charges(folder),
    } | ({"thresholds": points} if points else {})


def _hashes(path: Path) -> dict[str, str] | None:
    """SHA-256 of every array of a file, its type and its shape; None where there is no such file."""
    if not path.exists():
        return None
    return {
        name: sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
        for name, array in sorted(arrays_from_file(path).items())
    }


def _numbers(metrics: Any) -> Found:
    return {key: value for key, value in metrics.items() if key != "shown" and not key.endswith("_interval")}


def _charges(folder: Path) -> dict[str, list[str]]:
    """What each hospital was promised, then its charges in order; hospitals of equal accounts stand together."""
    own = folder / "ledger.sqlite"
    names: dict[tuple[str, ...], list[str]] = {}
    with LedgerFile(own if own.exists() else folder.parent / "ledger.sqlite") as ledger:
        lines: dict[str, list[str]] = {}
        promises: dict[str, list[str]] = {}
        hospitals: dict[int, str] = {}
        for number, entry in enumerate(ledger.entries(), start=1):
            match entry:
                case Begun():
                    hospitals[number] = entry.hospital
                    lines.setdefault(entry.hospital, [])
                    promises.setdefault(entry.hospital, []).append(_promised(entry))
                case Charge():
                    lines[hospitals[entry.begun]].append(_charged(entry))
        for hospital, charges in sorted(lines.items()):
            if not charges:  # it was never asked
                continue
            whole = [*dict.fromkeys(promises[hospital]), *charges]
            names.setdefault(tuple(whole), []).append(hospital)
    return {", ".join(together): list(whole) for whole, together in names.items()}


def _promised(begun: Begun) -> str:
    values = {
        "epsilon_limit": number_to_json(begun.epsilon), "delta": begun.delta, "accountant": begun.accountant.value,
        "unit": begun.unit.value, "relation": begun.relation.value,
    }  # fmt: skip
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _charged(charge: Charge) -> str:
    event = json.dumps(to_json(charge.event), sort_keys=True)
    return f"{charge.release} #{charge.attempt} {charge.purpose}: {event}"


def machine() -> dict[str, object]:
    """What weights and metrics hang on."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": _processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }


def _processor() -> str:
    """The first processor's name, family and model: kernels are chosen by the last two, and names are shared."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().partition("\n\n")[0].splitlines() if known.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def differences(kept: Found, found: Found, *, elsewhere: bool) -> list[str]:
    """What differs, a line each.

    Args:
        kept: of golden.json; without what hangs on a machine where it was added on another one.
        found: of the run just made.
        elsewhere: golden.json was made on another machine or with other versions: what hangs on those is left out, and
            other numbers are compared to six digits.
    """
    elsewhere = elsewhere or kept.keys().isdisjoint(OF_THE_MACHINE)
    one, other = dict(_flat(kept, elsewhere)), dict(_flat(found, elsewhere))
    keys = [key for key in sorted({*one, *other}) if not _alike(one.get(key), other.get(key), elsewhere)]
    return [f"{key}: was {one.get(key)!r}, is {other.get(key)!r}" for key in keys]


def _flat(value: Any, elsewhere: bool, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for key, inner in value.items():
        if not (elsewhere and key in OF_THE_MACHINE):
            yield from _flat(inner, elsewhere, f"{prefix} / {key}" if prefix else key)


def _alike(one: Any, other: Any, roughly: bool) -> bool:
    if one == other or not roughly:
        return bool(one == other)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=False)
    return _NUMBER.split(one) == _NUMBER.split(other) and all(_alike(float(a), float(b), True) for a, b in numbers)


def read_golden() -> Found:
    """What was frozen: the machine, and every case by name."""
    found: Found = json.loads(GOLDEN.read_text())
    return found


def main() -> int:
    """Makes or checks golden.json; 1 where something differs."""
    parser = argparse.ArgumentParser(description="Frozen numbers of small studies.")
    parser.add_argument("--check", action="store_true", help="compare with golden.json and write nothing")
    parser.add_argument("--only", default="", metavar="NAME", help="cases whose name begins so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    golden = read_golden() if GOLDEN.exists() else {"cases": {}}
    elsewhere = golden.get("machine") != machine()
    started, worst, made = time.monotonic(), 0, {}
    with TemporaryDirectory() as folder:
        cases = Cases(Path(folder))
        for name in (name for name in cases.tables if name.startswith(options.only)):
            begun = time.monotonic()
            made[name] = cases.found(name)
            wrong = (
                differences(golden["cases"].get(name, {}), made[name], elsewhere=elsewhere)
                if options.check
                else []
            )
            worst = max(worst, len(wrong))
            print(f"{name}: {time.monotonic() - begun:.1f} s", *wrong, sep="\n    ", flush=True)
        gone = sorted(golden["cases"].keys() - cases.tables.keys())
    print(f"{len(made)} cases in {time.monotonic() - started:.0f} s")
    if options.check:
        if elsewhere:
            print(f"Made on another machine, so without {', '.join(OF_THE_MACHINE)}: {golden.get('machine')}")
        print(*(f"{name}: no such case any more" for name in gone), sep="\n")
        return int(worst > 0 or bool(gone))
    kept = (
        {name: golden["cases"][name] for name in cases.tables if name in golden["cases"]} if options.only else {}
    )
    if options.only and elsewhere:  # the others hang on the machine that they were made on
        made = {
            name: {key: found[key] for key in found if key not in OF_THE_MACHINE} for name, found in made.items()
        }
    text = json.dumps(
        {"machine": golden.get("machine", {}) if options.only else machine(), "cases": kept | made},
        indent=1, sort_keys=True,
    )  # fmt: skip
    GOLDEN.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
