"""The published X-rays, when they lie beside the project: the figures of the README, with room for spread."""

import os
from pathlib import Path

import pytest
from tests.backbone import needs_backbone

from wardround.config import read_study
from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

ROOT = Path(__file__).resolve().parents[2]
PICTURES = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "chest_xray"


HISTOGRAMS = {"image_size": 64}
"""A size that no backbone reads."""


def run_example(name, tmp_path, data=None, **federation):
    if not PICTURES.is_dir():
        pytest.skip(f"the real chest X-rays are not at {PICTURES}; set WARDROUND_DATA to their folder")
    overrides: dict[str, dict[str, object]] = {
        "data": {"path": str(PICTURES), **(data or {})},
        "federation": {"compare": (), **federation},
        "performance": {"cache": str(tmp_path / "cache")},
    }
    return run_study(read_study(ROOT / "examples" / name, overrides), tmp_path / "run", Silent())


@pytest.mark.thorough
@pytest.mark.real_data
def test_fixed_features_reach_097_at_epsilon_8_on_held_out_patients(tmp_path):
    record = run_example("chest_xray.toml", tmp_path, HISTOGRAMS)
    assert record.results["metrics"]["auroc"] >= 0.97
    assert record.certificate["statement"]["epsilon"] <= 8
    assert record.certificate["statement"]["unit"] == "patient"
    assert not record.results["test"]["leaking"]
    assert 0.75 < record.results["shortcut_auroc"] < 0.95  # easy for the wrong reasons, and said so


@needs_backbone
@pytest.mark.slow
@pytest.mark.real_data
def test_a_head_on_a_backbone_reaches_098_at_epsilon_8_on_held_out_patients(tmp_path):
    record = run_example("chest_xray.toml", tmp_path)
    assert record.results["metrics"]["auroc"] >= 0.98
    assert record.certificate["statement"]["epsilon"] <= 8


@pytest.mark.real_data
@pytest.mark.slow
def test_a_small_network_from_scratch_reaches_090_at_epsilon_8(tmp_path):
    record = run_example("chest_xray_cnn.toml", tmp_path)
    assert record.results["metrics"]["auroc"] >= 0.90
    assert record.certificate["statement"]["epsilon"] <= 8


@pytest.mark.thorough
@pytest.mark.real_data
def test_the_published_split_is_offered_and_marked_as_leaking(tmp_path):
    record = run_example("chest_xray.toml", tmp_path, HISTOGRAMS | {"test": "published"}, rounds=2)
    assert record.results["test"]["leaking"]
    assert "264" in record.results["test"]["note"]
