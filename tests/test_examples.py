"""Every file in examples/ is a study; the demo, made small, runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cases import family
from tests.plans import strategy_names

from wardround.config import read_study

FOLDER = Path(__file__).resolve().parents[1] / "examples"
STRATEGIES = sorted((FOLDER / "strategies").glob("*.toml"))
EXAMPLES = sorted(FOLDER.glob("*.toml")) + STRATEGIES


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


@pytest.mark.usefixtures("without_charts")
def test_the_demo_made_small_runs_with_every_comparison(cache, tmp_path, wardround):
    demo = read_study(next(path for path in EXAMPLES if path.name == "demo.toml"))
    small = demo.model_copy(
        update={
            "site": demo.site.model_copy(
                update={
                    "phantom": demo.site.phantom.model_copy(
                        update={"patients": 60, "image_size": 32, "max_images": 2}
                    )
                }
            ),
            "data": demo.data.model_copy(update={"image_size": 32}),
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


def test_every_strategy_has_an_example():
    assert {read_study(path).federation.strategy for path in EXAMPLES} == set(strategy_names())


def made_small(study, cache):
    """The same study on few patients and few rounds: three hospitals where it has more."""
    federation, hospitals = study.federation, study.hospitals
    few: dict[str, object] = {"compare": ()}
    if getattr(federation, "cycles", None) is not None:
        few["cycles"] = 1
    elif hasattr(federation, "rounds"):
        few["rounds"] = min(federation.rounds, 3)
    if hasattr(federation, "local_steps"):
        few["local_steps"] = min(federation.local_steps, 2)
    cohorts = {"cohorts": 2} if hasattr(study.privacy, "cohorts") else {}
    return study.model_copy(
        update={
            "site": study.site.model_copy(
                update={
                    "phantom": study.site.phantom.model_copy(
                        update={"patients": 40, "image_size": 32, "max_images": 1}
                    )
                }
            ),
            "data": study.data.model_copy(update={"image_size": 32}),
            "hospitals": hospitals.model_copy(update={"count": min(hospitals.count, 3)}),
            "privacy": study.privacy.model_copy(update={"accountant": "rdp", **cohorts}),
            "federation": federation.model_copy(update=few),
            "performance": study.performance.model_copy(update={"cache": cache, "threads": 1}),
        }
    )


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize(
    "path",
    family(STRATEGIES, keep=[path for path in STRATEGIES if path.stem in {"fedavg", "correlated_noise"}]),
    ids=[path.stem for path in STRATEGIES],
)
def test_an_example_of_a_strategy_made_small_keeps_its_promise(path, cache, tmp_path):
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    study = made_small(read_study(path), cache)
    record = run_study(study, tmp_path / "run", Silent())
    certificate: dict[str, Any] = record.certificate
    assert certificate["stopped"] is None
    assert certificate["rounds"] == study.rounds
    assert 0.99 * study.privacy.epsilon < certificate["statement"]["epsilon"] <= study.privacy.epsilon
    assert certificate["unit"] == study.privacy.unit
    assert certificate["seeded"] is False
    for ledger in certificate["ledgers"].values():
        assert ledger["epsilon_spent"] <= certificate["statement"]["epsilon"] * (1 + 1e-6)
    assert (record.path / "report.html").exists()
