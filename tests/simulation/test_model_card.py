"""A run's model in use without the run: from `model.json`, `model.safetensors` and pictures alone."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.errors import raises_code
from tests.golden.cases import write_volumes

from wardround.config import parse_study, read_study
from wardround.coordinator.observer import Silent
from wardround.coordinator.rounds import Position
from wardround.errors import ModelError
from wardround.images.layouts.phantom import PhantomOptions
from wardround.images.load import load_images
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe, View, VolumeRecipe
from wardround.models.backbones.names import PACKAGE
from wardround.models.card import ModelCard, PictureInput, read_card
from wardround.models.load import load
from wardround.models.vectors import to_vector
from wardround.records.arrays import arrays_from_file
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study
from wardround.training.augment.augmentation import Augmentation
from wardround.training.losses import cross_entropy
from wardround.training.workbench import Workbench

CLASSIFIERS: dict[str, dict[str, dict[str, object]]] = {
    "head on fixed features": {"model": {"name": "features"}, "data": {"image_size": 32}},
    "head on a frozen network": {"model": {"name": "small_cnn", "train": "head"}},
    "norms": {"model": {"name": "small_cnn", "train": "norms"}},
    "adapters": {"model": {"name": "small_cnn", "train": "lora"}},
    "alone": {"federation": {"strategy": "alone"}},
    "head on a backbone": {
        "model": {"name": "features", "encoder": "efficientnet-lite0"},
        "data": {"image_size": 224},
        "privacy": {"sum": "masked"},
    },
}


def final_models(folder, rounds):
    """The vectors that the run ended with, by the names of its models, from its last checkpoint."""
    arrays = arrays_from_file(folder / "checkpoints" / f"round-{rounds:06d}.safetensors")
    position = Position.from_arrays(rounds, arrays)
    if position.means:
        return position.means
    vectors = {key: value for key, value in position.state.items() if key.split("/")[-1] == "weights"}
    return {key.rpartition("/")[0] or "global": value for key, value in vectors.items()}


def pictures_by(recipe, study, cache):
    """The pictures of a study's layout, prepared by nothing but the card."""
    site = study.site
    where = {"cache_dir": cache, "task": study.data.task}
    if isinstance(recipe, PictureInput):
        place = PhantomOptions(**site.phantom.model_dump()) if site.layout == "phantom" else site.path
        return load_images(
            site.layout, place, **where,
            recipes=[PictureRecipe(recipe.image_size, recipe.shape[0], Fit(recipe.fit), recipe.circle_crop)],
        )  # fmt: skip
    rows = VolumeRecipe(recipe.volume_size, 1, recipe.spacing, recipe.window, View(recipe.view))
    return load_images(site.layout, site.path, recipes=[rows], **where)


def same_as_the_run(folder, tmp_path):
    """The card, after each of its models has answered every test row as the run's own workbench does, bit for bit."""
    study = read_study(folder / "study.toml")
    materials = gather(study, Silent())
    card = read_card(folder / "model.json")
    images = pictures_by(card.recipe, study, tmp_path / "another-cache")
    assert images.pixels.tobytes() == materials.images.pixels.tobytes()
    assert images.class_names == card.classes
    models = final_models(folder, study.rounds)
    assert card.weights.models == (tuple(models) if len(models) > 1 else ())
    for name, vector in models.items():
        network = load(card, folder / "model.safetensors", name if card.weights.models else None)
        bench = Workbench(
            network, images.pixels, cross_entropy, 1 << 30, augmentation=Augmentation(patch=card.recipe.patch)
        )
        rows = materials.test.rows
        expected = materials.workbench.probabilities(vector, rows)
        found = bench.probabilities(to_vector(network.trained), rows)
        assert found.tobytes() == expected.tobytes()
        assert np.ptp(expected[:, 0]) > 0, "the pictures make a difference"
    return card


def test_a_card_answers_as_the_run_did(finished, tmp_path):
    card = same_as_the_run(finished, tmp_path)
    certificate = json.loads((finished / "certificate.json").read_text())
    assert card.weights.sha256 == certificate["model_sha256"]
    assert card.study.digest == certificate["study_digest"]
    assert card.statement == certificate["short"]


@pytest.mark.parametrize(
    "setting", family(CLASSIFIERS, keep=["head on fixed features", "head on a frozen network"])
)
def test_every_kind_of_model_answers_as_its_run_did(tiny_study, tmp_path, setting):
    if "backbone" in setting:
        pytest.importorskip(PACKAGE, reason="needs pip install 'wardround[backbone]'")
    study = tiny_study(**CLASSIFIERS[setting])
    run_study(study, tmp_path / "run", Silent())
    card = same_as_the_run(tmp_path / "run", tmp_path)
    assert (card.encoder_sha256 is not None) == (study.model.train not in ("all", "lora"))


@pytest.fixture
def photographs(tmp_path):
    """Wide pictures with a bright disc, which crop, pad and stretch, and a circle crop, make different rows of."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:40, :72]
    for number in range(24):
        disc = (y - 20) ** 2 + (x - 40) ** 2 < 17**2
        values = generator.integers(0, 256, (40, 72, 3)) * disc[..., None] // 2 + disc[..., None] * 100
        path = tmp_path / "photographs" / ("ill", "well")[number % 2] / f"p{number:02d}" / "view.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return tmp_path / "photographs"


@pytest.mark.parametrize("colour", family(["rgb", "grey"]))
@pytest.mark.parametrize("fit", family(["pad", "crop", "stretch"]))
@pytest.mark.parametrize("circle_crop", family([True, False]))
def test_the_recipe_of_the_card_makes_the_pictures_of_the_run(
    tiny_study, photographs, tmp_path, colour, fit, circle_crop
):
    study = tiny_study(
        data={
            "layout": "folder", "path": str(photographs), "phantom": None, "image_size": 24, "colour": colour,
            "fit": fit, "circle_crop": circle_crop,
        },
        model={"name": "small_cnn"},
        training={"augment": {"patch": 16}},
    )  # fmt: skip
    run_study(study, tmp_path / "run", Silent())
    recipe = same_as_the_run(tmp_path / "run", tmp_path).recipe
    assert recipe == PictureInput(
        version=1, colour=colour, image_size=24, fit=fit, circle_crop=circle_crop, patch=16
    )


@pytest.mark.thorough
@pytest.mark.parametrize("view", family(["slices", "volume"]))
def test_a_segmentation_answers_as_its_run_did(tiny, tmp_path, view):
    write_volumes(tmp_path / "volumes")
    raw = tiny(privacy={"images_per_patient": 16}, training={"augment": {"patch": 16}})
    raw["data"] = {
        "layout": "decathlon", "path": str(tmp_path / "volumes"), "volume_size": [20, 16, 16],
        "spacing": [1.0, 1.0, 2.0], "window": [250.0, 600.0], "view": view,
    }  # fmt: skip
    raw["model"] = {"name": "small_unet", "width": 4}
    run_study(parse_study(raw), tmp_path / "run", Silent())
    card = same_as_the_run(tmp_path / "run", tmp_path)
    assert (card.target, len(card.classes)) == ("masks", 3)
    assert card.recipe.window == (250.0, 600.0)


def test_the_weights_of_another_run_are_refused(tiny_study, finished, tmp_path):
    run_study(tiny_study(study={"seed": 8}, federation={"rounds": 1}), tmp_path / "run", Silent())
    with raises_code(ModelError, "model-weights-hash"):
        load(read_card(finished / "model.json"), tmp_path / "run" / "model.safetensors")


def test_the_card_names_no_path_and_no_count(tiny_study, make_pictures, tmp_path):
    make_pictures(tmp_path / "data", patients=26)
    study = tiny_study(data={"layout": "folder", "path": str(tmp_path / "data"), "phantom": None})
    run_study(study, tmp_path / "run", Silent())
    text = (tmp_path / "run" / "model.json").read_text()
    assert json.loads(text).keys() == ModelCard.model_fields.keys()
    assert not re.search(r"[/\\]", text)
    numbers = {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)}
    assert not numbers & {20, 21, 26}, "patients, and those of them that are trained on"


def test_a_fresh_run_replaces_the_card(finished, tiny_study, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    run_study(tiny_study(federation={"rounds": 1}), out, Silent(), fresh=True)
    card = read_card(out / "model.json")
    assert card.weights.sha256 == json.loads((out / "certificate.json").read_text())["model_sha256"]
    assert card != read_card(finished / "model.json")
