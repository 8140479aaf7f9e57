from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.charges import charges_of
from tests.errors import raises_code
from tests.fixtures_federation import EVERY_WORK, STUDY, private_plan, without_noise

from wardround.agreed.strategies import timetable_of
from wardround.errors import FederationError
from wardround.federation.aggregators import PlainSum
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable
from wardround.hospital.policy import Policy
from wardround.noisers import Trust
from wardround.simulation.availability import Availability, UnreliableChannel, availability_of, check_availability
from wardround.simulation.union import JointSum
from wardround.work import CountPatients, GradientSum

NO_ANSWER = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


def test_hospitals_are_away_for_the_share_and_the_time_that_was_asked_for():
    availability = Availability(400, 500, absent_rate=0.2, absent_rounds=4.0, late_rate=0.1, seed=3)
    absent, late = availability.absent, availability.late
    assert absent.mean() == pytest.approx(0.2, abs=0.01)
    returns = (absent[:-1] & ~absent[1:]).sum()
    assert absent[:-1].sum() / returns == pytest.approx(4.0, rel=0.03)  # rounds away for each return
    assert absent[0].mean() == pytest.approx(0.2, abs=0.06)  # from the first round on
    assert not (absent & late).any()
    present = int((~absent).sum())
    assert stats.binomtest(int(late.sum()), present, 0.1).pvalue > 1e-3
    assert stats.binomtest(int(late.sum()), present, 0.105).pvalue < 1e-3


def test_a_longer_run_has_the_same_beginning_and_another_seed_another_one():
    short, long = (Availability(20, rounds, 0.3, 2.0, 0.2, seed=1) for rounds in (10, 40))
    assert np.array_equal(short.absent, long.absent[:10])
    assert np.array_equal(short.late, long.late[:10])
    assert not np.array_equal(short.absent, replace(short, seed=2).absent)
    assert np.array_equal(short.missing(7), short.absent[6] | short.late[6])


def test_nobody_is_missing_where_nobody_is_to_be_and_impossible_chains_are_refused():
    assert not Availability(5, 20).absent.any()
    assert not Availability(5, 20).late.any()
    assert not Availability(5, 20, absent_rate=0.5).late.any()
    with pytest.raises(ValueError, match="lower it, or raise absent_rounds"):
        Availability(5, 20, absent_rate=0.6)


class Fixed(Availability):
    """Absences that are written down: hospital 0 is away in round 2, hospital 1 late in rounds 2 and 3."""

    absent = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    late = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)


FIXED = Fixed(4, 4)


def unreliable(federation):
    return UnreliableChannel(federation.channel, FIXED)


def aggregator_of(federation, *, joint):
    """Forms sums of single replies, or the sum over the union."""
    if not joint:
        return PlainSum()
    return JointSum(federation.agents, federation.transaction, PlainSum(), FIXED)


def total_of(federation, call, requests, *, joint):
    """The sum that a call forms of what arrives."""
    aggregator = aggregator_of(federation, joint=joint)
    return call.ask_sum(unreliable(federation), requests, aggregator)[0]


def plan_of(**fields):
    return private_plan(4, **({"trust": Trust.SECURE_AGGREGATION, "dropouts": 2} | fields))


def requests_for(federation, round, attempt=1):
    return dict.fromkeys(federation.agents, Request(STUDY, round, attempt, GradientSum(federation.weights)))


def charges(federation):
    return [len(charges_of(agent.account)) for agent in federation.agents.values()]


def test_who_is_away_is_not_charged_and_who_is_late_is_and_neither_is_in_the_replies(make_federation):
    federation = make_federation(hospitals=4, plan=plan_of())
    channel = unreliable(federation)
    replies, failures = channel.ask(requests_for(federation, 2), 60.0)
    assert list(failures) == ["hospital-1", "hospital-2"]
    assert set(failures.values()) == {NO_ANSWER}
    assert list(replies) == ["hospital-3", "hospital-4"]
    assert charges(federation) == [0, 1, 1, 1]


@pytest.mark.parametrize("joint", [False, True])
def test_a_summed_round_goes_on_without_them_and_counts_the_late_charge(make_federation, joint):
    federation = make_federation(hospitals=4, plan=without_noise(plan_of(), clipped=True))
    call = Call(STUDY, allowed_missing=2)
    total = total_of(federation, call, requests_for(federation, 2), joint=joint)
    assert charges(federation) == [0, 1, 1, 1]
    present = {name: r for name, r in requests_for(federation, 2).items() if name in ("hospital-3", "hospital-4")}
    replies, _ = federation.channel.ask(present, 60.0)
    expected = sum(reply.update for reply in replies.values())
    assert total == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_more_missing_than_the_shares_allow_for_ends_the_round(make_federation, joint):
    federation = make_federation(hospitals=4, plan=plan_of(dropouts=1))
    with pytest.raises(FederationError, match="at most 1 may be missing, 2 did not answer"):
        total_of(federation, Call(STUDY, allowed_missing=1), requests_for(federation, 2), joint=joint)


@pytest.mark.thorough
@pytest.mark.parametrize("joint", [False, True])
def test_the_noise_of_those_in_time_is_all_that_was_promised(make_federation, joint):
    plan = plan_of(colluders=1, sampling_prob=1.0, releases=1)
    noised, still = (
        make_federation(hospitals=4, plan=plan if noisy else without_noise(plan, clipped=True)) for noisy in (1, 0)
    )
    call = Call(STUDY, allowed_missing=2)
    parts = []
    exact = total_of(still, call, requests_for(still, 2), joint=joint)
    for attempt in range(1, 25):
        requests = requests_for(noised, 2, attempt)
        parts.append(total_of(noised, call, requests, joint=joint) - exact)
    noise = np.concatenate(parts)
    # Two of four in time, each with a share for one honest hospital; one of them colludes.
    share = plan.training.noise.noise_multiplier * plan.training.clip.norm
    for hospitals, holds in ((1, False), (2, True), (3, False), (4, False)):
        square = float(np.sum(noise**2)) / (share**2 * hospitals)
        p = 2 * min(stats.chi2.cdf(square, len(noise)), stats.chi2.sf(square, len(noise)))
        assert p > 1e-3 if holds else p < 1e-6


def test_a_late_hospitals_refusal_is_in_time(make_federation):
    federation = make_federation(hospitals=4, plan=plan_of())
    late = federation.agents["hospital-2"]
    federation.agents["hospital-2"] = replace(late, policy=Policy("another study", EVERY_WORK, 5))
    _, failures = unreliable(federation).ask(requests_for(federation, 3), 60.0)
    assert failures == {"hospital-2": Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)}


def test_everybody_is_there_for_the_counts_before_round_1(make_federation):
    federation = make_federation(hospitals=4)
    count = dict.fromkeys(federation.agents, Request(STUDY, 0, 1, CountPatients()))
    for joint in (False, True):
        total = total_of(federation, Call(STUDY), count, joint=joint)
        assert total.tolist() == [16.0]


def test_a_ring_passes_by_who_is_away_or_late(make_federation):
    federation = make_federation(hospitals=4)
    channel = unreliable(federation)
    local = LocalTraining(Call(STUDY, allowed_missing=4), 2, 0.1, 0.0, 1.0, num_patients=16)
    ring = Ring(local, Timetable(4, Order.FIXED))
    state = ring.init(federation.weights, channel)
    seen = []
    for round in (1, 2, 3, 4):
        state = ring.update(state, channel, round)
        seen.append(state["weights"])
    moved = [not np.array_equal(a, b) for a, b in zip([federation.weights, *seen], seen, strict=False)]
    assert moved == [True, False, True, True]  # round 2 is hospital-2's, which is late
    assert charges(federation) == [1, 1, 1, 1]


@pytest.mark.parametrize(("aggregate", "is_refused"), [("median", False), ("trimmed", True)])
def test_rounds_with_fewer_answers_than_a_robust_mean_needs_are_refused_beforehand(
    tiny_study, aggregate, is_refused
):
    """One of three hospitals is away in some round: a median is left, and nothing of a trimmed mean."""
    study = tiny_study(
        hospitals={"count": 3, "absent_rate": 0.2, "availability_seed": 1},
        privacy={"trust": "nobody", "sum": None},
        federation={"rounds": 4, "aggregate": aggregate},
    )
    availability = availability_of(study)
    assert availability is not None
    assert {int(availability.missing(round).sum()) for round in (1, 2, 3, 4)} == {0, 1}
    with raises_code(FederationError, "federation-absences") if is_refused else nullcontext():
        check_availability(study, timetable_of(study))


def test_a_run_with_absences_repeats_itself_from_any_round(make_federation):
    federation = make_federation(hospitals=4, plan=plan_of())
    channel, joint = unreliable(federation), aggregator_of(federation, joint=True)
    strategy = FedSGD(Call(STUDY, allowed_missing=2), joint, 0.5, 0.9, 0.5, num_patients=16)
    states = [strategy.init(federation.weights, channel)]
    for round in (1, 2, 3, 4):
        states.append(strategy.update(states[-1], channel, round))
    again = states[2]
    for round in (3, 4):
        again = strategy.update(again, channel, round)
    assert np.array_equal(again["weights"], states[4]["weights"])
    assert charges(federation) == [3, 4, 4, 4]
