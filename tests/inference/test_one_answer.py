"""One picture gets one answer: every layout that training reads, by default a few, and MONAI's own command.

`test_every_way.py` has every network. Exporting takes seconds a network, so it is not in the default run.
"""

import copy
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.errors import raises_code
from tests.inference import every
from tests.inference.saved import drawn, evaluated, picture_input, save, volume_input
from tests.simulation.layouts import LAYOUTS, Person, write

from wardround.errors import ModelError
from wardround.images.load import load_images
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe
from wardround.inference.answers import Classified, Segmented
from wardround.inference.export import onnx
from wardround.inference.export.bundle import Reading, listed
from wardround.inference.export.onnx import INPUT, TOLERANCE, write_onnx
from wardround.inference.model import Model, load
from wardround.inference.reading import Ready
from wardround.inference.serve import answers_of

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


PEOPLE = [Person(number) for number in range(6)]
QUICK = {"folder", "dicom"}


@pytest.mark.parametrize(
    "layout", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in LAYOUTS]
)
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_every_layouts_pictures_are_read_as_training_reads_them(layout, colour, tmp_path, cache):
    """The rows of all pictures, bit for bit, and their probabilities."""
    root, data = tmp_path / "data", LAYOUTS[layout].data
    write(layout, root, PEOPLE)
    volumes = VolumeRecipe((8, 8, 8), 1, (1.0, 1.0, 1.0)) if "volume_size" in data else None
    channels = 1 if colour == "grey" or volumes else 3
    images = load_images(
        layout, root, cache_dir=cache, recipes=[volumes or PictureRecipe(32, channels)],
        task=str(data["task"]) if "task" in data else None,
    )  # fmt: skip
    recipe = (
        picture_input(colour=colour) if volumes is None else volume_input(volume_size=(8, 8, 8), spacing=(1, 1, 1))
    )
    network = drawn("linear", recipe, 2)
    model = load(save(tmp_path / "run", network, recipe))
    place = {"decathlon": root / "imagesTr", "nnunet": root / "imagesTr"}.get(layout, root)
    ready = [one for one in model.read([place]) if isinstance(one, Ready)]
    if layout == "medmnist":  # the file itself as well as the folder that has it alone
        assert len([*model.read([root / "set.npz"])]) == len(ready)
    # A reader may name files by pseudonyms: pictures are told by their rows, which differ.
    order = sorted(range(len(images.pixels)), key=lambda row: images.pixels[row].tobytes())
    mine = sorted(range(len(ready)), key=lambda number: ready[number].rows.tobytes())
    assert len(mine) == len(order) >= len(PEOPLE)
    for row, number in zip(order, mine, strict=True):
        np.testing.assert_array_equal(ready[number].rows[0], images.pixels[row])
    in_bundle = [Reading(model)(item)["ready"] for item in listed(model, str(place))]
    for mine_read, theirs in zip(ready, in_bundle, strict=True):
        np.testing.assert_array_equal(theirs.rows, mine_read.rows)
    expected = evaluated(replace(images, masks=None), network)
    found = model.predict(place)
    for row, number in zip(order, mine, strict=True):
        answer = found[number]
        assert isinstance(answer, Classified)
        np.testing.assert_allclose(list(answer.probabilities.values()), expected[row], rtol=0, atol=1e-4)
        sources = ready[number].sources
        assert sources is not None
        if layout != "medmnist":  # whose file holds all pictures
            (file,) = sources.files
            (served,) = answers_of(
                model, (root / file if sources.root is None else sources.root / file).read_bytes()
            )
            assert isinstance(served, Classified)
            np.testing.assert_allclose(served.logits, answer.logits, rtol=0, atol=1e-4)


def run_onnx(model: Model, tmp_path, rows):
    import onnxruntime

    write_onnx(model, tmp_path / "model.onnx", rows)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: rows})


def run_bundle(folder, pictures, tmp_path):
    """MONAI's own command, in a process of its own; the answers that it writes."""
    from wardround.inference.export.write import export

    export(load(folder), "bundle", tmp_path / "bundle")
    out = tmp_path / "eval"
    arguments = ["--config_file", f"{tmp_path}/bundle/configs/inference.json", "--bundle_root", f"{tmp_path}/bundle",
                 "--dataset_dir", str(pictures), "--output_dir", str(out)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((out / "predictions.json").read_text())["predictions"], out


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    recipe = picture_input(image_size=16)
    model = load(save(tmp_path / "run", drawn("linear", recipe, 2), recipe))
    true = Model.logits
    monkeypatch.setattr(Model, "logits", lambda self, rows: true(self, rows) + np.float32(1e-3))
    with raises_code(ModelError, "model-export"):
        write_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_large_logits_is_held_by_their_own_size(tmp_path):
    """Noise makes such weights; a logit of a thousand has the rounding of a thousand, and so has its probability."""
    pytest.importorskip("onnxscript")
    recipe = picture_input()
    network = drawn("small_unet", recipe, 3)
    assert network.parts is not None
    with torch.no_grad():
        for parameter in [*network.parts.body.parameters()][-2:]:  # of the last layer
            parameter.mul_(100.0)
    model = load(save(tmp_path / "run", network, recipe, ("background", "organ", "lesion"), target="masks"))
    assert write_onnx(model, tmp_path / "model.onnx").difference <= TOLERANCE


def of_noise(tmp_path):
    """A voxel network whose weights are noise, as those of a tiny epsilon."""
    recipe = volume_input(volume_size=(16, 16, 16), spacing=(1, 1, 1))
    network = drawn("boxed_voxel_features", recipe, 3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.trained.parameters():
            parameter.normal_(0.0, 30.0, generator=generator)
    return load(save(tmp_path / "run", network, recipe, ("background", "organ", "lesion"), target="masks"))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_weights_that_are_noise_is_held_by_the_sums_behind_its_scores(tmp_path):
    pytest.importorskip("onnxscript")
    assert write_onnx(of_noise(tmp_path), tmp_path / "model.onnx").difference <= TOLERANCE


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", ["half", "one weight", "no bias"])
def test_a_wrong_graph_of_weights_that_are_noise_is_not_written(tmp_path, monkeypatch, wrong):
    """Weights of half precision; and one that is wrong by a hundredth of itself, or missing."""
    pytest.importorskip("onnxscript")
    model, exported = of_noise(tmp_path), onnx._proto

    def other(model):
        whole = copy.deepcopy(model.whole)
        weights = [*whole.parameters()]
        with torch.no_grad():
            match wrong:
                case "half":
                    for each in weights:
                        each.copy_(each.half().float())
                case "one weight":
                    weights[0].view(-1)[0] *= 1.01
                case "no bias":
                    weights[-1][0] = 0.0
        return exported(replace(model, whole=whole))

    monkeypatch.setattr(onnx, "_proto", other)
    with raises_code(ModelError, "model-export"):
        write_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["features grey", "hog grey grades", "unet volume"])
def test_the_bundle_agrees_when_monais_command_runs_it(name, tmp_path, cache):
    pytest.importorskip("fire")
    made = every.made(every.CASES[name], tmp_path, cache)
    answers = made.model.predict(made.pictures)
    found, out = run_bundle(tmp_path / "run", made.pictures, tmp_path)
    assert [one["file"] for one in found] == [answer.file for answer in answers]
    for one, answer in zip(found, answers, strict=True):
        if isinstance(answer, Classified):
            np.testing.assert_allclose(one["logits"], answer.logits, rtol=0, atol=1e-4)
        else:
            assert isinstance(answer, Segmented)
            assert one["shares"] == pytest.approx(answer.shares, abs=1e-4)
            assert len(list(out.glob("*.nii.gz"))) == len(answers)


@pytest.mark.thorough
@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "chest_xray").is_dir(), reason="the real chest X-rays lie beside the project")
@pytest.mark.filterwarnings("ignore")
def test_real_xrays_agree(tmp_path, cache):
    """The published test pictures: rows bit for bit those of training's cache, ONNX within 1e-5 of torch."""
    recipe = picture_input(image_size=64)
    network = drawn("features", recipe, 2)
    model = load(save(tmp_path / "run", network, recipe))
    images = load_images(
        "chest_xray", DATA / "chest_xray", cache_dir=cache, recipes=[PictureRecipe(64, 1)], task="binary"
    )
    rows = {image.file: image.row for patient in images.patients for image in patient.images}
    found = {one.name: one for one in model.read([DATA / "chest_xray" / "test"]) if isinstance(one, Ready)}
    assert len(found) == 624
    once = {name for name in found if f"test/{name}" in rows}  # training reads a file once that is there twice
    assert len(once) > 600
    for name in once:
        np.testing.assert_array_equal(found[name].rows[0], images.pixels[rows[f"test/{name}"]])
    run_onnx(model, tmp_path, np.concatenate([one.rows for one in found.values()])[:200])


def test_a_card_for_people_names_its_blanks(finished, tmp_path):
    from wardround.inference.export.model_card import CLAIM, MODEL_CARD, json_of_card, markdown_of_card
    from wardround.inference.export.write import facts_of

    model, facts = load(finished), facts_of(finished)
    made = json_of_card(model, facts)
    page = markdown_of_card(model, facts)
    assert isinstance(made["CLAIM"], dict)
    assert isinstance(made["blank"], list)
    assert len(made["CLAIM"]) == len(CLAIM) == 42
    assert page.count("**blank**") == len(made["blank"]) > 20
    assert len(CLAIM) + len(MODEL_CARD) - len(made["blank"]) > 25
    assert "None" not in page
    assert model.card.weights.sha256 in page
    bare = json_of_card(model)
    assert isinstance(bare["blank"], list)
    assert len(bare["blank"]) > len(made["blank"])


def test_an_export_is_whole_or_not_there(finished, tmp_path, wardround, monkeypatch):
    from wardround.errors import ModelError
    from wardround.inference.export import write as exporting

    done = wardround("export", finished, "--to", "bundle", "--out", tmp_path / "bundle")
    assert done.code == 0
    names = {path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.*")}
    assert names == {"configs/inference.json", "configs/metadata.json", "models/model.json",
                     "models/model.safetensors", "docs/README.md", "docs/model_card.json"}  # fmt: skip
    assert wardround("export", finished, "--to", "bundle", "--out", tmp_path / "bundle").code == 2

    def broken(*_):
        raise ModelError("no", code="model-export")

    monkeypatch.setattr(exporting, "write_bundle", broken)
    assert wardround("export", finished, "--to", "bundle", "--out", tmp_path / "other").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_nothing_in_an_export_is_a_pickle(finished, tmp_path, wardround):
    wardround("export", finished, "--to", "bundle", "--out", tmp_path / "bundle")
    for path in (tmp_path / "bundle").rglob("*.*"):
        assert not zipfile.is_zipfile(path)
        assert path.suffix in (".json", ".md", ".safetensors")
