"""No key of [privacy] that a study file accepts is ignored: given otherwise, the plan or the statement is another."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.privacy.plans.test_fit import FITTING, PLANS, privacy_sections

from wardround.agreed.plans import epsilon_limit_of, plan_of
from wardround.agreed.strategies import head_fit_of
from wardround.errors import StudyError
from wardround.privacy.plans.wording import statement_of

STRATEGIES = ("fedsgd", "fedavg", "selective", "one-shot", "alone", "pooled")
"""One of each way in which hospitals are asked."""
OTHERWISE: dict[str, tuple[Any, ...]] = {
    "epsilon": (3.0,),
    "noise_multiplier": (2.0,),
    "delta": (1e-4,),
    "clipping_norm": (0.25,),
    "answers": (3,),
    "answer_threshold": (0.01,),
    "values_share": (0.25,),
    "regularisation": (0.02,),
    "clipping": ("per-layer", "automatic", "adaptive"),
    "clipping_quantile": (0.75,),
    "sampling_prob": (0.25,),
    "cohorts": (3,),
    "bands": (1,),
    "images_per_patient": (3,),
    "pictures": ("laplace-pixels", "gaussian-pixels", "dp-pix", "laplace-features"),
    "block": (8,),
    "neighbourhood": (5,),
    "feature_norm": (2.0,),
    "label_epsilon": (1.5,),
    "num_patients": (24,),
    "accountant": ("pld",),
    "trust": ("coordinator", "secure-aggregation", "nobody"),
    "colluders": (0,),
    "dropouts": (1,),
    "sum": ("masked",),
    "epsilon_limit": (99.0,),
}
ELSEWHERE = {"plan", "unit", "ledger"}
"""The kind itself, the unit that follows from it, and where a file lies."""
CHANGES = [(key, value) for key, values in OTHERWISE.items() for value in values]


def studies(tiny_study, plan) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yields every accepted combination of strategy, trust, sum and count under a plan, as keys and as a study."""
    trusts, sums = ("coordinator", "secure-aggregation", "nobody"), ("simulated", "masked")
    for strategy, trust, form, size in itertools.product(STRATEGIES, trusts, sums, (None, 32)):
        own = {"plan": plan, "epsilon": None, **PLANS[plan], "trust": trust, "sum": form, "num_patients": size}
        yield from accepted(tiny_study, {"privacy": own, "federation": {"strategy": strategy, "rounds": None}})


def accepted(tiny_study, tables):
    try:
        yield tables, tiny_study(**tables)
    except StudyError:
        return


def resolved(study):
    """Everything that the section says: the plan, the sentences about it, the limit, and the objective of a head."""
    plan = plan_of(study)
    head = head_fit_of(study) if study.fits_head else None
    return plan, statement_of(plan, simulated=True, seeded=False), epsilon_limit_of(study, plan), head


def ignored(tiny_study, plan):
    """Returns the keys whose change is accepted and changes nothing, each with where."""
    found = set()
    for tables, study in studies(tiny_study, plan):
        before = resolved(study)
        where = (study.federation.strategy, study.privacy.trust)
        for key, value in CHANGES:
            if getattr(study.privacy, key, None) == value:
                continue
            changed = {**tables, "privacy": tables["privacy"] | {key: value}}
            found |= {(key, *where) for _, other in accepted(tiny_study, changed) if resolved(other) == before}
    return found


def is_known(key, plan, strategy, trust):
    """Returns whether today's study file is known to accept a key where it means nothing: one table for all kinds."""
    summed = strategy not in ("alone", "pooled") and plan != "none"
    match key:
        case "clipping_quantile":
            return True  # no study here clips adaptively, but for the last test
        case "regularisation":
            return plan != "output-perturbation" and strategy != "one-shot"
        case "values_share":
            return plan not in ("sparse-vector", "top-k")
        case "colluders" | "dropouts":
            return trust != "secure-aggregation" or not summed
        case "trust":
            return not summed
        case "clipping":
            return plan == "none"
        case "clipping_norm":
            return plan in ("none", "local-pictures") and strategy != "one-shot"
        case _:
            return False


def test_every_key_is_here():
    keys = {key for section in privacy_sections() for key in section["properties"]}
    assert keys - ELSEWHERE == set(OTHERWISE)


@pytest.mark.parametrize("plan", PLANS)
def test_no_key_is_ignored_but_those_that_are_known(tiny_study, plan):
    found = ignored(tiny_study, plan)
    assert not [each for each in sorted(found) if not is_known(each[0], plan, *each[1:])]


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "none"])
@pytest.mark.parametrize("key", ["epsilon", "delta", "accountant"])
def test_the_noise_follows_from_the_promise(tiny_study, plan, key):
    """Where epsilon is given: another epsilon, delta or accountant is another plan, and a promise that is kept."""
    own = {"plan": plan, "trust": None, **PLANS[plan], "noise_multiplier": None, "epsilon": 6.0}
    if plan in ("dp-sgd", "correlated-noise"):
        own["num_patients"] = 32
    federation = {"strategy": FITTING.get(plan, "fedsgd"), "rounds": None}
    made = [
        plan_of(tiny_study(privacy=own | {name: value}, federation=federation))
        for name, value in ((key, OTHERWISE[key][0]), ("epsilon", 6.0))
    ]
    assert made[0] != made[1]
    assert made[1].epsilon <= 6.0
    assert made[0].epsilon <= (3.0 if key == "epsilon" else 6.0)
    assert made[1].epsilon > 5.5


def test_the_quantile_of_an_adaptive_norm_is_not_ignored(tiny_study):
    changed = [
        resolved(tiny_study(privacy={"clipping": "adaptive", "clipping_quantile": quantile}))
        for quantile in (0.5, 0.75)
    ]
    assert changed[0] != changed[1]
