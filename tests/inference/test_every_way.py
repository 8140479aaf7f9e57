"""One picture gets equal logits, to 1e-4, from training's evaluation, `predict`, `serve`, ONNX Runtime and MONAI.

For every network of the catalogue, every head and encoder, in grey and in colours, of volumes whole and in slices; the
page is held to `predict` for the same models in `page/test_browser.py`.
"""

import http.client
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from tests.backbone import needs_backbone
from tests.inference.every import CASES, made

from wardround.inference.answers import Classified, Segmented
from wardround.inference.export.onnx import INPUT, write_onnx
from wardround.inference.export.write import export
from wardround.inference.reading import Ready, read
from wardround.inference.serve import Service

TO = 1e-4

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore")]  # of the exporter's and MONAI's packages


def served(model, paths):
    """What a server answers to the bytes of each file, (file, prediction)."""
    with Service.of_model(model, "page") as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        try:
            for path in paths:
                connection = http.client.HTTPConnection(service.host, service.port, timeout=120)
                connection.request("POST", "/predict", path.read_bytes())
                (found,) = json.loads(connection.getresponse().read())["predictions"]
                connection.close()
                yield found
        finally:
            service.shutdown()
            thread.join()


def by_monai(model, pictures, place):
    """What MONAI's own workflow writes of a folder with the exported bundle."""
    bundle = pytest.importorskip("monai.bundle")
    export(model, "bundle", place / "bundle")
    bundle.run(
        config_file=str(place / "bundle" / "configs" / "inference.json"), bundle_root=str(place / "bundle"),
        dataset_dir=str(pictures), output_dir=str(place / "out"),
    )  # fmt: skip
    return json.loads((place / "out" / "predictions.json").read_text())["predictions"]


def by_onnx(model, rows, place):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_onnx(model, place / "model.onnx", rows)
    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: rows})


def centred(logits):
    """Logits less the logarithm of the sum of their exponentials: equal where the probabilities are."""
    logits = np.asarray(logits, dtype=np.float64)
    most = logits.max(axis=1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_backbone) if case.needs_backbone else name for name, case in CASES.items()],
)
def test_every_way_gives_the_logits_of_predict(name, tmp_path, cache):
    agree(made(CASES[name], tmp_path, cache), tmp_path)


def agree(found, tmp_path):
    model = found.model
    answers = model.predict(found.pictures)
    ready = [one for one in model.read([found.pictures]) if isinstance(one, Ready)]
    assert [answer.file for answer in answers] == [one.name for one in ready] == list(found.expected)
    logits, probabilities = by_onnx(model, np.concatenate([one.rows for one in ready]), tmp_path)
    scale = max(1.0, float(np.abs(logits).max()))
    by_bundle = by_monai(model, found.pictures, tmp_path)
    by_server = served(model, [found.pictures / one.name for one in ready])
    start = 0
    for one, answer, *told in zip(ready, answers, by_bundle, by_server, strict=True):
        end = start + len(one.rows)
        expected = found.expected[one.name]
        assert isinstance(answer, Classified | Segmented)
        own = answer.logits.reshape(logits[start:end].shape)
        np.testing.assert_allclose(logits[start:end] / scale, own / scale, rtol=0, atol=TO)
        for other in told:
            assert other["file"] in (answer.file, "picture")
            assert other["uncertain"] == answer.uncertain
        if isinstance(answer, Segmented):
            assert (own.argmax(axis=1) != expected.reshape(own.argmax(axis=1).shape)).mean() < 1e-3
            for other in told:
                assert other["shares"] == pytest.approx(answer.shares, abs=TO)
        else:
            np.testing.assert_allclose(centred(own), np.log(expected), rtol=0, atol=TO * scale)
            for other in told:
                np.testing.assert_allclose(np.reshape(other["logits"], own.shape), own, rtol=0, atol=TO * scale)
                assert other["probabilities"] == pytest.approx(answer.probabilities, abs=TO)
            of_graph = dict(zip(model.card.classes, probabilities[start:end].mean(axis=0).tolist(), strict=True))
            assert of_graph == pytest.approx(answer.probabilities, abs=TO)
        start = end
    assert len(np.unique(np.round(logits, 5))) > 2


@pytest.mark.parametrize(
    "way",
    ["wardround.inference.model.read", "wardround.inference.serve.read", "wardround.inference.export.bundle.read"],
)
def test_a_way_that_reads_otherwise_is_seen(way, tmp_path, cache, monkeypatch):
    """One grey level more in one way alone is found, so that no way is compared with itself."""
    found = made(CASES["linear grey"], tmp_path, cache)

    def brighter(*given):
        one = read(*given)
        assert isinstance(one, Ready)
        return replace(one, rows=np.minimum(one.rows, 254) + np.uint8(1))

    monkeypatch.setattr(way, brighter)
    with pytest.raises(AssertionError):
        agree(found, tmp_path)
