import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from tests.charges import charge_another_run, charges_of
from tests.errors import raises_code
from tests.fixtures_federation import STUDY, private_plan, without_noise

from wardround.accounting.events import GaussianEvent, NoEvent, leaves
from wardround.errors import MachineError
from wardround.federation.aggregators import PlainSum
from wardround.federation.messages import Failure, FailureCode, Request, Stage
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.hospital.kept.memory import Memory
from wardround.ledger.file import LedgerFile
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.releases import share_of_patients
from wardround.training.workbench import Workbench
from wardround.work import GradientSum, LocalSteps, LocalUpdate

CORRELATION = Correlation(5, cohorts=2, bands=2, momentum=0.9)
REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)


def plan_of(**fields):
    return private_plan(**({"correlation": CORRELATION} | fields))


def federation_of(make_federation, **options):
    """Unseeded, with a limit that one run just fits into."""
    plan = options.pop("plan", plan_of())
    return make_federation(**({"plan": plan, "seed": None, "epsilon_limit": plan.epsilon} | options))


def ask(federation, round, weights=None, work=None):
    work = work or GradientSum(federation.weights if weights is None else weights)
    request = Request(STUDY, round, 1, work)
    return federation.channel.ask(dict.fromkeys(federation.channel.hospitals, request), 60.0)


def updates(federation, round, weights=None):
    replies, failures = ask(federation, round, weights)
    assert not failures
    return np.stack([reply.update for reply in replies.values()])


def charged(federation):
    """What each hospital's ledger holds, as leaves."""
    return [
        [leaf for entry in charges_of(agent.account) for leaf in leaves(entry.event)]
        for agent in federation.agents.values()
    ]


ONCE = [[(GaussianEvent(1.0), 1)]] * 3


def test_a_run_is_charged_in_its_first_round_and_fits_into_the_epsilon_of_the_run(make_federation):
    federation = federation_of(make_federation)
    for round in range(1, 6):
        replies, failures = ask(federation, round)
        assert not failures
        assert {leaves(reply.event) for reply in replies.values()} == (
            {leaves(GaussianEvent(1.0))} if round == 1 else {leaves(NoEvent())}
        )
        assert charged(federation) == ONCE


def test_a_round_asked_again_gives_the_same_release_without_a_charge_or_a_gradient(make_federation, monkeypatch):
    federation = federation_of(make_federation)
    released = {}
    for round in range(1, 4):
        released[round] = updates(federation, round)

    def unexpected(*_):
        raise AssertionError("a repetition computes nothing")

    monkeypatch.setattr(Workbench, "gradient_sums", unexpected)
    for round in (3, 2, 3):
        assert np.array_equal(updates(federation, round), released[round])
    assert charged(federation) == ONCE


def test_the_first_round_asked_again_is_not_charged_again(make_federation):
    federation = federation_of(make_federation)
    assert np.array_equal(updates(federation, 1), updates(federation, 1))
    assert charged(federation) == ONCE


@pytest.mark.parametrize("round", [1, 3])
def test_a_round_asked_again_with_other_weights_is_refused(make_federation, round):
    federation = federation_of(make_federation)
    for earlier in range(1, round + 1):
        updates(federation, earlier)
    replies, failures = ask(federation, round, federation.weights + np.float32(1e-7))
    assert not replies
    assert set(failures.values()) == {REFUSED}


@pytest.mark.parametrize("round", [2, 5, 6])
def test_rounds_are_answered_in_their_order_only(make_federation, round, caplog):
    federation = federation_of(make_federation, rounds=9)
    assert set(ask(federation, round)[1].values()) == {REFUSED}  # the run has not begun
    assert "not the round after its notes" in caplog.text
    assert charged(federation) == [[]] * 3
    for earlier in range(1, round - 1):
        updates(federation, earlier)
    if round > 2:
        assert set(ask(federation, round)[1].values()) == {REFUSED}  # the round before is missing
    if round > 5:
        updates(federation, 5)
        assert set(ask(federation, 6)[1].values()) == {REFUSED}  # after the last round


def test_a_round_that_was_forgotten_is_refused(make_federation):
    federation = federation_of(make_federation)
    for round in range(1, 5):
        updates(federation, round)
    assert set(ask(federation, 1)[1].values()) == {Failure(FailureCode.DATA, Stage.ADMISSION)}


def test_local_steps_are_refused(make_federation):
    federation = federation_of(make_federation)
    work = LocalUpdate(federation.weights, LocalSteps(1, 0.1, 0.0, denominator=2.0))
    failures = ask(federation, 1, work=work)[1]
    assert set(failures.values()) == {REFUSED}
    assert charged(federation) == [[]] * 3


def test_a_failure_after_the_charge_is_made_up_for_without_another(make_federation, monkeypatch):
    federation = federation_of(make_federation)
    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "gradient_sums", lambda *_: 1 / 0)
        assert set(ask(federation, 1)[1].values()) == {Failure(FailureCode.INTERNAL, Stage.TRAINING)}
    updates(federation, 1)
    assert charged(federation) == ONCE


def test_nothing_leaves_before_its_notes_are_written(make_federation, monkeypatch):
    federation = federation_of(make_federation)
    updates(federation, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Memory, "write", full)
    with raises_code(MachineError, "machine-full"):
        ask(federation, 2)


@pytest.mark.parametrize("held", ["nothing", "another study"])
def test_a_run_that_began_but_is_not_in_the_ledger_is_refused(make_federation, tmp_path, held):
    federation = federation_of(make_federation)
    updates(federation, 1)
    with LedgerFile(tmp_path / "another.sqlite") as ledgers:
        for name, agent in federation.agents.items():
            if held == "another study":
                charge_another_run(ledgers, name)
            other = federation.account_in(ledgers, name)
            federation.agents[name] = replace(agent, account=other)
        assert set(ask(federation, 2)[1].values()) == {Failure(FailureCode.LEDGER, Stage.ADMISSION)}


@pytest.mark.parametrize("where", ["in the process", "on disk"])
def test_the_noise_that_leaves_over_a_run_is_independent_once_encoded(
    make_federation, monkeypatch, tmp_path, where
):
    federation, size = federation_of(make_federation), 40_000

    def nobody(self, weights, samples, *_):
        return [ClippedSum(torch.zeros(size), 0.5) for _ in samples]

    monkeypatch.setattr(Workbench, "gradient_sums", nobody)
    if where == "on disk":
        restart(federation, tmp_path)
    noise = np.stack([updates(federation, round)[0] for round in range(1, 6)])
    encoded = lfilter(CORRELATION.coefficients, [1.0], noise, axis=0)
    std = 0.5 * CORRELATION.sensitivity
    covariance = encoded @ encoded.T / size / std**2
    tolerance = 5 * np.sqrt((1 + np.eye(5)) / size)  # five standard deviations
    assert np.all(np.abs(covariance - np.eye(5)) < tolerance)
    assert not np.all(np.abs(noise @ noise.T / size / std**2 - np.eye(5)) < tolerance)


def rounds_of(federation, folder, *, stops=(), num_rounds=5):
    """The models of a run; after each round in `stops` the hospitals forget all but what is on disk."""
    restart(federation, folder)
    strategy = FedSGD(Call(STUDY), PlainSum(), 0.4, 0.9, share_of_patients(federation.plan.training), 12)
    state = strategy.init(federation.weights, federation.channel)
    for round in range(1, num_rounds + 1):
        if round in stops:
            strategy.update(state, federation.channel, round)  # answered, and then nobody remembered the round
            restart(federation, folder)
        state = strategy.update(state, federation.channel, round)
    return strategy.models(state)["global"]


def restart(federation, folder):
    for name, agent in federation.agents.items():
        federation.agents[name] = replace(agent, memory=Memory(folder / name))


@pytest.mark.parametrize("bands", [1, 2])
def test_stopped_and_resumed_from_disk_is_the_run_that_was_never_stopped(make_federation, tmp_path, bands):
    plan = plan_of(correlation=replace(CORRELATION, bands=bands))
    whole = rounds_of(make_federation(plan=plan), tmp_path / "whole")
    again = rounds_of(make_federation(plan=plan), tmp_path / "again", stops=(1, 2, 5))
    assert np.array_equal(whole, again)


def test_with_full_participation_and_one_band_it_is_full_batch_descent(make_federation, tmp_path):
    everyone = Correlation(5, cohorts=1, bands=1)
    correlated = plan_of(correlation=everyone, noise_multiplier=0.5)
    ordinary = private_plan(sampling_prob=1.0, noise_multiplier=0.5 * everyone.sensitivity)
    one, other = make_federation(plan=correlated), make_federation(plan=ordinary)
    assert correlated.epsilon == pytest.approx(ordinary.epsilon, rel=1e-9)
    assert np.array_equal(rounds_of(one, tmp_path / "one"), rounds_of(other, tmp_path / "other"))


def test_without_noise_a_cycle_of_cohorts_is_a_pass_over_all_patients(make_federation):
    federation = make_federation(plan=without_noise(plan_of(), clipped=True))
    everyone = make_federation(plan=without_noise(private_plan(sampling_prob=1.0), clipped=True))
    cycle = updates(federation, 1) + updates(federation, 2)
    assert np.allclose(cycle, updates(everyone, 1), rtol=1e-5, atol=1e-6)
    assert not np.allclose(updates(federation, 2), updates(everyone, 1), atol=1e-3)
