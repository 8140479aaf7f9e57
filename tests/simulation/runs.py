"""Whole runs that are stopped in a round and resumed, and what of two runs must be the same."""

import json

import pytest
from tests.charges import charges_in

from wardround.coordinator.observer import Silent
from wardround.records.folder import RunRecord
from wardround.simulation import run as simulation


class InterruptingRound(Silent):
    """Stops in one round: its releases are charged and made, and nothing of them is remembered yet."""

    def __init__(self, round):
        self.round, self.is_training = round, False

    def stage(self, text):
        self.is_training = text.startswith("training")

    def progress(self, done, total, detail=""):
        if self.is_training and done == self.round:
            raise KeyboardInterrupt


def run_study(study, out, observer=None, **options):
    return simulation.run_study(study, out, observer or Silent(), **options)


def resume_run(out, observer=None):
    return simulation.resume_run(out, observer or Silent())


def read_json(path):
    return json.loads(path.read_text())


def interrupted(study, out, observer):
    with pytest.raises(KeyboardInterrupt):
        run_study(study, out, observer)


def what_counts(folder):
    """What must be the same: everything but the time of day, and the hashes that contain it."""
    certificate = read_json(folder / "certificate.json")
    for ledger in certificate["ledgers"].values():
        del ledger["head"]
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return {
        "model": (folder / "model.safetensors").read_bytes(),
        "results": RunRecord.read(folder).results,
        "certificate": certificate,
        "rounds": lines,
    }


def charges(path):
    """The releases each hospital was charged for, in order, as release and attempt."""
    return {
        hospital: [(charge.release, charge.attempt) for charge in charged]
        for hospital, charged in charges_in(path).items()
    }


def stopped(study, out, round=3):
    interrupted(study, out, InterruptingRound(round))


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def texts(value):
    """Every text anywhere in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def purposes_in(record):
    """What each hospital was charged for, in order."""
    return [
        [charge.purpose for charge in charged] for charged in charges_in(record.path / "ledger.sqlite").values()
    ]
