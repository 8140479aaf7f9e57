"""The network that `[model] name = "auto"` takes: by the study file and the installed extras, for every party alike."""

import importlib.util
import tomllib

import pytest
from tests.errors import raises_code

from wardround.config import choice, parse_study
from wardround.errors import StudyError
from wardround.models.backbones.names import PACKAGE

PLAN = {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5}
BACKBONE, FINE, HOG = "efficientnet-lite0", "efficientnet-lite0-all", "hog"


@pytest.fixture(autouse=True)
def extra(monkeypatch):
    """The extra is installed, wherever the tests run, and `extra(False)` takes it away."""
    known = importlib.util.find_spec

    def install(is_there=True):
        def found(name, package=None):
            return (is_there or None) if name == PACKAGE else known(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", found)

    install()
    return install


def auto(data=None, model=None):
    tables = {"study": {"name": "auto"}, "data": {"layout": "folder"} | (data or {}), "privacy": PLAN}
    return parse_study(tables | ({} if model is None else {"model": model}))


def chosen(study):
    return study.model.name, study.model.encoder


@pytest.mark.parametrize(
    ("data", "encoder"),
    [
        ({}, BACKBONE),
        ({"layout": "chest_xray"}, BACKBONE),
        ({"image_size": 224}, BACKBONE),
        ({"volume_size": [224, 224, 8], "view": "slices"}, BACKBONE),
        ({"colour": "rgb"}, FINE),
        ({"task": "grading"}, FINE),
        ({"layout": "aptos"}, FINE),
        ({"image_size": 64}, HOG),
        ({"volume_size": [32, 32, 8], "view": "slices"}, HOG),
    ],
)
def test_public_facts_decide_the_encoder(data, encoder):
    study = auto(data)
    assert chosen(study) == ("features", encoder)
    assert study.data.image_size == data.get("image_size", 64 if "volume_size" in data else 224)
    assert study.digest == auto(data, {"name": "auto"}).digest
    same = {"name": "features", "encoder": encoder, "head": study.model.head}
    assert study.digest == auto(data, same).digest


@pytest.mark.parametrize(
    ("data", "model", "colour"),
    [
        ({"layout": "aptos"}, None, "rgb"),
        ({"layout": "aptos"}, {"name": "features", "encoder": BACKBONE}, "rgb"),
        ({"layout": "aptos", "image_size": 64}, None, "rgb"),
        ({"layout": "aptos", "colour": "grey"}, None, "grey"),
        ({"layout": "aptos"}, {"name": "small_cnn"}, "grey"),
        ({"layout": "folder"}, None, "grey"),
    ],
)
def test_fundus_photographs_are_read_in_colour_unless_the_study_says_otherwise(data, model, colour):
    assert auto(data, model).data.colour == colour


@pytest.mark.parametrize(
    ("data", "tables", "head"),
    [
        ({"layout": "aptos"}, {}, "ordinal"),
        ({"layout": "manifest", "task": "grading"}, {}, "ordinal"),
        ({"layout": "aptos", "task": "referable"}, {}, "softmax"),
        ({"layout": "folder"}, {}, "softmax"),
        ({"layout": "aptos"}, {"model": {"name": "auto", "head": "softmax"}}, "softmax"),
        ({"layout": "aptos"}, {"model": {"name": "small_cnn"}}, "softmax"),
        ({"layout": "aptos"}, {"privacy": {"plan": "none"}}, "softmax"),
    ],
)
def test_a_private_head_for_grades_knows_their_order(data, tables, head):
    study = parse_study({"study": {"name": "auto"}, "data": data, "privacy": PLAN} | tables)
    assert study.model.head == head


@pytest.mark.parametrize("data", [{"task": "segmentation"}, {"layout": "decathlon", "volume_size": [32, 32, 8]}])
def test_masks_have_features_of_voxels(data):
    assert chosen(auto(data)) == ("boxed_voxel_features", None)


def test_without_the_extra_it_is_histograms(extra):
    extra(False)
    study = auto()
    assert chosen(study) == ("features", HOG)
    assert study.data.image_size == 64


def test_the_choice_brings_the_recipe_and_stands_in_the_file():
    study = auto()
    assert study.federation.learning_rate == "auto"
    written = tomllib.loads(study.to_toml())
    assert (written["model"]["name"], written["model"]["encoder"]) == ("features", BACKBONE)
    assert written["data"]["image_size"] == 224


def test_the_reason_says_what_to_do_for_the_better_one(extra):
    def why(data):
        found = choice.choice_for({"data": data, "site": {"layout": "folder"}})
        assert found is not None
        return found.why

    assert "public backbone" in why({})
    assert "image_size is 64" in why({"image_size": 64})
    assert "leave image_size out" in why({"image_size": 64})
    extra(False)
    assert "pip install 'wardround[backbone]'" in why({})


def test_a_name_and_an_encoder_are_kept():
    assert chosen(auto(model={"name": "small_cnn"})) == ("small_cnn", None)
    assert auto(model={"name": "small_cnn"}).data.image_size == 64
    assert chosen(auto(model={"encoder": HOG})) == ("features", HOG)
    named = auto(model={"name": "features", "encoder": BACKBONE})
    assert named.data.image_size == 224


def test_classes_of_whole_volumes_need_a_name():
    with raises_code(StudyError, "study-no-choice"):
        auto({"volume_size": [32, 32, 8]})


@pytest.mark.parametrize("data", [{"volume_size": 7, "view": "slices"}, {"image_size": "large"}, {"colour": 3}])
def test_nonsense_is_refused_by_its_own_key(data):
    with raises_code(StudyError, "study-value"):
        auto(data)
