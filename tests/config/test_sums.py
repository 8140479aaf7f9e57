"""`[privacy] sum` where it is left out: masked wherever masks can be made and hide something."""

import tomllib

import pytest

from wardround.config import parse_study


def study(privacy=None, federation=None, hospitals=None):
    plan = {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5} | (privacy or {})
    tables = {"study": {"name": "sums"}, "data": {"layout": "phantom", "image_size": 32}, "privacy": plan}
    return parse_study(tables | {"federation": federation or {}, "hospitals": hospitals or {}})


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"hospitals": {"count": 3}},
        {"hospitals": {"count": 4}, "privacy": {"dropouts": 1}},
        {"privacy": {"clipping": "adaptive"}},
        {"privacy": {"epsilon": None, "noise_multiplier": 1.0}},
    ],
)
def test_it_is_masked_where_it_can_be(tables):
    found = study(**tables)
    assert found.privacy.sum == "masked"
    assert tomllib.loads(found.to_toml())["privacy"]["sum"] == "masked"
    assert found.digest == study(**tables | {"privacy": tables.get("privacy", {}) | {"sum": "masked"}}).digest


@pytest.mark.parametrize(
    "tables",
    [
        {"hospitals": {"count": 2}},
        {"hospitals": {"count": 3}, "privacy": {"dropouts": 1}},
        {"privacy": {"trust": "coordinator"}},
        {"privacy": {"trust": "nobody"}},
        {"federation": {"strategy": "fedavg"}},
        {"federation": {"strategy": "pooled"}, "privacy": {"trust": "nobody"}},
        {"privacy": {"sum": "simulated"}},
    ],
)
def test_elsewhere_it_is_not(tables):
    assert study(**tables).privacy.sum == "simulated"


@pytest.mark.parametrize("plan", ["none", "correlated-noise"])
def test_other_plans_have_no_such_key(plan):
    given = {"plan": "none"} if plan == "none" else {"plan": plan, "cohorts": 2}
    found = study({"epsilon": None, "delta": None} | given if plan == "none" else given)
    assert not hasattr(found.privacy, "sum")
