"""A study that was accepted within a limit is allowed all that its plan foresees, and not one release more."""

import random
from dataclasses import replace

import pytest
from tests import plans
from tests.cases import family
from tests.hospital.deployed import study_of
from tests.ledger.spending import THREE, limit

from wardround.accounting.accountants import AccountantKind
from wardround.agreed.plans import plan_of
from wardround.errors import BudgetExhausted
from wardround.hospital.charged import foreseen
from wardround.ledger.file import LedgerFile
from wardround.noisers import NoiseShares
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import PublicSize
from wardround.privacy.plans.plan import Plan


def check_allowed_to_its_end(plan: Plan, cap: float | None = None) -> None:
    """Charges everything that is foreseen within a cap, which is the hospital's limit as well, and one release more."""
    cap = plan.epsilon if cap is None else cap
    with LedgerFile(":memory:") as ledger:
        limit(ledger, cap, plan.delta)
        account = ledger.begin(
            run="run", study="study", name="study", hospital="north", persons=THREE, foreseen=foreseen(plan, cap),
            epsilon=cap, delta=plan.delta, accountant=plan.accountant,
        )  # fmt: skip
        assert account.admitted.all()
        if plan.count is not None:
            for attempt in range(plan.counts):
                account.charge(release_event(plan.count), release=f"0/count/{attempt}", purpose="count")
        allowed = plan.releases
        while plan.epsilon_after(allowed, plan.counts) > cap:
            allowed -= 1
        for release in range(allowed):
            account.charge(release_event(plan.main), release=f"{release}/sum/1", purpose="sum")
        assert account.spent() <= plan.epsilon_after(allowed, plan.counts) <= cap
        with pytest.raises(BudgetExhausted):
            account.charge(release_event(plan.main), release="one-more", purpose="sum")


def masked_plan(draw: random.Random, **fields) -> Plan:
    hospitals = draw.randint(3, 9)
    noiser = NoiseShares(hospitals, draw.randint(1, hospitals - 2), draw.randint(0, 1))
    make = draw.choice([plans.masked, plans.masked_and_counted])
    made = make(noiser, releases=draw.randint(1, 12), size=PublicSize(36), **{"sampling_prob": 1.0, **fields})
    if made.count is not None:
        made = replace(made, parts=(replace(made.count, releases=draw.randint(1, 4)), made.training))
    return replace(made, delta=10 ** draw.uniform(-8, -2))


@pytest.mark.parametrize("seed", family(list(range(12)), keep=[0]))
def test_every_planned_release_is_allowed_and_one_more_is_refused(seed):
    draw = random.Random(seed)
    for _ in range(25):
        check_allowed_to_its_end(masked_plan(draw))


@pytest.mark.thorough
@pytest.mark.parametrize("accountant", list(AccountantKind))
def test_every_planned_release_of_a_sample_is_allowed(accountant):
    draw = random.Random(5)
    for _ in range(20):
        plan = masked_plan(draw, sampling_prob=draw.uniform(0.05, 0.9))
        check_allowed_to_its_end(replace(plan, accountant=accountant))


def test_a_limit_below_the_plan_cuts_it_where_it_was_cut_beforehand():
    draw = random.Random(9)
    for _ in range(10):
        plan = masked_plan(draw)
        check_allowed_to_its_end(plan, plan.epsilon_after(max(1, plan.releases // 2), plan.counts))


def test_a_masked_study_of_four_rounds_is_not_refused_its_last():
    masked = {"plan": "dp-sgd", "noise_multiplier": 4.0, "delta": 1e-3, "sum": "masked", "num_patients": 36}
    check_allowed_to_its_end(plan_of(study_of(masked, {"strategy": "fedsgd", "rounds": 4, "learning_rate": 0.5})))
