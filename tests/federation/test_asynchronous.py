"""Late work is mixed in less, and never later than the bound."""

import numpy as np
import pytest
from tests.federation.known import local_sgd, rounds, state_after
from tests.fixtures_federation import STUDY

from wardround.accounting.events import NoEvent
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answer
from wardround.federation.strategies.asynchronous import Asynchronous
from wardround.federation.strategies.ring import Ring
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable

LOCAL = LocalTraining(Call(STUDY), 2, 0.4, 0.6, 1.0, 12)
STOCHASTIC = Timetable(3, Order.STOCHASTIC, seed=4)


def asynchronous(mixing=0.6, staleness=10, power=0.5, timetable=STOCHASTIC):
    return Asynchronous(LOCAL, timetable, mixing, staleness, power)


def test_never_late_and_fully_mixed_in_is_the_stochastic_ring(make_federation):
    federation = make_federation(rounds=8)
    ours = rounds(asynchronous(mixing=1.0, staleness=0), federation, 8)["global"]
    assert np.allclose(ours, rounds(Ring(LOCAL, STOCHASTIC), federation, 8)["global"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("staleness", [0, 1, 10])
def test_what_arrives_is_mixed_in_as_its_source_says(make_federation, staleness):
    """Xie et al. 2019, Algorithm 1: x_t = (1 - a_t) x_(t-1) + a_t x_new, a_t = a (t - tau + 1) ** -power."""
    federation = make_federation(rounds=9)
    models, given = [federation.weights], [0, 0, 0]
    for round in range(1, 10):
        [k] = STOCHASTIC.asked(round)
        start = max(given[k], len(models) - 1 - staleness)
        new, _ = local_sgd(federation, k, models[start], steps=2, learning_rate=0.4, momentum=0.6)
        alpha = 0.6 * (len(models) - 1 - start + 1) ** -0.5
        models.append((1 - alpha) * models[-1] + alpha * new)
        given[k] = round
    ours = rounds(asynchronous(staleness=staleness), federation, 9)["global"]
    assert np.allclose(ours, models[-1], rtol=1e-3, atol=1e-5)


class Watching:
    """A channel that adds one and remembers what it was asked to start from."""

    hospitals = ("a", "b", "c")

    def __init__(self):
        self.starts = []

    def ask(self, requests, deadline_s):
        [(name, request)] = requests.items()
        self.starts.append(request.work.weights)
        return {name: Answer(np.ones_like(request.work.weights), NoEvent())}, {}


@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
def test_nobody_starts_from_a_model_older_than_the_bound(staleness):
    timetable = Timetable(3, Order.STOCHASTIC, seed=6)
    strategy, channel = asynchronous(staleness=staleness, timetable=timetable), Watching()
    state = strategy.init(np.zeros(1, dtype=np.float32), channel)
    models = [float(state["weights"][0])]
    oldest = 0
    for round in range(1, 60):
        state = strategy.update(state, channel, round)
        late = round - 1 - models.index(float(channel.starts[-1][0]))
        oldest = max(oldest, late)
        assert 0 <= late <= staleness
        models.append(float(state["weights"][0]))
        kept = [name for name in state if name.startswith("model/")]
        assert len(kept) <= staleness + 1, "no model is kept that nobody may start from"
    assert oldest == staleness, "the bound was reached"


def test_a_later_answer_counts_less():
    """The last of three to finish works on a model two rounds old."""
    timetable = Timetable(3, Order.FIXED)
    state = state_after(asynchronous(mixing=0.5, power=1.0, timetable=timetable), Toy, 3)
    # 0 -> 0.5 -> 0.5 + (1 - 0.5) / 4 -> 0.625 + (1 - 0.625) / 6
    assert state["weights"][0] == pytest.approx(0.625 + 0.375 / 6)


class Toy:
    channel, weights = Watching(), np.zeros(1, dtype=np.float32)
