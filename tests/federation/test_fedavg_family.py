"""FedAvg, FedProx, weighted and partial averages, and what the server does with the mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.charges import charges_of
from tests.federation.known import local_sgd, rounds, state_after
from tests.fixtures_federation import STUDY

from wardround.federation.aggregators import PlainSum
from wardround.federation.local_training import LocalTraining
from wardround.federation.server import ServerOptimizer
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable

CALL = Call(STUDY)


def fedavg(steps=2, momentum=0.6, *, timetable=None, local=None, **changes):
    training = replace(LocalTraining(CALL, steps, 0.4, momentum, 1.0, 12), **(local or {}))
    return FedAvg(training, PlainSum(), timetable or Timetable(3), **changes)


def averaged(federation, weights, hospitals=(0, 1, 2), shares=(1, 1, 1), **options):
    """The weighted mean of the models that the hospitals train: McMahan et al., Algorithm 1."""
    models = [local_sgd(federation, k, weights, **options)[0] for k in hospitals]
    return np.average(models, axis=0, weights=[shares[k] for k in hospitals])


def test_fedavg_is_the_mean_of_the_models_that_the_hospitals_train(make_federation):
    federation = make_federation()
    weights = federation.weights
    for _ in range(3):
        weights = averaged(federation, weights, steps=2, learning_rate=0.4, momentum=0.6)
    assert np.allclose(rounds(fedavg(), federation)["global"], weights, rtol=1e-3, atol=1e-5)


def test_one_step_without_momentum_is_fedsgd_with_the_same_patients(make_federation):
    federation = make_federation()
    sgd = FedSGD(CALL, PlainSum(), 0.4, 0.0, 1.0, 12)
    ours = rounds(fedavg(1, 0.0), federation)["global"]
    assert np.allclose(ours, rounds(sgd, federation)["global"], rtol=1e-4, atol=1e-6)


def test_momentum_at_the_server_with_one_step_is_fedsgd_with_momentum(make_federation):
    federation = make_federation()
    sgd = FedSGD(CALL, PlainSum(), 0.4, 0.6, 1.0, 12)
    ours = rounds(fedavg(1, 0.0, server=ServerOptimizer(beta=0.6)), federation, 4)["global"]
    assert np.allclose(ours, rounds(sgd, federation, 4)["global"], rtol=1e-4, atol=1e-6)


def test_fedprox_without_its_pull_is_fedavg(make_federation):
    federation = make_federation()
    without = rounds(fedavg(local={"proximal": 0.0}), federation)["global"]
    assert np.array_equal(without, rounds(fedavg(), federation)["global"])


def test_fedprox_pulls_every_step_towards_the_model_of_the_round(make_federation):
    federation = make_federation()
    weights = federation.weights
    for _ in range(3):
        weights = averaged(federation, weights, steps=3, learning_rate=0.4, proximal=0.9)
    strategy = fedavg(3, 0.0, local={"proximal": 0.9})
    assert np.allclose(rounds(strategy, federation)["global"], weights, rtol=1e-3, atol=1e-5)


def test_hospitals_weigh_what_the_study_says(make_federation):
    federation = make_federation()
    weights = averaged(federation, federation.weights, shares=(1, 5, 2), steps=2, learning_rate=0.4, momentum=0.6)
    ours = rounds(fedavg(shares=(1.0, 5.0, 2.0)), federation, 1)["global"]
    assert np.allclose(ours, weights, rtol=1e-3, atol=1e-5)
    equal = rounds(fedavg(shares=(0.3, 0.3, 0.3)), federation)["global"]
    assert np.allclose(equal, rounds(fedavg(), federation)["global"], rtol=1e-4, atol=1e-6)


def test_a_fraction_of_the_hospitals_is_asked_and_averaged(make_federation):
    federation = make_federation()
    timetable = Timetable(3, Order.FRACTION, 0.6, seed=1)
    weights = federation.weights
    for round in (1, 2, 3):
        asked = timetable.asked(round)
        assert len(asked) == 2
        weights = averaged(federation, weights, asked, steps=2, learning_rate=0.4, momentum=0.6)
    ours = rounds(fedavg(timetable=timetable), federation)["global"]
    assert np.allclose(ours, weights, rtol=1e-3, atol=1e-5)
    entries = [len(charges_of(agent.account)) for agent in federation.agents.values()]
    assert entries == timetable.visits(3).tolist(), "who is not asked pays nothing"


def test_velocities_that_are_kept_start_from_their_last_mean(make_federation):
    federation = make_federation()
    strategy = fedavg(local={"keep_velocity": True})
    first = state_after(strategy, federation, 1)
    ends = [
        local_sgd(federation, k, federation.weights, steps=2, learning_rate=0.4, momentum=0.6) for k in range(3)
    ]
    velocity = np.mean([end[1] for end in ends], axis=0)
    assert np.allclose(first["velocity"], velocity, rtol=1e-3, atol=1e-5)
    weights = averaged(federation, first["weights"], steps=2, learning_rate=0.4, momentum=0.6, velocity=velocity)
    second = strategy.update(first, federation.channel, 2)
    assert np.allclose(second["weights"], weights, rtol=1e-3, atol=1e-5)


def server_path(server, updates):
    weights = np.linspace(-1, 1, 6).astype(np.float32)
    state, path = server.init(weights), []
    for update in updates:
        weights, state = server.step(state, weights, update)
        path.append(weights)
    return np.array(path)


@pytest.fixture
def updates():
    return np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32) * np.geomspace(1e-3, 1, 6, dtype="f4")


@pytest.mark.thorough
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_momentum_at_the_server_is_that_of_torch(updates, beta):
    known = torch.linspace(-1, 1, 6, requires_grad=True)
    optimizer = torch.optim.SGD([known], lr=0.7, momentum=beta)
    path = []
    for update in updates:
        known.grad = -torch.from_numpy(update)
        optimizer.step()
        path.append(known.detach().numpy().copy())
    ours = server_path(ServerOptimizer("momentum", 0.7, beta), updates)
    assert np.allclose(ours, path, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "yogi"])
def test_adam_and_yogi_are_the_recurrences_of_their_source(updates, kind):
    """Reddi et al. 2020, Algorithm 2, parameter by parameter and in double precision: no bias correction."""
    eta, beta1, beta2, tau = 0.3, 0.8, 0.95, 1e-2
    ours = server_path(ServerOptimizer(kind, eta, beta1, beta2, tau), updates)
    for j in range(6):
        x, m, v = float(np.linspace(-1, 1, 6)[j]), 0.0, tau**2
        for t, delta in enumerate(updates[:, j].astype(float)):
            m = beta1 * m + (1 - beta1) * delta
            if kind == "adam":
                v = beta2 * v + (1 - beta2) * delta**2
            elif v > delta**2:
                v -= (1 - beta2) * delta**2
            else:
                v += (1 - beta2) * delta**2
            x += eta * m / (v**0.5 + tau)
            assert ours[t, j] == pytest.approx(x, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi"])
def test_the_server_is_at_rest_after_no_update(kind):
    path = server_path(ServerOptimizer(kind, 0.3, 0.9), np.zeros((3, 6), dtype=np.float32))
    assert np.array_equal(path, np.tile(np.linspace(-1, 1, 6).astype(np.float32), (3, 1)))
