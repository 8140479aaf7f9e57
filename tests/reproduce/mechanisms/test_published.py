"""The table of names: lazy, light, and complete for every plan and strategy that only published systems need."""

import subprocess
import sys
import tomllib
from typing import get_args

import pytest
from tests.errors import raises_code

from wardround.config import Study, parse_study
from wardround.config.federation import PublishedStrategy
from wardround.config.privacy import PublishedPlan
from wardround.errors import StudyError
from wardround.published import PublishedPlanName, PublishedStrategyName, published

PLANS, STRATEGIES = get_args(PublishedPlanName), get_args(PublishedStrategyName)
ASKED: dict[str, tuple[str, object, object]] = {
    "sparse-vector": ("answers", 7, 8),
    "top-k": ("answers", 7, 8),
    "local-pictures": ("pictures", "laplace-features", "dp-pix"),
}
"""A key of each plan's own, and two values."""


@pytest.mark.parametrize("name", PLANS)
def test_a_published_plan_is_read_by_its_own_class_and_written_whole(tiny, name):
    key, *values = ASKED[name]
    study, other = (
        parse_study(
            tiny(privacy={"plan": name, "clipping_norm": None, key: value}, federation={"strategy": "fedavg"})
        )
        for value in values
    )
    assert isinstance(study.privacy, PublishedPlan)
    assert type(study.privacy) is published(name, "section").SECTIONS[name]
    assert parse_study(tomllib.loads(study.to_toml())) == study
    assert other.digest != study.digest, "its own keys are part of the study's identity"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_published_strategy_is_read_by_its_own_class_and_written_whole(tiny, name):
    study = parse_study(tiny(federation={"strategy": name, "upload_fraction": 0.3}))
    assert isinstance(study.federation, PublishedStrategy)
    assert type(study.federation) is published(name, "section").SECTIONS[name]
    assert parse_study(tomllib.loads(study.to_toml())) == study
    other = parse_study(tiny(federation={"strategy": name, "upload_fraction": 0.4}))
    assert other.digest != study.digest, "its own keys are part of the study's identity"


@pytest.mark.parametrize(
    ("sections", "code", "part"),
    [
        (
            {"privacy": {"plan": "top-k", "answers": 7, "answer": 3}},
            "study-unknown-key",
            "privacy.answer (did you mean answers?)",
        ),
        ({"privacy": {"answers": 3}}, "study-plan-key", "answers belongs to plan = sparse-vector, top-k"),
        (
            {"federation": {"upload_fraction": 0.3}},
            "study-strategy-key",
            "upload_fraction belongs to strategy = selective",
        ),
    ],
)
def test_a_key_of_a_published_kind_is_refused_elsewhere_and_hinted_at_there(tiny, sections, code, part):
    with raises_code(StudyError, code) as refused:
        parse_study(tiny(**sections))
    assert part in str(refused.value)


def test_noised_labels_alone_are_corrected(tiny):
    with raises_code(StudyError, "study-conflict"):
        parse_study(tiny(training={"label_correction": "backward"}))


def test_the_schema_has_the_keys_of_every_published_kind():
    sections = Study.model_json_schema()["$defs"]
    keys = {
        kind["properties"]["plan"]["const"]: set(kind["properties"]) for kind in sections["PublishedPlan"]["oneOf"]
    }
    assert set(keys) == set(PLANS)
    assert all(ASKED[name][0] in keys[name] for name in PLANS)


def test_a_study_is_read_without_torch_and_config_without_the_mechanisms():
    code = (
        "import sys, wardround.config as config\n"
        "assert not [name for name in sys.modules if name.startswith('wardround.reproduce')]\n"
        "from pathlib import Path\n"
        "config.read_study(Path('examples/strategies/selective.toml'))\n"
        "assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("names", "role", "offered"),
    [
        (PLANS, "plan", {"part_of", "calibrated"}),
        (STRATEGIES, "strategy", {"timetable_of", "work_of", "strategy_of"}),
        (STRATEGIES, "hospital", {"update_of"}),
        (("local-pictures",), "simulation", {"released_materials", "resemblance_of"}),
    ],
)
def test_every_name_offers_what_its_roles_need(names, role, offered):
    for name in names:
        assert offered <= set(dir(published(name, role)))
