"""Encrypted answers are those of `predict` and hold a sum alone; rows are counted, and no request ends the server."""

import http.client
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tests.inference.saved import drawn, picture_input, save
from typer.testing import CliRunner

from wardround.errors import DataError, FederationError, ModelError, RecordError
from wardround.inference.answers import Classified
from wardround.inference.encrypted.frames import framed, unframed
from wardround.inference.encrypted.service import COUNT, Count, EncryptedHead
from wardround.inference.model import Whole, load

pytest.importorskip("tenseal")

from wardround.inference.encrypted import ask, scheme

FEATURES = 40


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(3)
    weights, biases = generator.normal(size=(2, FEATURES)), np.array([0.25, -3.0])
    return scheme.Secret(), scheme.Head(weights, biases), weights, biases


def slots_of(secret, answer):
    """The slots that whoever asks decrypts, not only their sum."""
    plain = secret._scheme.seal.Plaintext()
    secret._decryptor.decrypt(secret._scheme.loaded("Ciphertext", answer), plain)
    return secret._scheme.slots(plain)


def test_answers_are_the_inner_products(pair):
    secret, head, weights, biases = pair
    rows = np.random.default_rng(4).normal(size=(3, FEATURES))
    answers = head.answers(secret.public, [secret.encrypt(row) for row in rows])
    found = np.array([secret.open(answer) for answer in answers]).reshape(3, 2)
    np.testing.assert_allclose(found, rows @ weights.T + biases, atol=3e-5)


def test_the_extremes_are_exact_and_a_row_of_all_slots_fits():
    row = np.full(scheme.SLOTS, 1 / scheme.SLOTS**0.5)
    weights = np.stack([row * 256, np.zeros(scheme.SLOTS)])
    secret, head = scheme.Secret(), scheme.Head(weights, np.zeros(2))
    largest, zero = (secret.open(one) for one in head.answers(secret.public, [secret.encrypt(row)]))
    assert largest == pytest.approx(256, abs=1e-3)
    assert zero == 0


@pytest.mark.parametrize("norm", [0.01, 3.0, 255.9, 256.1, 5000.0])
def test_unit_rows_and_any_norm_of_a_head_are_within_range(norm):
    """The rows of backbones have norm one, up to rounding, and heads at small noise have long weights."""
    generator = np.random.default_rng(6)
    rows, weights = generator.normal(size=(3, 2433)), generator.normal(size=(2, 2433))
    rows *= (1 + 1e-7) / np.linalg.norm(rows, axis=1, keepdims=True)
    weights *= norm / np.linalg.norm(weights, axis=1, keepdims=True)
    weights[1] = norm * rows[0]  # the largest logit there is
    bound, bias = scheme.largest_norms(weights, np.zeros(2))
    scale = scheme.scale_of(bound)
    assert np.linalg.norm(rows, axis=1).max() * bound + bias <= scheme.LARGEST_LOGIT * scale
    secret, head = scheme.Secret(), scheme.Head(weights, np.zeros(2))
    answers = head.answers(secret.public, [secret.encrypt(row) for row in rows])
    found = np.array([secret.open(answer, scale) for answer in answers]).reshape(3, 2)
    np.testing.assert_allclose(found, rows @ weights.T, atol=1e-4 * scale)


def test_only_the_sum_can_be_seen_in_an_answer(pair):
    """The slots less the products are masks: uniform, fresh for every answer, whatever the weights."""
    secret, head, _, _ = pair
    row = np.random.default_rng(5).normal(size=FEATURES)
    sealed = secret.encrypt(row)
    first, second = (slots_of(secret, head.answers(secret.public, [sealed])[0]) for _ in range(2))
    modulus = secret._scheme.modulus
    for slots in (first, second):
        assert stats.kstest(slots[:FEATURES] / modulus, "uniform").pvalue > 1e-4
        assert stats.kstest(slots / modulus, "uniform").pvalue > 1e-4
    assert np.count_nonzero(first == second) < 3
    assert sum(map(int, first)) % modulus == sum(map(int, second)) % modulus


def test_masks_are_uniform_among_those_of_a_sum():
    modulus = scheme.Scheme().modulus
    masks = scheme.masks_of_sum(12345, modulus)
    assert sum(map(int, masks)) % modulus == 12345
    assert masks.max() < modulus
    assert stats.kstest(masks / modulus, "uniform").pvalue > 1e-4


def test_the_ciphertext_itself_is_hidden_by_a_fresh_zero_and_the_smallest_modulus(pair, monkeypatch):
    """Without masks the slots are equal, and still neither polynomial of two answers is."""
    secret, head, _, _ = pair
    monkeypatch.setattr(scheme, "masks_of_sum", lambda total, _: np.zeros(scheme.SLOTS, dtype=np.uint64))
    sealed = secret.encrypt(np.ones(FEATURES))
    read = [secret._scheme.loaded("Ciphertext", head.answers(secret.public, [sealed])[0]) for _ in range(2)]
    assert all(one.coeff_modulus_size() == 1 for one in read)
    halves = [np.array([one[k] for k in range(0, 2 * scheme.SLOTS, 64)], dtype=np.uint64) for one in read]
    assert np.count_nonzero(halves[0] == halves[1]) < 3


def saved(folder, head):
    recipe = picture_input(image_size=64)
    network = drawn("features", recipe, 3, train="head", head=head)
    return save(folder, network, recipe, ("a", "b", "c"), "grades" if head == "ordinal" else "classes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), "softmax")


@contextmanager
def served(folder):
    (folder / COUNT).unlink(missing_ok=True)
    head = EncryptedHead.of(load(folder), 6)
    with head.service() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()
            head.count.close()


@pytest.fixture
def service(folder):
    with served(folder) as service:
        yield service


def pictures(folder, count):
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 256, (70, 80), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(count)]


@pytest.mark.parametrize("head", ["softmax", "ordinal"])
def test_answers_are_those_of_predict(head, tmp_path):
    """Of grades the server has a score less, and the client makes logits of them."""
    folder, paths = saved(tmp_path / "run", head), pictures(tmp_path, 2)
    with served(folder) as service:
        mine, theirs = ask.connect(service.url).predict(paths), load(folder).predict(paths)
    for one, other in zip(mine, theirs, strict=True):
        assert isinstance(one, Classified)
        assert isinstance(other, Classified)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
        assert one.label == other.label


def test_the_command_asks_an_address(service, tmp_path):
    from wardround.cli.main import app

    (path,) = pictures(tmp_path, 1)
    done = CliRunner().invoke(app, ["predict", service.url, str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["predictions"][0]["class"] in "abc"


def test_what_is_told_has_no_weight_in_it(service, folder):
    told = json.loads(get(service, "/card")[1])
    assert set(told) == {"card", "head"}
    assert told["card"] == load(folder).card.to_json()
    assert {np.log2(told["head"][key]) % 1 for key in ("norm", "bias")} == {0.0}
    assert get(service, "/")[0] == 200
    assert get(service, "/predict")[0] == 404


def test_rows_are_counted_over_restarts_and_the_last_is_refused(folder, service, tmp_path):
    paths = pictures(tmp_path, 4)
    ask.connect(service.url).predict(paths)
    with pytest.raises(FederationError, match="2 of 6 are left") as refused:
        ask.connect(service.url).predict(paths)
    assert refused.value.code == "federation-encrypted"
    with pytest.raises(RecordError) as second:
        Count(folder / COUNT, 6)
    assert second.value.code == "record-in-use"
    assert int((folder / COUNT).read_text()) == 4


def test_a_count_outlives_its_process_and_is_not_guessed(tmp_path):
    path = tmp_path / COUNT
    count = Count(path, 5)
    assert count.take(3)
    assert not count.take(3)
    assert count.left == 2
    count.close()
    again = Count(path, 5)
    assert again.left == 2
    again.close()
    path.write_text("many")
    with pytest.raises(RecordError) as error:
        Count(path, 5)
    assert error.value.code == "record-count"


def get(service, path, content=None):
    connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
    try:
        connection.request("GET" if content is None else "POST", path, content)
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


@pytest.mark.parametrize("at", ["key", "row"])
def test_bytes_of_no_scheme_are_refused(pair, at):
    secret, head, _, _ = pair
    sealed = secret.encrypt(np.ones(FEATURES))
    for wrong in (b"", b"x", secret.public if at == "row" else sealed, sealed[:-9]):
        with pytest.raises(DataError) as error:
            head.answers(*((secret.public, [wrong]) if at == "row" else (wrong, [sealed])))
        assert error.value.code == "data-ciphertext"


@pytest.mark.thorough
def test_foreign_bytes_are_refused_and_the_next_request_is_answered(service, tmp_path):
    secret = scheme.Secret()
    sealed = secret.encrypt(np.ones(FEATURES))
    hostile = [
        b"", b"\0", framed([]), framed([secret.public]), framed([secret.public, b"x"]),
        framed([b"x", sealed]), framed([secret.public, secret.public]), framed([sealed, sealed]),
        framed([secret.public, sealed[:-9]]), framed([secret.public, sealed])[:-1], b"\xff" * 64,
        framed([secret.public] * 70),
    ]  # fmt: skip
    for content in hostile:
        status, told = get(service, "/encrypted", content)
        assert status == 400, content[:20]
        assert "must" in json.loads(told)["error"]
    assert len(ask.connect(service.url).predict(pictures(tmp_path, 1))) == 1


def test_an_answer_that_was_switched_is_no_fresh_row(pair):
    secret, head, _, _ = pair
    (answer, _) = head.answers(secret.public, [secret.encrypt(np.ones(FEATURES))])
    with pytest.raises(DataError) as error:
        head.answers(secret.public, [answer])
    assert error.value.code == "data-ciphertext"


@pytest.mark.parametrize("parts", [[], [b""], [b"a", b"", b"bcd"]])
def test_frames_come_back(parts):
    assert unframed(framed(parts), 3) == parts


def test_what_has_no_linear_head_is_refused(tmp_path):
    recipe = picture_input(image_size=16)
    small = load(save(tmp_path / "cnn", drawn("small_cnn", recipe, 2), recipe))
    networks = {"one": drawn("linear", recipe, 2), "two": drawn("linear", recipe, 2, seed=2)}
    several = load(save(tmp_path / "several", networks, recipe))
    for model in (small, several):
        with pytest.raises(ModelError) as error:
            EncryptedHead.of(model, None)
        assert error.value.code == "model-not-linear"


def test_no_server_is_one_sentence():
    for address in ("http://127.0.0.1:9", "http://", "http://127.0.0.1:x"):
        with pytest.raises(FederationError) as error:
            ask.connect(address)
        assert error.value.code == "federation-encrypted"


def test_logits_beyond_the_range_are_refused_before_anything_is_asked(service, monkeypatch):
    model = ask.connect(service.url)
    assert not isinstance(model.whole, Whole)
    monkeypatch.setattr(model.whole, "_bounds", (256.0, 1e6))
    monkeypatch.setattr(ask, "_asked", lambda *_: pytest.fail("asked"))
    with pytest.raises(ModelError) as error:
        model.logits(np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8))
    assert error.value.code == "model-not-linear"
