"""The model goes from hospital to hospital: what each of them does is ordinary training, one after the other."""

import numpy as np
import pytest
from tests.federation.known import local_sgd, ordinary_sgd, rounds, state_after
from tests.fixtures_federation import STUDY

from wardround.accounting.events import NoEvent
from wardround.errors import FederationError
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answer, Failure, FailureCode, Stage
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable

CALL = Call(STUDY)


def ring(hospitals=3, order=Order.FIXED, *, steps=2, momentum=0.6, travels=False, call=CALL, seed=0):
    local = LocalTraining(call, steps, 0.4, momentum, 1.0, 4 * hospitals, keep_velocity=travels)
    return Ring(local, Timetable(hospitals, order, seed=seed))


def test_one_hospital_whose_velocity_travels_is_uninterrupted_sgd(make_federation):
    federation = make_federation(hospitals=1)
    known = ordinary_sgd(federation, steps=6, learning_rate=0.4, momentum=0.6, num_patients=4)
    assert np.allclose(rounds(ring(1, travels=True), federation)["global"], known, rtol=1e-4, atol=1e-5)


def test_one_hospital_whose_velocity_is_reset_is_sgd_started_anew_at_every_visit(make_federation):
    federation = make_federation(hospitals=1)
    known = ordinary_sgd(federation, steps=6, learning_rate=0.4, momentum=0.6, num_patients=4, restart_every=2)
    ours = rounds(ring(1), federation)["global"]
    assert np.allclose(ours, known, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours, rounds(ring(1, travels=True), federation)["global"], rtol=1e-2)


@pytest.mark.parametrize("travels", [False, True])
@pytest.mark.parametrize("order", [Order.FIXED, Order.RANDOM, Order.STOCHASTIC])
def test_a_ring_is_training_at_one_hospital_after_the_other(make_federation, order, travels):
    federation = make_federation()
    strategy = ring(order=order, travels=travels, seed=2)
    weights, velocity = federation.weights, 0.0
    for round in range(1, 6):
        [k] = strategy.timetable.asked(round)
        start = velocity if travels else 0.0
        weights, velocity = local_sgd(
            federation, k, weights, steps=2, learning_rate=0.4, momentum=0.6, velocity=start
        )
    assert np.allclose(rounds(strategy, federation, 5)["global"], weights, rtol=1e-3, atol=1e-5)


def test_what_travels_is_the_weights_and_where_it_is_asked_for_the_velocity(make_federation):
    assert set(state_after(ring(), make_federation(), 2)) == {"weights", "num_patients"}
    assert set(state_after(ring(travels=True), make_federation(), 2)) == {"weights", "num_patients", "velocity"}


class Absent:
    """A channel on which the second hospital never answers; the others add one."""

    hospitals = ("a", "b", "c")

    def ask(self, requests, deadline_s):
        [(name, request)] = requests.items()
        if name == "b":
            return {}, {name: Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)}
        return {name: Answer(np.ones_like(request.work.weights), NoEvent())}, {}


def test_a_hospital_that_does_not_answer_is_passed_by_where_that_is_allowed():
    weights = np.zeros(4, dtype=np.float32)
    tolerant = ring(call=Call(STUDY, allowed_missing=1))
    state = tolerant.init(weights, Absent())
    for round in (1, 2, 3):
        state = tolerant.update(state, Absent(), round)
    assert state["weights"].tolist() == [2.0] * 4
    with pytest.raises(FederationError, match="at most 0 may be missing, 1 did not"):
        ring().update(state, Absent(), 2)
