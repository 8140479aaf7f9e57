"""A user's own frozen encoder: from the study file to a model that answers, with its hash and a question."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cases import family
from tests.errors import raises_code

import wardround
from wardround.agreed.network import build_network
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import ModelError, StudyError
from wardround.images.entries import Target
from wardround.inference.export.onnx import write_onnx
from wardround.models.catalogue import build
from wardround.models.networks.features import UnitRows
from wardround.report.numbers import numbers_of
from wardround.report.page import render
from wardround.simulation.estimate import estimate
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study

SIDE = 32
ORIGIN = "Made for this test from noise; it has seen no patient."
DATA = {"image_size": SIDE, "phantom": {"patients": 16, "max_images": 2, "sites": 2, "image_size": 32}}


@pytest.fixture(scope="module")
def catalogue_file(tmp_path_factory):
    """Weights of a small convolutional network with a head of seven classes, none of which is used."""
    path = tmp_path_factory.mktemp("own") / "lungs.safetensors"
    generator = torch.Generator().manual_seed(3)
    network = build("small_cnn", size=(SIDE, SIDE), channels=1, num_classes=7, init_generator=generator)
    assert network.parts is not None
    save_file({name: value.clone() for name, value in network.parts.body.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory):
    """A graph of one strided convolution: eight maps of 8 x 8."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype(np.float32)
    maps = onnx.helper.make_node("Conv", ["pictures", "w"], ["maps"], strides=[4, 4])
    graph = onnx.helper.make_graph(
        [maps], "own",
        [onnx.helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, (1, 1, SIDE, SIDE))],
        [onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, (1, 8, 8, 8))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("own") / "lungs.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def own(path, **changes):
    found = {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "provenance": ORIGIN}
    return found | ({} if path.suffix == ".onnx" else {"architecture": "small_cnn"}) | changes


@pytest.fixture
def study_of(tiny_study, tmp_path):
    def make(path, **changes):
        return tiny_study(
            data=DATA, model={"name": "features", "own_encoder": own(path, **changes)},
            performance={"cache": str(tmp_path / "cache")},
        )  # fmt: skip

    return make


def built(study):
    return build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, SIDE, SIDE))


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("kind", ["catalogue_file", "graph_file"])
def test_a_model_behind_an_own_encoder_answers_from_its_folder(request, study_of, tmp_path, kind):
    study = study_of(request.getfixturevalue(kind))
    run = tmp_path / "run"
    record = run_study(study, run, Silent())
    materials = gather(study, Silent())
    rows, network = materials.workbench.kept_inputs, materials.workbench.network
    assert rows is not None
    assert list((tmp_path / "cache" / "encodings").glob("*.npy"))
    torch.testing.assert_close(rows.square().sum(dim=1), torch.ones(len(rows)))
    assert network.num_parameters == 2 * rows.shape[1], "the head alone is trained"
    assert study.federation.learning_rate == "auto" or study.federation.rounds, "the recipe is for such a head"

    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(run)
    model = wardround.load(moved)
    pixels = np.array(materials.images.pixels[:3])
    trained = load_file(moved / "model.safetensors")["classifier.0.weight"]
    assert trained.abs().max() > 0
    with torch.no_grad():
        next(network.trained.parameters()).copy_(trained)
        expected = network.whole()(torch.from_numpy(pixels))
    np.testing.assert_allclose(model.logits(pixels), expected.numpy(), atol=1e-6)
    assert model.card.network.own is not None
    assert model.card.network.own.sha256 == own(request.getfixturevalue(kind))["sha256"]
    assert ORIGIN.removesuffix(".") in render(numbers_of(record))
    assert "contain patients of this study?" in render(numbers_of(record))
    signed = json.loads((moved / "record.json").read_text())
    assert ("encoder.onnx" in json.dumps(signed)) == (kind == "graph_file")


def test_the_check_asks_whether_the_encoder_has_seen_the_studys_patients(study_of, catalogue_file):
    [asked] = [line for line in estimate(study_of(catalogue_file)).noticed if "own encoder" in line]
    assert ORIGIN in asked
    assert "small_cnn" in asked
    assert asked.count("?") == 1


def test_rows_are_features_of_the_network_before_its_head(study_of, catalogue_file):
    network = built(study_of(catalogue_file))
    whole = build(
        "small_cnn", size=(SIDE, SIDE), channels=1, num_classes=7, init_generator=torch.Generator(),
        weights=catalogue_file, train="head",
    )  # fmt: skip
    shown = torch.randint(
        0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        features = whole.encode(shown)
        torch.testing.assert_close(network.encode(shown), UnitRows()(features))
    assert features.std() > 0


def test_rows_of_a_graph_are_its_pooled_features(study_of, graph_file):
    onnx = pytest.importorskip("onnx")
    kernel = onnx.numpy_helper.to_array(onnx.load(graph_file).graph.initializer[0]).astype(np.float64)
    shown = np.random.default_rng(1).integers(0, 256, (2, 1, SIDE, SIDE), dtype=np.uint8)
    cells = (shown / 255.0).reshape(2, 8, 4, 8, 4).transpose(0, 1, 3, 2, 4)
    means = np.einsum("pabyx,kyx->pkab", cells, kernel[:, 0]).mean(axis=(2, 3))
    centred = means - means.mean(axis=1, keepdims=True)
    rows = np.c_[centred / np.linalg.norm(centred, axis=1, keepdims=True), np.full(2, 0.3)]
    found = built(study_of(graph_file)).encode(torch.from_numpy(shown)).numpy()
    np.testing.assert_allclose(found, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-5)


def test_rows_of_a_graph_are_centred_with_a_head_of_their_own(study_of, graph_file):
    """A session of ONNX Runtime cannot be copied, and needs not be: rows are kept."""
    bench = gather(study_of(graph_file), Silent()).workbench
    centred = bench.centred(np.full(bench.initial_weights.size, 0.05, np.float32))
    assert centred.network.trained is not bench.network.trained
    rows, moved = bench.kept_inputs, centred.kept_inputs
    assert rows is not None
    assert moved is not None
    assert moved.shape == rows.shape
    assert not torch.equal(moved, rows)


@pytest.mark.parametrize("kind", ["catalogue_file", "graph_file"])
def test_a_file_of_another_hash_is_refused(request, study_of, kind):
    study = study_of(request.getfixturevalue(kind), sha256="0" * 64)
    with raises_code(ModelError, "model-encoder-hash"):
        built(study)


def test_a_graph_for_other_pictures_is_refused(tiny_study, graph_file, tmp_path):
    study = tiny_study(data=DATA | {"image_size": 64}, model={"name": "features", "own_encoder": own(graph_file)})
    with raises_code(ModelError, "model-encoder-graph"):
        build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 64, 64))
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no graph")
    with raises_code(ModelError, "model-encoder-graph"):
        built(tiny_study(data=DATA, model={"name": "features", "own_encoder": own(bad)}))


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_a_graph_that_names_another_file_is_refused(tiny_study, graph_file, tmp_path, monkeypatch, where):
    """The runtime would read it: any file of the machine that has the pictures."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(graph_file)
    (tensor,) = model.graph.initializer
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    if where != "initializer":
        constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
        del model.graph.initializer[:]
        if where == "branch":
            branch = onnx.helper.make_graph([constant], "branch", [], [onnx.ValueInfoProto(name="w")])
            yes = onnx.helper.make_node(
                "Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True), "yes")
            )
            constant = onnx.helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)
            model.graph.node.insert(0, constant)
            constant = yes
        model.graph.node.insert(0, constant)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with raises_code(ModelError, "model-encoder-graph"):
        built(tiny_study(data=DATA, model={"name": "features", "own_encoder": own(bad)}))


@pytest.mark.thorough
@pytest.mark.usefixtures("without_charts")
def test_an_exported_graph_has_a_catalogue_encoder_and_an_onnx_encoder_is_refused_by_name(
    study_of, catalogue_file, graph_file, tmp_path
):
    pytest.importorskip("onnxscript")
    run_study(study_of(catalogue_file), tmp_path / "catalogue", Silent())
    assert write_onnx(wardround.load(tmp_path / "catalogue"), tmp_path / "model.onnx").difference < 1e-5
    run_study(study_of(graph_file), tmp_path / "graph", Silent())
    with raises_code(ModelError, "model-export-encoder"):
        write_onnx(wardround.load(tmp_path / "graph"), tmp_path / "other.onnx")
    (tmp_path / "graph" / "encoder.onnx").write_bytes(b"another")
    with raises_code(ModelError, "model-encoder-hash"):
        wardround.load(tmp_path / "graph")


@pytest.mark.parametrize(
    "section",
    family(
        [
            {"own_encoder": {"architecture": None}},
            {"encoder": "hog"},
            {"moments": "generated"},
            {"weights": "head.safetensors"},
            {"name": "small_cnn"},
        ],
        keep=[{"own_encoder": {"architecture": None}}, {"encoder": "hog"}],
    ),
)
def test_an_own_encoder_stands_for_the_others(tiny, catalogue_file, section):
    raw = tiny(data=DATA)
    raw["model"] = (
        {"name": "features"} | section | {"own_encoder": own(catalogue_file) | section.get("own_encoder", {})}
    )
    with raises_code(StudyError, "study-own-encoder"):
        parse_study(raw)


def test_the_hash_and_the_origin_are_the_studys_and_the_path_is_not(tiny_study, catalogue_file, tmp_path):
    copy = tmp_path / "copy.safetensors"
    shutil.copyfile(catalogue_file, copy)

    def digest(path, **changes):
        return tiny_study(data=DATA, model={"name": "auto", "own_encoder": own(path, **changes)}).digest

    assert digest(catalogue_file) == digest(copy)
    assert (
        len({digest(copy), digest(copy, sha256="0" * 64), digest(copy, provenance="Trained on other data.")}) == 3
    )
    assert "own_encoder" not in json.dumps(tiny_study().model_dump(mode="json", exclude_none=True))
