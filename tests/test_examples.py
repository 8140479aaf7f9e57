"""Every file in examples/ is a study; the demo, made small, runs."""

import json
from pathlib import Path

import pytest

from wardround.config import read_study

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.toml"))


def test_there_are_examples():
    assert "demo.toml" in [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_is_a_private_study_named_like_its_file(path):
    study = read_study(path)
    assert study.study.name.replace("-", "_") == path.stem
    assert study.study.seed is None, "an example in earnest has no seed"
    assert study.study.description


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_survives_the_round_trip(path, tmp_path):
    study = read_study(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(study.to_toml())
    assert read_study(copy) == study


def test_the_demo_made_small_runs_with_every_comparison(cache, tmp_path, wardround):
    demo = read_study(next(path for path in EXAMPLES if path.name == "demo.toml"))
    small = demo.model_copy(
        update={
            "data": demo.data.model_copy(
                update={
                    "image_size": 32,
                    "phantom": demo.data.phantom.model_copy(
                        update={"patients": 60, "image_size": 32, "max_images": 2}
                    ),
                }
            ),
            "federation": demo.federation.model_copy(update={"rounds": 3}),
            "performance": demo.performance.model_copy(update={"cache": cache, "threads": 1}),
        }
    )
    path = tmp_path / "demo.toml"
    path.write_text(small.to_toml())

    ended = wardround("run", path, "--out", tmp_path / "run", "--json")

    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert 7.9 < summary["epsilon"] <= 8
    assert set(summary["comparisons"]) == {"federated", *demo.federation.compare}
