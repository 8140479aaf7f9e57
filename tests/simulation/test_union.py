import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.cases import family
from tests.charges import charges_of
from tests.fixtures_federation import EVERY_WORK, STUDY, private_plan, without_noise
from torch import nn

from wardround.errors import BudgetExhausted, FederationError
from wardround.federation.aggregators import PlainSum, sum_of
from wardround.federation.messages import Failure, FailureCode, Replies, Request, Stage, Total
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.hospital.agent import Agent
from wardround.hospital.policy import Policy
from wardround.models.network import Network, Normalise
from wardround.noisers import Trust
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.costs import release_event
from wardround.simulation.union import JointSum
from wardround.training.losses import cross_entropy
from wardround.training.workbench import Workbench
from wardround.work import CountPatients, GradientSum, LocalSteps, LocalUpdate

SECURE = {"trust": Trust.SECURE_AGGREGATION}


class Otherwise:
    """Takes the place of the sum of single replies, and remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def collect(self, channel, requests, deadline_s):
        self.asked.append(requests)
        return Total(None, {}, {})


def union_of(federation, otherwise=None):
    return JointSum(federation.agents, federation.transaction, otherwise or PlainSum())


def joint_total(federation, requests):
    """The total of the union; over a channel on which nothing may be asked."""
    return union_of(federation).collect(Unasked(federation.channel.hospitals), requests, 60.0)


class Unasked:
    """A channel on which no reply may be formed."""

    def __init__(self, hospitals):
        self.hospitals = hospitals

    def ask(self, requests, deadline_s):
        raise AssertionError("a single reply was asked for")


def requests_for(federation, work=None, round=1, attempt=1, clipping_norm=None):
    work = work or GradientSum(federation.weights, clipping_norm)
    return dict.fromkeys(federation.agents, Request(STUDY, round, attempt, work))


def one_by_one(federation, requests):
    """The oracle: every hospital asked by itself, its reply added to the others'."""
    replies: Replies = {}
    for name, request in requests.items():
        replies |= federation.channel.ask({name: request}, 60.0)[0]
    return replies


def quiet(**fields):
    return without_noise(private_plan(**(SECURE | fields)), clipped=True)


def p_of_std(values, std):
    """Two-sided p-value that normal values of mean 0 have this std."""
    square = float(np.sum((values / std) ** 2))
    return 2 * min(stats.chi2.cdf(square, len(values)), stats.chi2.sf(square, len(values)))


class InDouble(nn.Module):
    def forward(self, x):
        return x.double()


def test_in_double_precision_the_sum_over_the_union_is_the_sum_of_the_replies_to_its_last_digits(
    make_federation, monkeypatch
):
    federation = make_federation(hospitals=5, plan=quiet(hospitals=5))
    body = nn.Sequential(InDouble(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    network = Network("double", Normalise(), body, encode_once=False)
    bench = Workbench(network, federation.pixels, cross_entropy, 1 << 20)
    federation.workbench = bench
    federation.agents.update({name: replace(agent, workbench=bench) for name, agent in federation.agents.items()})
    formed = []

    def recorded(self, *args):
        formed.append(original(self, *args))
        return formed[-1]

    original = Workbench.gradient_sums
    monkeypatch.setattr(Workbench, "gradient_sums", recorded)
    for round in (1, 2, 3):
        requests = requests_for(federation, round=round)
        one_by_one(federation, requests)
        singles = sum(clipped.vector for [clipped] in formed)
        formed.clear()
        joint_total(federation, requests)
        [[whole]] = formed
        formed.clear()
        assert whole.vector.dtype == torch.float64
        assert whole.sensitivity == federation.plan.training.clip.norm
        # Batches of other sizes add in another order: a few roundings of float64, relative to the whole.
        assert torch.linalg.vector_norm(whole.vector - singles) <= 1e-12 * torch.linalg.vector_norm(singles)


@pytest.mark.parametrize("rule", [Flat(), PerLayer(), Automatic()])
def test_without_noise_the_total_is_the_sum_of_single_replies(make_federation, rule):
    federation = make_federation(hospitals=4, plan=quiet(hospitals=4, rule=rule))
    requests = requests_for(federation)
    expected = sum_of(reply.update for reply in one_by_one(federation, requests).values())
    total = joint_total(federation, requests)
    assert total.failures == {}
    assert np.linalg.norm(total.update - expected) <= 1e-6 * np.linalg.norm(expected)  # float32
    assert total.events == {name: release_event(federation.plan.training) for name in federation.agents}


def test_an_adaptive_norms_count_is_summed_with_the_gradients(make_federation):
    federation = make_federation(plan=quiet(rule=AdaptiveNorm()))
    requests = requests_for(federation, clipping_norm=0.3)
    expected = sum_of(reply.update for reply in one_by_one(federation, requests).values())
    total = joint_total(federation, requests)
    assert len(total.update) == federation.weights.size + 1
    assert total.update == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_counts_are_summed(make_federation):
    federation = make_federation(hospitals=4)
    total = joint_total(federation, requests_for(federation, CountPatients(), round=0))
    assert total.update.tolist() == [16.0]


@pytest.mark.thorough
@pytest.mark.parametrize("missing", family([0, 1], keep=[1]))
def test_the_noise_is_normal_with_the_variance_of_the_shares_of_those_who_answer(make_federation, missing):
    plan = private_plan(4, **SECURE, colluders=1, dropouts=1, releases=200, sampling_prob=1.0)
    federation = make_federation(hospitals=4, plan=plan, rounds=5)
    still = make_federation(hospitals=4, plan=quiet(hospitals=4, sampling_prob=1.0))
    names = list(federation.agents)
    for name in names[:missing]:
        for each in (federation, still):
            each.agents[name] = replace(each.agents[name], policy=Policy("another study", EVERY_WORK, 5))
    exact = joint_total(still, requests_for(still)).update
    noise = np.concatenate(
        [
            joint_total(federation, requests_for(federation, attempt=attempt)).update - exact
            for attempt in range(1, 121)
        ]
    )
    share = plan.training.noise.noise_multiplier * plan.training.clip.norm / math.sqrt(4 - 1 - 1)
    std = share * math.sqrt(4 - missing)
    assert std >= plan.training.noise.noise_multiplier * plan.training.clip.norm  # what the statement rests on
    assert stats.kstest(noise / std, "norm").pvalue > 1e-3
    assert p_of_std(noise, std) > 1e-3
    all_four = [share * 2] if missing else []
    for wrong in (share, std * 2 / 3, std * 3 / 2, *all_four):
        assert p_of_std(noise, wrong) < 1e-6


def test_all_charges_are_on_disk_before_the_one_sum_is_formed_and_no_reply_is(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan(**SECURE))
    seen = []

    def looking(self, weights, samples, *rest):
        seen.append((len(samples), [len(charges_of(agent.account)) for agent in federation.agents.values()]))
        return original(self, weights, samples, *rest)

    original = Workbench.gradient_sums
    monkeypatch.setattr(Workbench, "gradient_sums", looking)
    monkeypatch.setattr(Agent, "release", None)
    joint_total(federation, requests_for(federation))
    assert seen == [(1, [1, 1, 1])]


def test_who_refuses_is_in_neither_the_sum_nor_its_noise(make_federation):
    plan = private_plan(**SECURE)
    federation = make_federation(plan=quiet(), epsilon_limit=math.inf)
    names = list(federation.agents)
    federation.agents[names[1]] = replace(
        federation.agents[names[1]], policy=Policy("another study", EVERY_WORK, 5)
    )
    requests = requests_for(federation)
    replies, failures = federation.channel.ask(requests, 60.0)
    total = joint_total(federation, requests)
    assert total.failures == failures == {names[1]: Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)}
    assert list(total.events) == [names[0], names[2]]
    assert total.update == pytest.approx(sum_of(r.update for r in replies.values()), rel=1e-5, abs=1e-6)

    spent = make_federation(plan=plan, epsilon_limit=plan.epsilon_after(1))
    joint_total(spent, requests_for(spent, round=1))
    total = joint_total(spent, requests_for(spent, round=2))
    assert total.update is None
    assert total.failures == dict.fromkeys(names, Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION))


def test_a_failure_in_training_is_everybodys_and_keeps_the_charges(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan(**SECURE))
    monkeypatch.setattr(Workbench, "gradient_sums", None)
    total = joint_total(federation, requests_for(federation))
    assert total.update is None
    assert total.failures == dict.fromkeys(federation.agents, Failure(FailureCode.INTERNAL, Stage.TRAINING))
    assert [len(charges_of(agent.account)) for agent in federation.agents.values()] == [1, 1, 1]


def test_a_seeded_sum_repeats_itself_uncharged_and_another_round_draws_other_noise(make_federation):
    federation = make_federation(plan=private_plan(**SECURE, sampling_prob=1.0))
    first, again, other, attempt = (
        joint_total(federation, requests_for(federation, **which)).update
        for which in ({"round": 1}, {"round": 1}, {"round": 2}, {"round": 1, "attempt": 2})
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, attempt)
    assert [len(charges_of(agent.account)) for agent in federation.agents.values()] == [3, 3, 3]


def test_local_steps_have_no_common_sum_and_nobody_is_asked(make_federation):
    federation, otherwise = make_federation(plan=private_plan(**SECURE)), Otherwise()
    requests = requests_for(federation, LocalUpdate(federation.weights, LocalSteps(1, 0.1, 0.0, denominator=2.0)))
    union_of(federation, otherwise).collect(Unasked(federation.channel.hospitals), requests, 60.0)
    assert otherwise.asked == [requests]
    assert all(not charges_of(agent.account) for agent in federation.agents.values())


def test_fedsgd_over_the_union_is_fedsgd_over_single_replies(make_federation):
    federation = make_federation(hospitals=4, plan=quiet(hospitals=4, num_patients=None))
    ends = []
    for aggregator in (PlainSum(), union_of(federation)):
        strategy = FedSGD(Call(STUDY), aggregator, 0.5, 0.9, sampling_prob=0.5, num_patients=None)
        state = strategy.init(federation.weights, federation.channel)
        for round in (1, 2, 3):
            state = strategy.update(state, federation.channel, round)
        ends.append(state["weights"])
    assert not np.allclose(ends[0], federation.weights)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_too_many_failures_or_a_spent_budget_end_a_summed_round_as_any_other(make_federation):
    plan = private_plan(**SECURE, dropouts=1)
    federation = make_federation(plan=plan, epsilon_limit=plan.epsilon_after(1))
    channel, union = federation.channel, union_of(federation)
    call = Call(STUDY, allowed_missing=1)
    strangers = {name: replace(a, policy=Policy("other", EVERY_WORK, 5)) for name, a in federation.agents.items()}
    first, second, _ = federation.agents
    federation.agents[first] = strangers[first]
    update, hospitals = call.ask_sum(channel, requests_for(federation), union)
    assert (update.shape, hospitals) == (federation.weights.shape, 2)
    federation.agents[second] = strangers[second]
    with pytest.raises(FederationError, match="at most 1 may be missing, 2"):
        call.ask_sum(channel, requests_for(federation), union)
    with pytest.raises(BudgetExhausted, match="1 of 3 refused"):
        call.ask_sum(channel, requests_for(federation, round=2), union)
