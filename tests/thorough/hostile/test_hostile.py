"""Hostile inputs: a sentence and exit code 2, or read, or listed as unreadable; and their neighbours are read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.thorough.hostile.generator import every_case

LEAST_CASES = 1_200
MOST_KILOBYTES = 2_600_000
"""Two gigabytes beyond the imported libraries."""


def outcomes(operations):
    worker = Path(__file__).with_name("worker.py")
    ended = subprocess.run(
        [sys.executable, str(worker)], input=json.dumps(operations), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def fault_of(case, outcome):
    """What is wrong with an outcome; None for one that holds."""
    code, said = outcome["code"], outcome["said"]
    refusals = [line for line in said.splitlines() if line.startswith("wardround: ")]
    if code not in (0, 2):
        return f"exit code {code}"
    if "Traceback" in said:
        return "a traceback"
    if code == 2 and len(refusals) != 1:
        return "no sentence of its own"
    if len("".join(refusals)) > 20_000:
        return "a sentence of more than 20,000 characters"
    if any("\ud800" <= c <= "\udfff" or c in "\x1b\u202e" for c in said):
        return "it steers the terminal"
    if outcome["kilobytes"] > MOST_KILOBYTES:
        return f"{outcome['kilobytes']:,} kilobytes"
    if code == 0 and case.must_refuse:
        return "read, and must be refused"
    return None


def check(cases):
    neighbours = {json.dumps(case.neighbour): case for case in cases}
    told = outcomes([*map(json.loads, neighbours), *(case.operation for case in cases)])
    read, tried = told[: len(neighbours)], told[len(neighbours) :]
    wrong = [
        f"neighbour of {case.name}: {outcome}"
        for case, outcome in zip(neighbours.values(), read, strict=True)
        if outcome["code"]
    ]
    for case, outcome in zip(cases, tried, strict=True):
        if fault := fault_of(case, outcome):
            wrong.append(f"{case.name}: {fault}: {outcome['said'][-600:]}")
    return wrong


@pytest.mark.thorough
def test_no_hostile_input_gets_past_its_sentence(tmp_path_factory, finished, tiny_study):
    pytest.importorskip("nibabel")
    cases = list(every_case(tmp_path_factory.mktemp("hostile"), finished, tiny_study().to_toml()))
    assert len(cases) >= LEAST_CASES
    wrong = check(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)
