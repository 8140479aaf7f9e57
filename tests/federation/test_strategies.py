from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from tests.federation.known import ordinary_sgd, rounds
from tests.fixtures_federation import STUDY, clip_by, private_plan, with_training, without_noise

from wardround.accounting.events import NoEvent
from wardround.errors import BudgetExhausted, FederationError
from wardround.federation.aggregators import PlainSum
from wardround.federation.channel import InProcessChannel
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answer, Failure, FailureCode, Stage
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.federation.timetable import Timetable
from wardround.noisers import Trust
from wardround.per_patient.clipping_rules import ClippingKind
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.simulation import batches
from wardround.simulation.batches import answer_all
from wardround.training import patients
from wardround.training.local import local_steps
from wardround.work import GradientSum

CALL = Call(STUDY)


def fedsgd(**changes):
    return replace(FedSGD(CALL, PlainSum(), 0.4, 0.6, 1.0, 12), **changes)


def fedavg(steps, learning_rate, momentum, sampling_prob, num_patients, *, hospitals=3, call=CALL, **changes):
    local = LocalTraining(call, steps, learning_rate, momentum, sampling_prob, num_patients)
    return FedAvg(local, PlainSum(), Timetable(hospitals), **changes)


def test_without_noise_and_clip_fedsgd_is_sgd_on_the_pooled_patients(make_federation):
    federation = make_federation()
    ours = rounds(fedsgd(), federation)["global"]
    known = ordinary_sgd(federation, steps=3, learning_rate=0.4, momentum=0.6, num_patients=12)
    # Single precision over three steps.
    assert np.allclose(ours, known, rtol=1e-4, atol=1e-5)


def test_alone_gives_each_hospital_its_own_model(make_federation):
    federation = make_federation()
    models = rounds(Alone(fedsgd(num_patients=4)), federation)
    assert list(models) == ["hospital-1", "hospital-2", "hospital-3"]
    only = make_federation()
    only.channel = replace(only.channel, hospitals=("hospital-2",))
    assert np.array_equal(rounds(fedsgd(num_patients=4), only)["global"], models["hospital-2"])


@pytest.mark.thorough
def test_a_private_count_becomes_the_divisor_and_never_falls_below_one(make_federation):
    plan = without_noise(private_plan(num_patients=None, sampling_prob=1.0))
    federation = make_federation(plan=plan)
    state = fedsgd(num_patients=None).init(federation.weights, federation.channel)
    assert state["num_patients"].tolist() == [12.0]
    counts = []
    for seed in range(6):
        noisy = make_federation(plan=private_plan(num_patients=None, count_noise_multiplier=1000.0), seed=seed)
        counts.append(float(fedsgd(num_patients=None).init(noisy.weights, noisy.channel)["num_patients"][0]))
    assert min(counts) == 1.0  # a noised count below zero
    assert max(counts) > 100.0


def test_fedavg_divides_by_each_hospitals_own_count(make_federation):
    plan = without_noise(private_plan(num_patients=None, sampling_prob=1.0))
    federation = make_federation(plan=plan)
    state = fedavg(1, 0.4, 0.0, 1.0, None).init(federation.weights, federation.channel)
    assert state["num_patients"].tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(("seed", "rounds_differently"), [(5, False), (None, True)])
def test_only_hospitals_of_an_unseeded_run_may_share_passes(
    make_federation, monkeypatch, seed, rounds_differently
):
    federation, seen = make_federation(seed=seed), []

    def recorded(workbench, part, runs, *, may_round):
        seen.append((len(runs), may_round))
        return local_steps(workbench, part, runs, may_round=may_round)

    monkeypatch.setattr(batches, "local_steps", recorded)
    ours = rounds(fedavg(2, 0.4, 0.5, 1.0, 12), federation)["global"]
    assert set(seen) == {(3, rounds_differently)}
    # Everybody is drawn in every step: a seed decides rounding alone.
    assert np.allclose(ours, rounds(fedavg(2, 0.4, 0.5, 1.0, 12), make_federation())["global"], atol=1e-5)


class Failing:
    """A channel whose hospitals answer a constant, but for some that fail."""

    hospitals = ("a", "b", "c")

    def __init__(self, failing):
        self.failing = failing
        self.asked = []

    def ask(self, requests, deadline_s):
        self.asked.append((requests, deadline_s))
        weights = next(iter(requests.values())).work.weights
        reply = Answer(np.ones_like(weights), NoEvent())
        failures = {name: self.failing[name] for name in requests if name in self.failing}
        return {name: reply for name in requests if name not in failures}, failures


WEIGHTS = np.zeros(4, dtype=np.float32)
SILENT = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_round_needs_all_hospitals_but_the_tolerated_ones(allowed):
    for missing in range(4):
        channel = Failing(dict(list(zip("abc", [SILENT] * 3, strict=True))[:missing]))
        strategy = fedsgd(call=Call(STUDY, allowed_missing=allowed))
        state = strategy.init(WEIGHTS, channel)
        if missing <= allowed:
            strategy.update(state, channel, 1)
        else:
            with pytest.raises(FederationError, match=f"at most {allowed} may be missing, {missing} did not"):
                strategy.update(state, channel, 1)


def test_a_refusal_for_the_budget_ends_the_round_whatever_is_tolerated():
    channel = Failing({"b": Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)})
    strategy = fedsgd(call=Call(STUDY, allowed_missing=2))
    with pytest.raises(BudgetExhausted, match="1 of 3 refused round 1"):
        strategy.update(strategy.init(WEIGHTS, channel), channel, 1)


def adaptive_plan(hospitals, **changes):
    return private_plan(hospitals, **({"rule": AdaptiveNorm(), "sampling_prob": 1.0} | changes))


def following(plan, **changes):
    clip = plan.training.clip
    return fedsgd(clipping_norm=clip.norm, adaptive=clip.adaptive, num_patients=12, **changes)


def test_an_adaptive_norm_over_hospitals_is_that_over_their_union(make_federation):
    """Without noise: three hospitals of four patients and one of twelve go the same way."""
    ends = []
    for hospitals in (3, 1):
        plan = without_noise(adaptive_plan(hospitals), clipped=True)
        federation = make_federation(hospitals=3, plan=plan)
        channel = federation.channel if hospitals == 3 else united(federation)
        state = following(plan).init(federation.weights, channel)
        norms = []
        for round in range(1, 5):
            state = following(plan).update(state, channel, round)
            norms.append(float(state["clipping_norm"][0]))
        ends.append((norms, state["weights"]))
    assert np.allclose(ends[0][0], ends[1][0], rtol=1e-5)
    assert np.allclose(ends[0][1], ends[1][1], rtol=1e-4, atol=1e-6)
    assert len(set(ends[0][0])) == 4  # it moved


def united(federation):
    """All patients of a federation in one hospital."""
    [first, *others] = list(federation.agents.values())
    one = replace(first, patients=patients.united([a.patients for a in (first, *others)]))
    agents = {one.name: one}
    return InProcessChannel(tuple(agents), lambda requests: answer_all(agents, requests, nullcontext))


@pytest.mark.thorough
def test_an_adaptive_norm_is_released_with_the_noise_of_the_plan(make_federation):
    """Every coordinate of what leaves, the count too, has the plan's std, whatever the round's norm is."""
    plan = adaptive_plan(1, trust=Trust.NOBODY, noise_multiplier=3.0, releases=400)
    federation = make_federation(hospitals=1, plan=plan, rounds=400)
    for clipping_norm in (0.05, 5.0):
        updates = []
        for round in range(1, 61):
            [name] = federation.channel.hospitals
            request = CALL.request(GradientSum(federation.weights, clipping_norm), round)
            asked = {name: replace(request, attempt=int(clipping_norm) + 1)}
            updates.append(CALL.ask(federation.channel, asked)[name].update)
        spread = np.std(np.array(updates), axis=0)
        assert spread.shape == (federation.weights.size + 1,)
        assert np.allclose(np.sqrt((spread**2).mean()), 3.0 * 0.5, rtol=0.1)
        assert 0.6 < spread[-1] / 1.5 < 1.5


@pytest.mark.parametrize("clipping_norm", [None, -1.0, float("inf")])
def test_a_hospital_refuses_a_round_whose_norm_is_no_number(make_federation, clipping_norm):
    federation = make_federation(plan=adaptive_plan(3))
    request = CALL.request(GradientSum(federation.weights, clipping_norm), 1)
    with pytest.raises(FederationError, match="policy"):
        CALL.ask(federation.channel, dict.fromkeys(federation.channel.hospitals, request))
    assert all(agent.account.spent() == 0 for agent in federation.agents.values())


@pytest.mark.parametrize("kind", [ClippingKind.PER_LAYER, ClippingKind.AUTOMATIC])
def test_every_rule_reaches_every_strategy(make_federation, kind):
    """With a clip below all norms, the rules give other models than a flat clip, and finite ones."""
    models = []
    for clipping in (ClippingKind.FLAT, kind):
        plan = without_noise(private_plan(sampling_prob=1.0), clipped=True)
        federation = make_federation(plan=with_training(plan, clip=clip_by(clipping, 0.3)))
        models.append(
            [rounds(strategy, federation)["global"] for strategy in (fedsgd(), fedavg(2, 0.4, 0.5, 1.0, 12))]
        )
    for flat, other in zip(*models, strict=True):
        assert np.isfinite(other).all()
        # A linear network is one layer: there the two rules for layers are one.
        assert np.allclose(flat, other, rtol=1e-4, atol=1e-6) == (kind is ClippingKind.PER_LAYER)
