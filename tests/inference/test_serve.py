"""A server gives predict's answers to the bytes of a file, refuses what it should, and leaves nothing behind."""

import http.client
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.inference.saved import drawn, picture_input, save

from wardround.inference import serve
from wardround.inference.model import load
from wardround.inference.tables import json_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recipe = picture_input(image_size=16)
    return load(save(tmp_path_factory.mktemp("run"), drawn("linear", recipe, 2), recipe))


@pytest.fixture
def service(model):
    with serve.Service.of_model(model, "<!doctype html>page") as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def ask(service, method, path, content=None, **headers):
    connection = http.client.HTTPConnection(service.host, service.port, timeout=20)
    try:
        connection.request(
            method, path, content, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        found = connection.getresponse()
        return found.status, found.read(), found.headers
    finally:
        connection.close()


def png():
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def test_an_answer_is_that_of_predict(service, model, tmp_path, capfd):
    (tmp_path / "picture.png").write_bytes(png())
    expected = json_of(model, model.predict([tmp_path / "picture.png"]))
    there = set(Path(model.folder).rglob("*")) | set(Path.cwd().iterdir())
    status, content, headers = ask(service, "POST", "/predict", png())
    found = json.loads(content)
    assert status == 200
    for one in expected["predictions"]:  # type: ignore[attr-defined]
        one["file"] = "picture"
    assert found == expected
    assert found["model"]["sha256"] == model.card.weights.sha256
    assert headers["Cache-Control"] == "no-store"
    assert set(Path(model.folder).rglob("*")) | set(Path.cwd().iterdir()) == there
    assert capfd.readouterr() == ("", ""), "nothing is logged"


def test_dicom_is_told_by_its_content(model, tmp_path):
    from tests.inference.page.test_rows import dicoms

    content = dict(dicoms())["inverted"]
    (tmp_path / "a.dcm").write_bytes(content)
    (mine,), (theirs,) = serve.answers_of(model, content), model.predict([tmp_path / "a.dcm"])
    assert mine.probabilities == theirs.probabilities  # type: ignore[union-attr]


def test_what_is_no_picture_has_its_sentence(service):
    for content in (b"no picture", b""):
        status, found, _ = ask(service, "POST", "/predict", content)
        (answer,) = json.loads(found)["predictions"]
        assert status == 200
        assert answer["error"]


def test_the_page_is_served_and_nothing_else(service):
    assert ask(service, "GET", "/")[:2] == (200, b"<!doctype html>page")
    for path in ("/model.json", "/../model.json", "/predict", "/?x"):
        assert ask(service, "GET", path)[0] == 404
    assert ask(service, "POST", "/", b"x")[0] == 404
    assert ask(service, "PUT", "/predict", b"x")[0] == 501


def test_large_requests_and_those_without_a_length_are_refused_unread(service, monkeypatch):
    monkeypatch.setattr(serve, "MOST_BYTES", 10)
    assert ask(service, "POST", "/predict", b"x" * 11)[0] == 413
    assert ask(service, "POST", "/predict", b"", Content_Length="-1")[0] == 411
    connection = http.client.HTTPConnection(service.host, service.port, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_a_page_of_another_origin_is_refused(service):
    own = f"{service.host}:{service.port}"
    assert ask(service, "POST", "/predict", png(), Origin=f"http://{own}")[0] == 200
    assert ask(service, "POST", "/predict", png(), Origin="http://elsewhere.example")[0] == 403
    assert ask(service, "POST", "/predict", png(), Origin="null")[0] == 403
    for host in ("elsewhere.example", f"elsewhere.example:{service.port}", service.host):
        assert ask(service, "GET", "/", Host=host)[0] == 403


def test_more_pictures_than_have_room_are_told_to_come_again(service):
    taken = [service.places.acquire(blocking=False) for _ in range(serve.MOST_AT_ONCE)]
    assert all(taken)
    assert ask(service, "POST", "/predict", png())[0] == 503
    service.places.release()
    assert ask(service, "POST", "/predict", png())[0] == 200


def test_by_default_only_this_machine_can_ask(service):
    assert service.host == "127.0.0.1"
    assert service.is_loopback
