"""A segmentation between hospitals: noised histograms of each test patient's Dice, one count a class."""

import itertools
import json
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from tests.hospital.bytes_channel import BytesChannel
from tests.hospital.deployed import COORDINATOR, NAMES, make_folders, open_from
from tests.images.layouts.test_decathlon import AFFINE
from tests.images.nifti_files import write_boxes

from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.records.arrays import arrays_from_file
from wardround.report.numbers import numbers_of
from wardround.report.page import render
from wardround.simulation.verification import verify_run
from wardround.work import BINS

CLASSES = ("background", "front", "back")
SITE = """
[hospital]
name = "{name}"
[site]
layout = "decathlon"
path = "volumes"
patients = "one-per-picture"
"""


def check_own(home, agent, weights, study):
    """The hospital's own figures are the mean of its patients' Dice, by scikit-learn's F1 over all pixels."""
    tested, workbench = agent.tested.everybody, agent.workbench
    expected = []
    for first, last in itertools.pairwise(tested.starts):
        rows = tested.rows[first:last]
        predicted = np.concatenate([masks for _, masks in workbench.predicted_masks(weights, rows)])
        true = workbench.true_masks(rows)
        expected.append(f1_score(true.ravel(), predicted.ravel(), average=None, labels=[0, 1, 2], zero_division=0))
    found = json.loads((home / "evaluation" / f"{study.digest}.json").read_text())["figures"]["dice"]
    assert found == pytest.approx(dict(zip(CLASSES, np.mean(expected, axis=0), strict=True)))


@pytest.mark.thorough
def test_dice_leaves_noised_and_charged_to_the_test_patients(tmp_path, without_charts):
    paths, keys = make_folders(tmp_path)
    generator = np.random.default_rng(0)
    for name, home in paths.items():
        write_boxes(home / "volumes", [f"{name}-{number}" for number in range(8)], generator, AFFINE)
        (home / "site.toml").write_text(SITE.format(name=name))
        with (home / "policy.toml").open("a") as file:
            file.write('metrics = "noised"\n')
    study = parse_study(
        {
            "study": {"name": "boxes"},
            "site": {"layout": "decathlon"},
            "data": {
                "volume_size": [16, 16, 16], "spacing": [1.0, 1.0, 2.0], "view": "slices", "classes": CLASSES,
                "test": "patients", "test_fraction": 0.5, "task": "segmentation",
            },
            "hospitals": {"count": 3, "names": list(NAMES)},
            "model": {"name": "small_unet", "width": 4},
            "privacy": {
                "plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "sum": "masked", "num_patients": 12,
                "images_per_patient": 16,
            },
            "federation": {"rounds": 1},
            "evaluation": {"level": "noised", "epsilon": 3.0},
        }
    )  # fmt: skip
    out = tmp_path / "run"
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        record = coordinate(study, BytesChannel(hospitals), keys, COORDINATOR, out, Silent())
        weights = arrays_from_file(max((out / "checkpoints").iterdir()))["state:weights"]
        exact = sum(h.agent.tested.histograms(h.agent.workbench, weights, 3) for h in hospitals.values())
        patients = sum(len(h.agent.tested.patients) for h in hospitals.values())
        check_own(paths["north"], hospitals["north"].agent, weights, study)
    results: Any = record.results
    figures = results["evaluation"]["figures"]
    assert exact.sum() == 3 * patients > 0, "one count a patient in each curve"
    noise = (np.array(figures["histograms"]).ravel() - exact) / figures["noise_std"]
    assert 40 < (noise**2).sum() < 180, "chi-squared, 96 degrees of freedom"
    assert [curve["class"] for curve in figures["curves"]] == list(CLASSES)
    assert exact.reshape(3, 2, BINS)[:, 0].sum() == 0, "each volume has all classes"
    assert "dice" in figures
    receipts = json.loads((out / "receipts.json").read_text()).values()
    assert {receipt["evaluations"] for receipt in receipts} == {1}
    assert verify_run(out, {"the coordinator": COORDINATOR.public} | keys).unchecked == ()
    assert "Quality (Dice)" in render(numbers_of(record))
