"""Every strategy stops before its budget is overspent, and shares of noise add up to the noise that was promised."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.cases import family
from tests.federation.known import local_sgd, ordinary_sgd, rounds, state_after
from tests.fixtures_federation import STUDY, private_plan, without_noise

from wardround.errors import BudgetExhausted
from wardround.federation.aggregators import PlainSum
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.asynchronous import Asynchronous
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategies.scaffold import Scaffold
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable
from wardround.noisers import Trust
from wardround.privacy.updates import ClippedUpdate
from wardround.reproduce.mechanisms.selective.strategy import Selective

CALL = Call(STUDY)
STEPS = 2
EVERYTHING = (1.0, 1.0, False, 0.0, 1e9, 1.0)


def strategies(hospitals=3, sampling_prob=0.5, momentum=0.0, **local_changes):
    """Every strategy, with two local steps where it has them; a public number of four patients each."""
    local = LocalTraining(CALL, STEPS, 0.4, momentum, sampling_prob, 4 * hospitals)
    local = replace(local, **local_changes)
    sgd = FedSGD(CALL, PlainSum(), 0.4, momentum, sampling_prob, 4 * hospitals)
    orders = {"round-robin": Order.FIXED, "random-order": Order.RANDOM, "stochastic": Order.STOCHASTIC}
    rings = {name: Ring(local, Timetable(hospitals, order, seed=3)) for name, order in orders.items()}
    drawn = Timetable(hospitals, Order.STOCHASTIC, seed=3)
    return {
        "fedsgd": sgd,
        "alone": Alone(replace(sgd, num_patients=4)),
        "fedavg": FedAvg(local, PlainSum(), Timetable(hospitals)),
        "fraction": FedAvg(local, PlainSum(), Timetable(hospitals, Order.FRACTION, 0.5, seed=3)),
        "fedprox": FedAvg(replace(local, proximal=0.1), PlainSum(), Timetable(hospitals)),
        "scaffold": Scaffold(replace(local, momentum=0.0), Timetable(hospitals)),
        **rings,
        "asynchronous": Asynchronous(local, drawn, 1.0, 3, 0.5),
        "selective": Selective(local, rings["round-robin"].timetable, *EVERYTHING),
    }


NAMES = list(strategies())


@pytest.mark.parametrize("name", NAMES)
def test_one_hospital_of_any_strategy_is_local_training(make_federation, name):
    federation = make_federation(hospitals=1)
    strategy = strategies(hospitals=1, sampling_prob=1.0)[name]
    steps = 3 if name in ("fedsgd", "alone") else 3 * STEPS
    if name == "fedprox":
        weights = federation.weights
        for _ in range(3):  # its pull starts anew in every round
            weights, _ = local_sgd(federation, 0, weights, steps=STEPS, learning_rate=0.4, proximal=0.1)
    else:
        weights = ordinary_sgd(federation, steps=steps, learning_rate=0.4, momentum=0.0, num_patients=4)
    [model] = rounds(strategy, federation).values()
    assert np.allclose(model, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", family(NAMES, keep=["fedsgd", "round-robin"]))
def test_every_strategy_stops_before_the_step_that_would_overspend(make_federation, name):
    """A limit that allows a hospital two visits, and some change that is not enough for a third."""
    plan = private_plan(releases=12)
    strategy = strategies()[name]
    steps = 1 if name in ("fedsgd", "alone") else STEPS
    limit = plan.epsilon_after(2 * steps + steps - 1) if steps > 1 else plan.epsilon_after(2) * 1.001
    federation = make_federation(plan=plan, epsilon_limit=limit, rounds=12)
    timetable = getattr(strategy, "timetable", Timetable(3))
    last = max(round for round in range(1, 13) if timetable.most_visits(round) == 2)
    state = state_after(strategy, federation, last)
    with pytest.raises(BudgetExhausted):
        strategy.update(state, federation.channel, last + 1)
    for agent in federation.agents.values():
        assert agent.account.spent() <= plan.epsilon_after(2 * steps)
    assert max(agent.account.spent() for agent in federation.agents.values()) == pytest.approx(
        plan.epsilon_after(2 * steps)
    )


@pytest.mark.parametrize("name", NAMES)
def test_updates_change_nothing_but_what_they_return(make_federation, name):
    federation = make_federation(plan=private_plan())
    strategy = strategies()[name]
    state = strategy.update(strategy.init(federation.weights, federation.channel), federation.channel, 1)
    before = {key: value.copy() for key, value in state.items()}
    first = strategy.update(state, federation.channel, 2)
    second = strategy.update(state, federation.channel, 2)
    assert set(first) == set(second)
    for key, value in before.items():
        assert np.array_equal(state[key], value)
    for key, value in first.items():
        assert np.array_equal(second[key], value)
        assert value.dtype == np.float32


@pytest.mark.parametrize("repair", Repair)
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "round-robin", "stochastic"])
def test_no_repair_takes_more_steps_than_the_plan_foresees(make_federation, name, repair):
    federation = make_federation(plan=without_noise(private_plan(num_patients=None)))
    strategy = strategies(repair=repair, num_patients=None)[name]
    state = strategy.init(federation.weights, federation.channel)
    state = strategy.update(state, federation.channel, 1)
    for k in range(3):
        assert 1 <= strategy.local.request(2, state, k, federation.weights).work.steps.steps <= STEPS
    assert not np.array_equal(state["weights"], federation.weights)


@pytest.mark.parametrize(("colluders", "excess"), family([(0, 1.0), (1, 1.5)], keep=[(1, 1.5)]))
def test_shares_of_noise_under_secure_aggregation_are_distributed_as_the_noise_of_one(
    make_federation, colluders, excess
):
    """With one colluder the two honest shares suffice, so three carry half as much variance again."""
    mechanism = ClippedUpdate(0.5, 2.0)
    plan = private_plan(
        mechanism=mechanism, trust=Trust.SECURE_AGGREGATION, colluders=colluders, sampling_prob=1.0,
    )  # fmt: skip
    federation = make_federation(plan=plan, rounds=120)
    local = LocalTraining(CALL, 1, 1e-9, 0.0, 1.0, None, own_size=True)  # nothing but noise moves
    strategy = FedAvg(local, PlainSum(), Timetable(3))
    state = strategy.init(federation.weights, federation.channel)
    sums = []
    for round in range(1, 121):
        after = strategy.update(state, federation.channel, round)
        sums.append(3 * (after["weights"].astype(float) - state["weights"]))
        state = after
    std = mechanism.noise_multiplier * 2 * mechanism.clipping_norm * excess**0.5
    assert stats.kstest(np.ravel(sums), "norm", (0, std)).pvalue > 1e-3
    # The test has the power to tell a tenth, let alone a hospital's share that is missing.
    assert stats.kstest(np.ravel(sums), "norm", (0, 0.9 * std)).pvalue < 1e-3


def test_under_trust_in_nobody_every_update_has_all_of_the_noise(make_federation):
    mechanism = ClippedUpdate(0.5, 2.0)
    plan = private_plan(mechanism=mechanism)
    federation = make_federation(plan=plan, rounds=60)
    local = LocalTraining(CALL, 1, 1e-9, 0.0, 0.5, None, own_size=True)
    noises = []
    for round in range(1, 61):
        request = local.request(round, {"num_patients": np.ones(3, dtype=np.float32)}, 0, federation.weights)
        replies = CALL.ask(federation.channel, dict.fromkeys(federation.channel.hospitals, request))
        noises += [reply.update for reply in replies.values()]
    assert stats.kstest(np.ravel(noises), "norm", (0, 2.0)).pvalue > 1e-3
