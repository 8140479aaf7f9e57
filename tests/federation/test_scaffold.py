"""SCAFFOLD against an implementation of its own, written from the paper, on quadratics with known optima."""

import numpy as np
import pytest
from tests.federation.known import rounds, state_after
from tests.fixtures_federation import STUDY

from wardround.accounting.events import NoEvent
from wardround.federation.aggregators import PlainSum
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answer
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.scaffold import Scaffold
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable

CALL = Call(STUDY)
CURVATURES = np.array([[1.0, 4.0], [3.0, 0.5], [0.2, 1.0]])
OPTIMA = np.array([[1.0, -1.0], [-2.0, 3.0], [4.0, 0.5]])
START = np.zeros(2, dtype=np.float32)


class Quadratics:
    """Hospitals whose loss is a parabola; they take plain corrected steps, as a request asks."""

    hospitals = ("a", "b", "c")

    def ask(self, requests, deadline_s):
        replies = {}
        for name, request in requests.items():
            k, run = self.hospitals.index(name), request.work.steps
            start = weights = request.work.weights.astype(np.float64)
            for _ in range(run.steps):
                correction = 0.0 if run.correction is None else run.correction
                weights = weights - run.learning_rate * (CURVATURES[k] * (weights - OPTIMA[k]) + correction)
            replies[name] = Answer((weights - start).astype(np.float32), NoEvent())
        return replies, {}


class Toy:
    channel, weights = Quadratics(), START


def scaffold(steps=4, timetable=None, learning_rate=1.0):
    return Scaffold(LocalTraining(CALL, steps, 0.1, 0.0, 1.0, 12), timetable or Timetable(3), learning_rate)


def paper(num_rounds, timetable, steps, local_rate, global_rate):
    """Karimireddy et al. 2019, Algorithm 1 with option II; the server keeps c, the clients their c_i."""
    x, c, variates = np.zeros(2), np.zeros(2), np.zeros((3, 2))
    for round in range(1, num_rounds + 1):
        sampled = timetable.asked(round)
        delta_y, delta_c = np.zeros(2), np.zeros(2)
        for i in sampled:
            y = x.copy()
            for _ in range(steps):
                y = y - local_rate * (CURVATURES[i] * (y - OPTIMA[i]) - variates[i] + c)
            new = variates[i] - c + (x - y) / (steps * local_rate)
            delta_y += (y - x) / len(sampled)
            delta_c += (new - variates[i]) / len(sampled)
            variates[i] = new
        x = x + global_rate * delta_y
        c = c + len(sampled) / 3 * delta_c
    return x, variates


@pytest.mark.parametrize(
    "timetable", [Timetable(3), Timetable(3, Order.FRACTION, 0.6, seed=2)], ids=["all", "some"]
)
@pytest.mark.parametrize("global_rate", [1.0, 0.7])
def test_scaffold_is_the_algorithm_of_its_paper(timetable, global_rate):
    state = state_after(scaffold(4, timetable, global_rate), Toy, 12)
    x, variates = paper(12, timetable, 4, 0.1, global_rate)
    assert np.allclose(state["weights"], x, rtol=1e-4, atol=1e-5)
    assert np.allclose(state["variates"], variates, rtol=1e-4, atol=1e-5)


def test_unlike_fedavg_scaffold_reaches_the_common_optimum_with_many_local_steps():
    optimum = (CURVATURES * OPTIMA).sum(axis=0) / CURVATURES.sum(axis=0)
    local = LocalTraining(CALL, 10, 0.1, 0.0, 1.0, 12)
    average = rounds(FedAvg(local, PlainSum(), Timetable(3)), Toy, 300)["global"]
    corrected = rounds(scaffold(10), Toy, 300)["global"]
    assert np.allclose(corrected, optimum, atol=1e-4)
    assert np.abs(average - optimum).max() > 0.2, "the drift that it corrects"


def test_with_one_step_and_everybody_scaffold_is_fedavg(make_federation):
    federation = make_federation()
    local = LocalTraining(CALL, 1, 0.4, 0.0, 1.0, 12)
    average = rounds(FedAvg(local, PlainSum(), Timetable(3)), federation, 4)["global"]
    assert np.allclose(
        rounds(Scaffold(local, Timetable(3)), federation, 4)["global"], average, rtol=1e-3, atol=1e-5
    )


def test_who_was_not_asked_keeps_its_variate():
    timetable = Timetable(3, Order.FRACTION, 0.3, seed=1)
    state = state_after(scaffold(4, timetable), Toy, 1)
    [asked] = timetable.asked(1)
    assert [bool(variate.any()) for variate in state["variates"]] == [k == asked for k in range(3)]
