"""No key of [privacy] that a study file accepts is ignored: given otherwise, the plan or the statement is another."""

import itertools
from typing import Any

import pytest
from tests.cases import family
from tests.privacy.plans.test_fit import FITTING, PLANS

from wardround.agreed.plans import epsilon_limit_of, plan_of
from wardround.agreed.strategies import head_fit_of
from wardround.errors import PrivacyError, StudyError
from wardround.privacy.plans.wording import statement_of

STRATEGIES = ("fedsgd", "fedavg", "selective", "one-shot", "alone", "pooled")
"""One of each way in which hospitals are asked."""
OTHERWISE: dict[str, tuple[Any, ...]] = {
    "epsilon": (3.0,),
    "noise_multiplier": (2.0,),
    "delta": (1e-4,),
    "clipping_norm": (0.25,),
    "truncation": (0.25,),
    "row_norm": (0.25,),
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
    "spare_attempts": (2,),
    "epsilon_limit": (99.0,),
}
ELSEWHERE = {"plan", "unit", "ledger"}
"""The kind itself, the unit that follows from it, and where a file lies."""
CHANGES = [(key, value) for key, values in OTHERWISE.items() for value in values]


def studies(tiny_study, plan):
    """Yields every accepted combination of strategy, trust, sum and count under a plan, as tables and a study."""
    trusts, sums = ("coordinator", "secure-aggregation", "nobody", None), ("masked", None)
    for strategy, trust, form, size in itertools.product(STRATEGIES, trusts, sums, (None, 32)):
        own = {"plan": plan, "epsilon": None, "trust": trust, "sum": form, "num_patients": size}
        own |= {key: value for key, value in PLANS[plan].items() if key != "trust"}
        if strategy == "one-shot" or plan == "output-perturbation":
            own["clipping_norm"] = None
        tables = {"privacy": own, "federation": {"strategy": strategy, "rounds": None}}
        if resolved(tiny_study, tables) is not None:
            yield tables, tiny_study(**tables)


def resolved(tiny_study, tables):
    """Returns all that the section says: plan, sentences, limit, and the objective of a head; None if refused."""
    try:
        study = tiny_study(**tables)
        plan = plan_of(study)
    except (StudyError, PrivacyError):
        return None
    head = head_fit_of(study) if study.fits_head else None
    return plan, statement_of(plan, simulated=True, seeded=False), epsilon_limit_of(study, plan), head


def ignored(tiny_study, plan):
    """Yields the study and the key of each change that is accepted and changes nothing.

    Keys of other kinds are left out: files from before kinds had keys of their own give them at their defaults.
    """
    for tables, study in studies(tiny_study, plan):
        before, own = resolved(tiny_study, tables), type(study.privacy).model_fields
        for key, value in CHANGES:
            if key not in own or getattr(study.privacy, key) == value:
                continue
            changed = {**tables, "privacy": tables["privacy"] | {key: value}}
            if resolved(tiny_study, changed) == before:
                yield study, key


def is_known(study, key):
    """Returns whether a key is known to be ignored: who adds noise, where no sum is formed that noise is shared in."""
    alone = study.federation.strategy in ("alone", "ensemble", "pooled")
    if key in ("colluders", "dropouts"):
        return alone or study.privacy.trust != "secure-aggregation"
    return key == "trust" and alone


def test_every_key_is_here(tiny_study):
    sections = {type(study.privacy) for plan in PLANS for _, study in studies(tiny_study, plan)}
    assert len(sections) == len(PLANS)
    assert {key for section in sections for key in section.model_fields} - ELSEWHERE == set(OTHERWISE)


@pytest.mark.parametrize("plan", family(PLANS, keep=list(PLANS)[::3]))
def test_no_key_is_ignored_but_those_that_are_known(tiny_study, plan):
    found = [
        (key, study.privacy, study.federation.strategy)
        for study, key in ignored(tiny_study, plan)
        if not is_known(study, key)
    ]
    assert not found
    assert sum(1 for _ in studies(tiny_study, plan)) >= 4


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
    own = [{"clipping": "adaptive", "clipping_quantile": quantile} for quantile in (0.5, 0.75)]
    changed = [resolved(tiny_study, {"privacy": keys}) for keys in own]
    assert changed[0] != changed[1]
