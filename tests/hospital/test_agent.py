import logging
from dataclasses import replace

import numpy as np
import pytest
from tests.charges import charges_of
from tests.fixtures_federation import STUDY, asks_for, private_plan, with_training

from wardround.federation.messages import Answer, Failure, FailureCode, Request, Stage
from wardround.privacy.plans import releases
from wardround.privacy.plans.costs import release_event
from wardround.privacy.updates import ClippedUpdate
from wardround.training.workbench import Workbench
from wardround.work import CountPatients, GradientSum, LocalSteps, LocalUpdate


def gradient_request(federation, round=1, attempt=1, study=STUDY):
    return Request(study, round, attempt, GradientSum(federation.weights))


def ask_all(federation, request):
    return federation.channel.ask({name: request for name in federation.channel.hospitals}, 60.0)


def entries(federation):
    return {name: charges_of(agent.account) for name, agent in federation.agents.items()}


def test_the_charge_is_in_the_ledger_before_any_gradient_is_computed(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan())
    seen = []

    def looking(self, *args):
        seen.append({name: len(charged) for name, charged in entries(federation).items()})
        return original(self, *args)

    original = Workbench.gradient_sums
    monkeypatch.setattr(Workbench, "gradient_sums", looking)
    ask_all(federation, gradient_request(federation))
    assert seen == [{"hospital-1": 1, "hospital-2": 1, "hospital-3": 1}]


def test_a_failure_after_the_charge_keeps_the_charge_and_says_a_code_and_a_stage(
    make_federation, monkeypatch, caplog
):
    federation = make_federation(plan=private_plan())

    def broken(self, *args):
        raise RuntimeError("patient Jane Roe in /data/jane.png")

    monkeypatch.setattr(Workbench, "gradient_sums", broken)
    with caplog.at_level(logging.ERROR, "wardround.hospital"):
        replies, failures = ask_all(federation, gradient_request(federation))
    assert replies == {}
    assert set(failures.values()) == {Failure(FailureCode.INTERNAL, Stage.TRAINING)}
    assert "Jane" not in repr(failures)
    assert "Jane" in caplog.text  # the hospital's own log has the rest
    assert all(len(charged) == 1 for charged in entries(federation).values())


def test_what_is_charged_is_what_the_reply_says_it_cost(make_federation):
    federation = make_federation(plan=private_plan())
    replies, _ = ask_all(federation, gradient_request(federation))
    for name, reply in replies.items():
        assert [entry.event for entry in entries(federation)[name]] == [reply.event]
        assert reply.event == release_event(federation.plan.training)


def test_local_steps_are_charged_one_by_one(make_federation):
    federation = make_federation(plan=private_plan())
    work = LocalUpdate(federation.weights, LocalSteps(3, 0.1, 0.0, denominator=2.0))
    request = replace(gradient_request(federation), work=work)
    ask_all(federation, request)
    spent = federation.agents["hospital-1"].account.spent()
    assert spent == pytest.approx(with_training(federation.plan, releases=3).epsilon)


def test_a_hospital_refuses_the_round_that_would_overspend_and_releases_nothing(make_federation):
    plan = private_plan()
    federation = make_federation(plan=plan, epsilon_limit=plan.epsilon_after(2))
    for round in (1, 2):
        assert len(ask_all(federation, gradient_request(federation, round))[0]) == 3
    replies, failures = ask_all(federation, gradient_request(federation, 3))
    assert replies == {}
    assert set(failures.values()) == {Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)}
    assert all(len(charged) == 2 for charged in entries(federation).values())


@pytest.mark.parametrize(
    "change",
    [
        {"study": "another study"},
        {"round": 6},
        {"round": 0},
        {"work": CountPatients()},
        {"work": LocalUpdate(np.zeros(34, np.float32), LocalSteps(1, 0.1, 0.0, denominator=2.0))},
    ],
)
def test_a_hospital_answers_only_what_it_agreed_to_and_its_log_says_why(make_federation, change, caplog):
    federation = make_federation(plan=private_plan(), works=asks_for(CountPatients, GradientSum))
    replies, failures = ask_all(federation, replace(gradient_request(federation), **change))
    assert replies == {}
    assert set(failures.values()) == {Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)}
    assert not any(entries(federation).values())
    for name in federation.agents:
        assert f"{name} refuses " in caplog.text


def test_two_hospitals_never_share_a_noise_stream(make_federation, monkeypatch):
    federation = make_federation(plan=private_plan())
    drawn: list[np.ndarray] = []
    original = releases.noised_sum

    def remembering(part, clipped, stream):
        clipped.vector.zero_()
        released = original(part, clipped, stream)
        drawn.append(released)
        return released

    monkeypatch.setattr("wardround.hospital.agent.noised_sum", remembering)
    for round in (1, 2):
        ask_all(federation, gradient_request(federation, round))
    noise = np.stack(drawn)
    assert noise.std() > 0
    for i in range(len(noise)):
        for j in range(i):
            assert not np.any(noise[i] == noise[j]), (i, j)


def test_another_attempt_draws_other_noise_and_is_charged_again(make_federation):
    federation = make_federation(plan=private_plan())
    first, _ = ask_all(federation, gradient_request(federation, attempt=1))
    again, _ = ask_all(federation, gradient_request(federation, attempt=1))
    other, _ = ask_all(federation, gradient_request(federation, attempt=2))
    assert np.array_equal(first["hospital-1"].update, again["hospital-1"].update)
    assert not np.any(first["hospital-1"].update == other["hospital-1"].update)
    assert len(entries(federation)["hospital-1"]) == 2  # the seeded repetition is the same release


def test_an_unseeded_repetition_is_a_new_release_and_a_new_charge(make_federation):
    federation = make_federation(plan=private_plan(), seed=None)
    first, _ = ask_all(federation, gradient_request(federation))
    again, _ = ask_all(federation, gradient_request(federation))
    assert not np.any(first["hospital-1"].update == again["hospital-1"].update)
    assert len(entries(federation)["hospital-1"]) == 2


@pytest.mark.parametrize("clipping_norm", [0.5, 0.01])
def test_hospitals_asked_together_answer_as_if_asked_one_by_one(make_federation, clipping_norm):
    plan = private_plan(clipping_norm=clipping_norm)
    together, one_by_one = make_federation(plan=plan), make_federation(plan=plan)
    replies, _ = ask_all(together, gradient_request(together))
    for name in one_by_one.channel.hospitals:
        alone, _ = one_by_one.channel.ask({name: gradient_request(one_by_one)}, 60.0)
        # The same arithmetic in batches of other sizes: single precision, a few units in the last place.
        assert np.allclose(replies[name].update, alone[name].update, rtol=1e-5, atol=1e-6)


def test_a_hospital_whose_sample_is_empty_sends_noise(make_federation):
    federation = make_federation(plan=private_plan(sampling_prob=1e-9))
    replies, _ = ask_all(federation, gradient_request(federation))
    assert all(reply.update.std() > 0.2 for reply in replies.values())


@pytest.mark.parametrize("differs", ["study", "rounds", "plan", "request"])
def test_a_refusing_hospital_does_not_stop_the_others(make_federation, differs):
    """A request is judged once for hospitals of one plan and policy, and anew for one that differs in anything."""
    federation = make_federation(plan=private_plan())
    agent, request = federation.agents["hospital-2"], gradient_request(federation)
    requests = dict.fromkeys(federation.channel.hospitals, request)
    match differs:
        case "study":
            agent = replace(agent, policy=replace(agent.policy, study="another"))
        case "rounds":
            agent = replace(agent, policy=replace(agent.policy, visits=(2,)))
        case "plan":
            agent = replace(agent, plan=private_plan(mechanism=ClippedUpdate(1.0, 2.0)))
        case "request":
            requests["hospital-2"] = gradient_request(federation, round=7)
    federation.agents["hospital-2"] = agent
    replies, failures = federation.channel.ask(requests, 60.0)
    assert list(replies) == ["hospital-1", "hospital-3"]
    assert failures == {"hospital-2": Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)}
    assert all(isinstance(reply, Answer) for reply in replies.values())
