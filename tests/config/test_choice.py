"""The network that `[model] name = "auto"` takes: by the study file and the installed extras, for every party alike."""

import tomllib

import pytest
from tests.errors import raises_code

from wardround.config import choice, parse_study
from wardround.config.choice import CHOICES, Choice
from wardround.errors import StudyError

PLAN = {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5}


def auto(data=None, model=None):
    tables = {"study": {"name": "auto"}, "data": {"layout": "folder"} | (data or {}), "privacy": PLAN}
    return parse_study(tables | ({} if model is None else {"model": model}))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({}, "features"),
        ({"task": "grading"}, "features"),
        ({"volume_size": [32, 32, 8], "view": "slices"}, "features"),
        ({"task": "segmentation"}, "voxel_features"),
        ({"layout": "decathlon", "volume_size": [32, 32, 8]}, "voxel_features"),
    ],
)
def test_the_task_decides(data, name):
    assert auto(data).model.name == name
    assert auto(data, {"name": "auto"}).digest == auto(data, {}).digest == auto(data, {"name": name}).digest


def test_the_choice_brings_the_recipe_and_stands_in_the_file():
    study = auto()
    assert study.federation.learning_rate == "auto"
    assert tomllib.loads(study.to_toml())["model"]["name"] == "features"


def test_a_name_is_kept():
    assert auto(model={"name": "small_cnn"}).model.name == "small_cnn"


def test_classes_of_whole_volumes_need_a_name():
    with raises_code(StudyError, "study-no-choice"):
        auto({"volume_size": [32, 32, 8]})


@pytest.mark.parametrize(("module", "name"), [("json", "small_cnn"), ("no_such_module", "features")])
def test_the_first_row_whose_extra_is_installed_is_taken(monkeypatch, module, name):
    first = Choice("small_cnn", "classes", module, "it is here for a test")
    monkeypatch.setattr(choice, "CHOICES", (first, *CHOICES))
    assert auto().model.name == name
