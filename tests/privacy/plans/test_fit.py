"""A plan and a strategy fit if the plan protects the work that the strategy asks for, and the study says the same."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
from tests.plans import strategy_names

from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import asks, head_fit_of
from wardround.config import Study
from wardround.errors import StudyError
from wardround.privacy.plans.protects import plan_protects
from wardround.published import PublishedPlanName
from wardround.work import (
    CountPatients,
    FittedHead,
    GradientSum,
    LocalSteps,
    LocalUpdate,
    Selection,
    SelectiveUpdate,
)

PLANS: dict[str, dict[str, Any]] = {
    "dp-sgd": {"noise_multiplier": 1.0, "trust": "nobody"},
    "clipped-update": {"noise_multiplier": 1.0, "trust": "nobody"},
    "sparse-vector": {"noise_multiplier": 1.0, "answers": 2},
    "top-k": {"noise_multiplier": 1.0, "answers": 2},
    "output-perturbation": {"noise_multiplier": 1.0, "trust": "nobody", "num_patients": 32},
    "correlated-noise": {"noise_multiplier": 1.0, "trust": "nobody", "cohorts": 2},
    "local-pictures": {"epsilon": 8.0, "clipping_norm": None},
    "none": {"delta": None, "clipping_norm": None},
}
"""Each plan with what it needs, under the one trust that all of them can have."""
FITTING = {"output-perturbation": "one-shot"} | dict.fromkeys(
    ("clipped-update", "sparse-vector", "top-k"), "fedavg"
)
"""A strategy that surely fits; for the others it is fedsgd."""
STRATEGIES = strategy_names()
LOCAL = set(STRATEGIES) - {"fedsgd", "alone", "ensemble", "pooled", "one-shot"}
"""Strategies in which a hospital takes steps of its own."""
NOT_OFFERED = {("correlated-noise", "alone"), ("correlated-noise", "ensemble")}
"""Protected, as the work is that of fedsgd; the study file refuses these pairs all the same."""


def study_of(tiny_study, plan, strategy):
    rounds = None if strategy in ("single-pass", "one-shot") or plan == "output-perturbation" else 4
    own = {"epsilon": None, "plan": plan, "trust": None} | PLANS[plan]
    return tiny_study(privacy=own, federation={"strategy": strategy, "rounds": rounds})


def accepts(tiny_study, plan, strategy):
    try:
        return plan_of(study_of(tiny_study, plan, strategy)) is not None
    except StudyError:
        return False


def asked(plan, strategy, fit):
    """Returns the work that a strategy asks for in its rounds."""
    weights, steps = np.zeros(3, dtype=np.float32), LocalSteps(2, 0.1, 0.5, 4.0)
    if strategy == "one-shot" or (plan == "output-perturbation" and strategy in ("alone", "ensemble")):
        return FittedHead(fit)
    if strategy == "selective":
        return SelectiveUpdate(weights, steps, Selection(np.arange(3), 0.5, False, 0.0, 0.1))
    return LocalUpdate(weights, steps) if strategy in LOCAL else GradientSum(weights)


def test_every_plan_of_a_study_file_is_here():
    """Those of the published systems stand in a table of their own."""
    sections = [made.get("properties", {}) for made in Study.model_json_schema()["$defs"].values()]
    ours = {section["plan"]["const"] for section in sections if "const" in section.get("plan", {})}
    assert set(PLANS) == ours - {"evaluation"} | set(get_args(PublishedPlanName)), "that one trains nothing"


@pytest.mark.parametrize("plan", PLANS)
def test_a_study_accepts_a_pair_just_if_the_plan_protects_what_is_asked(tiny_study, plan):
    """Over all 14 strategies; the plan is that of a study that is surely accepted."""
    study = study_of(tiny_study, plan, FITTING.get(plan, "fedsgd"))
    made, fit = plan_of(study), head_fit_of(study)
    protected = {name for name in STRATEGIES if plan_protects(made, asked(plan, name, fit))}
    accepted = {name for name in STRATEGIES if accepts(tiny_study, plan, name)}
    assert accepted == {name for name in protected if (plan, name) not in NOT_OFFERED}
    assert accepted, "each plan has a strategy"
    assert (plan == "none") == (len(accepted) == len(STRATEGIES)), (
        "and each private one has others that it refuses"
    )


def test_the_work_asked_for_is_that_of_the_strategies(tiny_study):
    pairs = itertools.product(PLANS, STRATEGIES)
    for plan, strategy in pairs:
        if accepts(tiny_study, plan, strategy):
            study = study_of(tiny_study, plan, strategy)
            work = asked(plan, strategy, head_fit_of(study))
            found = {type(each) for each in asks(study, plan_of(study))}
            assert found - {CountPatients} == {type(work)}, (plan, strategy)
            assert plan_protects(plan_of(study), work), (plan, strategy)


@pytest.mark.parametrize("trust", ["coordinator", "secure-aggregation"])
def test_local_steps_have_all_of_their_noise_or_are_refused(tiny_study, trust):
    """Under another trust a hospital alone adds less than all: no strategy of local steps is accepted or protected."""
    study = tiny_study(privacy={"trust": trust})
    for strategy in sorted(LOCAL):
        assert not plan_protects(plan_of(study), asked("dp-sgd", strategy, head_fit_of(study)))
        with pytest.raises(StudyError):
            plan_of(tiny_study(privacy={"trust": trust}, federation={"strategy": strategy, "rounds": None}))
