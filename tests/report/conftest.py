"""A finished run, written by hand in the shape that a run leaves; each test bends what it is about."""

import copy
import json

import pytest

from wardround.records.folder import RunRecord

STUDY = """\
[study]
name = "lungs"
description = "Radiographs at two hospitals."

[data]
layout = "folder"
path = "/srv/anna/radiographs"

[privacy]
plan = "dp-sgd"
epsilon = 3.5

[federation]
strategy = "fedsgd"
rounds = 4
"""
STATEMENT = {
    "epsilon": 3.4567, "delta": 1e-5, "sampler": "full participation", "mechanism": "Gaussian",
    "noise_multiplier": 4.0, "clipping_norm": 1.0, "releases": 5,
    "released_what": "the noised sum of every round", "released_to": "the coordinator",
    "trust": "secure-aggregation", "hospitals": 2, "colluders": 0, "dropouts": 0, "images_per_patient": 8,
    "unit": "patient", "relation": "add-or-remove-one", "division": "by-own-id", "accountant": "pld",
    "simulated": True, "seeded": False, "guarantee": True, "reason": "", "caveats": ["The noise is continuous."],
}  # fmt: skip
SHOWN = [{"key": key, "title": title} for key, title in (
    ("auroc", "AUROC"), ("accuracy", "Accuracy"), ("balanced_accuracy", "Balanced accuracy"),
    ("sensitivity", "Sensitivity"), ("specificity", "Specificity"),
)]  # fmt: skip
ONE_MODEL = {
    "models": 1, "shown": SHOWN, "accuracy": 0.81, "balanced_accuracy": 0.79, "auroc": 0.88, "sensitivity": 0.7,
    "specificity": 0.9, "majority_accuracy": 0.6, "accuracy_interval": {"low": 0.75, "high": 0.86},
    "auroc_interval": {"low": 0.83, "high": 0.92},
}  # fmt: skip
TWO_MODELS = {
    "models": 2, "shown": SHOWN, "accuracy": 0.71, "accuracy_range": [0.7, 0.72], "balanced_accuracy": 0.7,
    "balanced_accuracy_range": [0.69, 0.71], "auroc": 0.74, "auroc_range": [0.731, 0.752],
    "sensitivity": 0.6, "sensitivity_range": [0.5, 0.7], "specificity": 0.8, "specificity_range": [0.7, 0.9],
    "majority_accuracy": 0.6,
}  # fmt: skip
RELEASED = "without protection: a reference in a simulation, charged to no ledger"
CERTIFICATE = {
    "study": "lungs", "study_digest": "5e" * 32, "statement": STATEMENT,
    "sentence": "Adding or removing one patient changes little: epsilon = 3.46 at delta = 1e-05.",
    "short": "epsilon = 3.46 at delta = 1e-05 for one patient", "unit": "patient", "rounds": 4, "stopped": None,
    "event": None,
    "insiders": [
        {"adversary": "the coordinator", "colluders": 0, "missing": 0, "noise_multiplier": 4.0, "epsilon": 3.4567},
        {"adversary": "the coordinator with 1 hospital", "colluders": 1, "missing": 0, "noise_multiplier": 2.8,
         "epsilon": 5.1234},
    ],
    "ledgers": {
        "north": {"head": "ab" * 32, "epsilon_spent": 3.4567},
        "south": {"head": "cd" * 32, "epsilon_spent": 3.4567},
    },
    "model_sha256": "0f" * 32, "seeded": False, "standing": "lasting",
    "unprotected": [{"what": "metrics", "to": "readers", "protected_by": "nothing: test patients stand outside"}],
}  # fmt: skip
RESULTS = {
    "metrics": ONE_MODEL,
    "references": {
        "no-privacy": {"text": "federated, without privacy", "private": False, "epsilon": "infinity",
                       "delta": 1e-5, "released": RELEASED, "metrics": ONE_MODEL | {"auroc": 0.91}},
        "alone": {"text": "each hospital alone, private", "private": True, "epsilon": 3.4567, "delta": 1e-5,
                  "released": RELEASED, "metrics": TWO_MODELS},
    },
    "classes": ["clear", "lesion"], "parameters": 3530,
    "test": {"patients": 40, "images": 101, "leaking": False, "note": ""},
    "hospitals": [
        {"name": "north", "patients": 64, "images": 150, "share_not_first_class": 0.5},
        {"name": "south", "patients": 64, "images": 149, "share_not_first_class": None},
    ],
    "findings": {"unreadable": 0, "two_labels": 3},
    "released": [
        {"what": "the final model", "to": "every recipient", "protected_by": "the statement"},
        {"what": "metrics", "to": "readers", "protected_by": "nothing: test patients stand outside"},
    ],
}  # fmt: skip
ENVIRONMENT = {
    "date": "2026-11-29", "wardround": "0.1.0", "cores": 2, "weights_sha256": None, "packages": {"numpy": "2.4.6"},
}  # fmt: skip
LEDGER = {
    "run": "one", "standing": "lasting", "ledger": "/home/anna/.local/state/wardround/ledger.sqlite", "entries": 12,
    "head": "ef" * 32, "dataset": "febef1cf" * 8, "held_out": "4e1d007a" * 8,
    "total": {"runs": 3, "studies": 2, "persons": 128, "greatest_epsilon": 7.0123, "delta": 1e-5, "limit": None},
}  # fmt: skip
ROUNDS = (
    {"round": 1},
    {"round": 2, "epsilon": 2.2222, "metrics": {"models": 1, "shown": SHOWN, "auroc": 0.8}},
    {"round": 4, "epsilon": 3.4567, "metrics": {"models": 1, "shown": SHOWN, "auroc": 0.88}},
)


@pytest.fixture
def make_record(tmp_path):
    """A record; `bend(certificate, results)` changes it first, as JSON."""

    def make(bend=lambda certificate, results: None, *, study=STUDY, rounds=ROUNDS, own=LEDGER):
        certificate, results = copy.deepcopy((CERTIFICATE, RESULTS))
        bend(certificate, results)
        (tmp_path / "study.toml").write_text(study)
        (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
        (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
        (tmp_path / "results.json").write_text(json.dumps(results))
        (tmp_path / "certificate.json").write_text(json.dumps(certificate))
        (tmp_path / "ledger.json").write_text(json.dumps(own))
        return RunRecord.read(tmp_path)

    return make


def not_private(certificate, results):
    """The same run under plan = "none"."""
    certificate["statement"] |= {
        "epsilon": "infinity", "delta": 0.5, "noise_multiplier": 0.0, "clipping_norm": "infinity",
        "guarantee": False, "reason": 'the study sets plan = "none".', "trust": "nobody", "caveats": [],
    }  # fmt: skip
    certificate |= {
        "sentence": "There is no privacy guarantee: epsilon = infinity for one patient.",
        "insiders": [],
    }
    for ledger in certificate["ledgers"].values():
        ledger["epsilon_spent"] = "infinity"
    results["references"] = {}


def seeded(certificate, results):
    """The same run from a seed."""
    certificate["seeded"] = certificate["statement"]["seeded"] = True


@pytest.fixture
def bends():
    """The ways to bend a record that several files use."""
    return {"not private": not_private, "seeded": seeded}
