"""A study on a backbone from its file to its report, with a cache that a second run finds."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbone import needs_backbone
from tests.errors import raises_code

from wardround.agreed.network import build_network
from wardround.coordinator.observer import Silent
from wardround.errors import ModelError
from wardround.images.entries import Target
from wardround.models.backbones.names import MOMENTS_SHA256, WEIGHTS_SHA256
from wardround.models.card import read_card
from wardround.models.load import load
from wardround.simulation.estimate import estimate
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study

BACKBONE: dict[str, dict[str, Any]] = {
    "data": {"image_size": 224, "phantom": {"patients": 16, "max_images": 1, "sites": 2, "image_size": 64}},
    "model": {"name": "features", "encoder": "efficientnet-lite0"},
    "federation": {"rounds": 2, "evaluate_every": None},
}


class Watched(Silent):
    def __init__(self):
        self.stages, self.done = [], {}

    def stage(self, text):
        self.stages.append(text)

    def progress(self, done, total, detail=""):
        self.done[self.stages[-1]] = (done, total)


@needs_backbone
@pytest.mark.usefixtures("without_charts")
def test_a_study_runs_on_a_backbone_and_its_card_rebuilds_the_model(tiny_study, tmp_path):
    study = tiny_study(**BACKBONE, performance={"cache": str(tmp_path / "cache")})
    first = Watched()
    run_study(study, tmp_path / "run", first)
    assert first.done["encoding pictures"] == (16, 16)
    again = Watched()
    materials = gather(study, again)
    assert "encoding pictures" not in again.done  # found in the cache
    rows = materials.workbench.kept_inputs
    assert rows is not None
    assert torch.equal(
        rows[:1], materials.workbench.network.encode(torch.from_numpy(np.array(materials.images.pixels[:1])))
    )

    card = read_card(tmp_path / "run" / "model.json")
    assert card.normalisation["backbone_sha256"] == WEIGHTS_SHA256
    assert card.normalisation["moments_sha256"] == MOMENTS_SHA256
    network = load(card, tmp_path / "run" / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    shown = torch.randint(0, 256, (2, 1, 224, 224), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        logits = network.whole()(shown)
    assert logits.abs().max() > 0
    twin = build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 224, 224))
    twin.trained.load_state_dict(network.trained.state_dict())
    assert torch.equal(twin.whole()(shown), logits)

    other = card.model_copy(update={"normalisation": dict(card.normalisation) | {"moments_sha256": "0" * 64}})
    with raises_code(ModelError, "model-normalisation"):
        load(other, tmp_path / "run" / "model.safetensors")
    assert json.loads((tmp_path / "run" / "model.json").read_text())["network"]["encoder"] == "efficientnet-lite0"


def test_constants_of_the_studys_own_pictures_are_refused(tiny_study):
    """They would be a release of all patients' pictures, without noise."""
    section = {"name": "features", "encoder": "efficientnet-lite0", "moments": "chest-xray"}
    study = tiny_study(**BACKBONE | {"model": section})
    own = study.model_copy(update={"site": study.site.model_copy(update={"layout": "chest_xray"})})
    with raises_code(ModelError, "model-own-moments"):
        build_network(own, target=Target.CLASSES, num_classes=2, shape=(1, 224, 224))


@needs_backbone
@pytest.mark.thorough
def test_the_estimate_says_the_time_of_encoding(tiny_study):
    found = estimate(tiny_study(**BACKBONE))
    assert any(sentence.startswith("encoding 16 pictures") for sentence in found.noticed)
    assert found.parameters == 2 * 2433
