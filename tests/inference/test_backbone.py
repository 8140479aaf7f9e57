"""A head on a public backbone in use: training's evaluation, `predict` and the exported graph give one answer."""

import numpy as np
import pytest
import torch
from tests.backbone import needs_backbone
from tests.inference.saved import drawn, evaluated, picture_input, save
from tests.inference.test_predict import files_of, rows_of, write_all_formats

from wardround.images.load import load_images
from wardround.inference.answers import Classified
from wardround.inference.export.onnx import INPUT, write_onnx
from wardround.inference.model import load
from wardround.inference.reading import Ready
from wardround.models.backbones.names import SIDE, Backbone
from wardround.models.backbones.rows import BackboneRows
from wardround.models.network import Form


@needs_backbone
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("encoder", "colour"), [("efficientnet-lite0", "grey"), ("efficientnet-lite0-all", "rgb")]
)
@pytest.mark.filterwarnings("ignore")  # of the exporter's own packages
def test_evaluation_predict_and_onnx_agree(encoder, colour, tmp_path, cache):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    root = tmp_path / "pictures"
    write_all_formats(root)
    channels = 1 if colour == "grey" else 3
    images = load_images("folder", root, cache_dir=cache, image_size=SIDE, channels=channels)
    recipe = picture_input(image_size=SIDE, colour=colour)
    network = drawn("features", recipe, 2, backbone=Backbone(encoder))
    expected = dict(zip(files_of(images), evaluated(images, network)[rows_of(images)], strict=True))
    model = load(save(tmp_path / "run", network, recipe))
    answers = model.predict(root)
    rows = np.concatenate([one.rows for one in model.read([root]) if isinstance(one, Ready)])
    write_onnx(model, tmp_path / "model.onnx", rows)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(None, {INPUT: rows})
    scale = max(1.0, np.abs(logits).max())
    assert [answer.file for answer in answers] == sorted(expected)
    for number, answer in enumerate(answers):
        assert isinstance(answer, Classified)
        np.testing.assert_allclose(list(answer.probabilities.values()), expected[answer.file], rtol=0, atol=1e-6)
        np.testing.assert_allclose(logits[number] / scale, answer.logits / scale, rtol=0, atol=1e-4)
        np.testing.assert_allclose(probabilities[number], expected[answer.file], rtol=0, atol=1e-4)
    assert len(np.unique(np.round(logits, 4))) > 7


@needs_backbone
def test_all_pictures_at_once_have_the_rows_of_one_at_a_time():
    rows = BackboneRows(Backbone("efficientnet-lite0"), Form((SIDE, SIDE), 1, 2))
    shown = torch.randint(
        0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(rows._rows(shown), rows(shown), rtol=0, atol=1e-5)
