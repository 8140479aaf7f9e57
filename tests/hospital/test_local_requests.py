"""What a hospital refuses of requests for local steps: rounds that are not its own, and steps that nothing protects."""

from dataclasses import replace

import numpy as np
import pytest
from tests.charges import charges_of
from tests.fixtures_federation import STUDY, private_plan, without_noise

from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.noisers import Trust
from wardround.privacy.updates import ClippedUpdate
from wardround.work import CountClasses, CountPatients, LocalSteps, LocalUpdate, Selection, SelectiveUpdate

REFUSED = {Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)}


def ask(federation, round=1, work=None, **local):
    steps = LocalSteps(**({"steps": 1, "learning_rate": 0.1, "momentum": 0.5, "denominator": 2.0} | local))
    request = Request(STUDY, round, 1, work or LocalUpdate(federation.weights, steps))
    return federation.channel.ask(dict.fromkeys(federation.channel.hospitals, request), 60.0)


def nothing_was_charged(federation):
    return all(charges_of(agent.account) == [] for agent in federation.agents.values())


def clipped_update_plan():
    return private_plan(mechanism=ClippedUpdate(1.0, 2.0))


@pytest.mark.parametrize("round", [1, 3, 5])
def test_a_hospital_refuses_rounds_in_which_it_is_not_asked(make_federation, round):
    federation = make_federation(plan=private_plan())
    for name, agent in federation.agents.items():
        federation.agents[name] = replace(agent, policy=replace(agent.policy, visits=(2, 4)))
    replies, failures = ask(federation, round)
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)
    assert len(ask(federation, 2)[0]) == 3


SELECTION = Selection(np.arange(34), 1.0, False, 0.0, 1.0)


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("kind", [LocalUpdate, SelectiveUpdate])
def test_no_request_says_that_it_is_charged_as_no_release(make_federation, kind, steps):
    federation = make_federation(plan=private_plan())
    local = LocalSteps(steps, 0.1, 0.0, 2.0)
    of_it = (local,) if kind is LocalUpdate else (local, SELECTION)
    replies, failures = ask(federation, work=kind(federation.weights, *of_it))
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)


def test_releases_that_are_still_foreseen_follow_the_timetable(make_federation):
    agent = next(iter(make_federation(rounds=9).agents.values()))
    request = Request(STUDY, 4, 1, LocalUpdate(np.zeros(34, np.float32), LocalSteps(1, 0.1, 0.0, 2.0)))
    assert agent.policy.planned(request) == 6
    assert replace(agent.policy, visits=(2, 4, 9)).planned(request) == 2


def test_under_a_mechanism_on_updates_no_velocity_leaves(make_federation):
    federation = make_federation(plan=clipped_update_plan())
    replies, failures = ask(federation, keep_velocity=True, denominator=None)
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)
    replies, _ = ask(federation, denominator=None)
    assert all(reply.velocity is None for reply in replies.values())


def test_noised_steps_are_never_divided_by_a_hospitals_own_number(make_federation):
    """The noise that is left on an update would tell how many patients there are."""
    federation = make_federation(plan=private_plan())
    replies, failures = ask(federation, denominator=None)
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)


@pytest.mark.parametrize("trust", [Trust.COORDINATOR, Trust.SECURE_AGGREGATION])
def test_noised_steps_need_all_of_their_noise_at_the_hospital(make_federation, trust):
    federation = make_federation(plan=private_plan(trust=trust))
    replies, failures = ask(federation)
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)


@pytest.mark.parametrize("work", [CountPatients(), CountClasses()])
@pytest.mark.parametrize("plan", [private_plan(), clipped_update_plan()], ids=["public size", "update"])
def test_a_count_for_which_no_noise_is_planned_is_refused(make_federation, plan, work):
    federation = make_federation(plan=plan)
    replies, failures = ask(federation, 0, work)
    assert not replies
    assert set(failures.values()) == REFUSED
    assert nothing_was_charged(federation)


def test_without_a_promise_nothing_of_this_is_refused(make_federation):
    federation = make_federation(plan=without_noise(private_plan()))
    assert len(ask(federation, 1, keep_velocity=True, denominator=None)[0]) == 3
    assert len(ask(federation, 0, CountClasses())[0]) == 3
