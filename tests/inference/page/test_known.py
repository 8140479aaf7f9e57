"""The known picture is the same in Python and in the page's program, and outputs beyond 1e-3 of torch's are refused."""

import json
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.page.test_rows import ASSETS, NODE
from tests.inference.saved import drawn, picture_input, save

from wardround.inference.model import load
from wardround.inference.page.known import known_outputs, known_picture

CLASSES = {"classes": ("linear", ("clear", "lesion")), "masks": ("small_unet", ("background", "lesion", "other"))}


@pytest.mark.skipif(NODE is None, reason="the page's program runs in node, which is not installed")
@pytest.mark.parametrize("target", CLASSES)
def test_outputs_are_known_to_a_thousandth_and_no_further(target, tmp_path):
    network, classes = CLASSES[target]
    recipe = picture_input(image_size=48, patch=32, colour="rgb" if target == "classes" else "grey")
    model = load(save(tmp_path / "run", drawn(network, recipe, len(classes)), recipe, classes, target))
    rows = known_picture(model)
    assert len(np.unique(rows)) > 200
    assert not np.array_equal(rows, rows.swapaxes(2, 3))
    logits = model.logits(rows)
    outputs = {"logits": logits.ravel().tolist(), "probabilities": model.probabilities(logits).ravel().tolist()}
    known = known_outputs(model)
    scale = max(1.0, *np.abs(known["logits"]))
    assert len(json.dumps(known)) < 6_000
    given: list[dict[str, Any]] = [outputs]
    differences = (("logits", 0.9e-3 * scale), ("logits", 1.1e-3 * scale), ("probabilities", 1.1e-3))
    for name, difference in differences:
        first, *rest = outputs[name]
        given.append(outputs | {name: [first + difference, *rest]})
    given.append(outputs | {"logits": [None, *outputs["logits"][1:]]})
    given.append(outputs | {"logits": outputs["logits"][:-1]})
    task = {"channels": rows.shape[1], "side": 48, "known": known, "given": given}
    command = [str(NODE), str(Path(__file__).with_name("known.mjs")), str(ASSETS)]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert b64decode(made["rows"]) == rows.tobytes()
    assert made["found"] == [True, True, False, False, False, False]


def test_outputs_are_finite_where_all_networks_rule_a_class_out(tmp_path):
    recipe = picture_input(image_size=48)
    networks = {name: drawn("linear", recipe, 2, seed=seed) for seed, name in enumerate(("east", "west"))}
    for network in networks.values():
        with torch.no_grad():
            for parameter in network.trained.parameters():
                if parameter.shape == (2,):
                    parameter.copy_(torch.tensor([500.0, -500.0]))
    known = known_outputs(load(save(tmp_path / "run", networks, recipe)))
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["logits"][0] == 0
    assert known["logits"][1] < -80
    assert known["probabilities"][0] == 1
    assert 0 <= known["probabilities"][1] < 1e-30


def test_a_thinned_output_has_every_row_column_and_class_of_a_mask(tmp_path):
    recipe, classes = picture_input(image_size=48), ("background", "lesion", "other")
    model = load(save(tmp_path / "run", drawn("small_unet", recipe, 3), recipe, classes, "masks"))
    logits = model.logits(known_picture(model))
    stored = known_outputs(model)["logits"]
    places = [int(np.abs(logits.ravel() - value).argmin()) for value in stored]
    assert [len(set(found)) for found in np.unravel_index(places, logits.shape)] == [1, 3, 48, 48]
