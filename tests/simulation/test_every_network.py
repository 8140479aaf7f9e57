"""Every network for pictures, with privacy and but for the largest without, from one study file by one word."""

import os
from pathlib import Path
from typing import Any

import pytest

from wardround.config import read_study
from wardround.config.model import ModelSection
from wardround.coordinator.observer import Silent
from wardround.models.catalogue import NAMES, NETWORKS
from wardround.simulation.run import run_study

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT / ".." / "shared" / "data"))
CHEST = DATA / "chest_xray"
PICTURES = [name for name in NAMES["classification"] if 2 in NETWORKS[name].dimensions]
QUICK = {"linear", "features", "small_cnn"}
LARGE = {"alexnet", "vgg11", "vgg11_gn", "vgg16"}
PLANS: dict[str, dict[str, object]] = {
    "dp-sgd": {"plan": "dp-sgd", "epsilon": 8, "delta": 1e-5},
    "none": {"plan": "none"},
}
# Three classes change the last layer alone, which the quick networks show. Without privacy no network is treated apart.
CASES = [
    *((name, "binary", plan) for name in PICTURES for plan in PLANS if plan != "none" or name not in LARGE),
    *((name, "subtype", plan) for name in sorted(QUICK) for plan in PLANS),
]


def test_the_study_file_knows_every_network():
    known = ModelSection.model_json_schema()["properties"]["name"]["enum"]
    assert set(known) == {"auto", *NETWORKS}


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not CHEST.is_dir(), reason="the real chest X-rays lie beside the project; here they do not")
@pytest.mark.parametrize(("name", "task", "plan"), CASES)
def test_a_network_trains_on_the_xrays_by_its_name_alone(name, task, plan, tmp_path, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "cache"
    overrides: dict[str, dict[str, object]] = {
        "data": {"path": str(CHEST), "task": task},
        "hospitals": {"count": 2},
        "model": {"name": name},
        # A hundredth of the patients a round: VGG-16 has 134 million parameters, and this is a test.
        "privacy": {"sampling_prob": 0.01, "num_patients": 2200, "clipping_norm": 1.0},
        "federation": {"rounds": 1, "learning_rate": 1e-3, "compare": []},
        "performance": {"cache": str(cache)},
    }
    study = read_study(ROOT / "examples" / "chest_xray_cnn.toml", overrides)
    raw = study.model_dump(mode="json", exclude_none=True)
    for key in ("epsilon", "noise_multiplier", "delta"):
        raw["privacy"].pop(key, None)
    raw["privacy"] |= PLANS[plan]
    results: Any = run_study(type(study).model_validate(raw), tmp_path / "run", Silent()).results
    assert results["metrics"]["auroc"] is not None
    assert len(results["classes"]) == (2 if task == "binary" else 3)
