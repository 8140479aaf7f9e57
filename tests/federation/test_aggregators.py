import numpy as np
import pytest
from wardround.secure_aggregation.simulated import simulated_secure_sum

from wardround.accounting.events import NoEvent
from wardround.federation.aggregators import CoordinatorNoise, PlainSum, SimulatedSecureSum
from wardround.federation.messages import Reply
from wardround.types import HospitalName

REPLIES = {
    HospitalName(name): Reply(np.array(values, dtype=np.float32), NoEvent())
    for name, values in {"a": [1.0, 2.0, 1e8], "b": [0.5, -2.0, 1.0], "c": [0.25, 1.0, -1e8]}.items()
}


@pytest.mark.parametrize(
    "aggregator",
    [
        PlainSum(),
        SimulatedSecureSum(),
        CoordinatorNoise(PlainSum(), lambda size, round: np.zeros(size, np.float32)),
    ],
)
def test_every_aggregator_sums_in_double_precision_and_changes_no_update(aggregator):
    before = {name: reply.update.copy() for name, reply in REPLIES.items()}
    total = aggregator.sum(REPLIES, 1)
    assert total.tolist() == [1.75, 1.0, 1.0]
    assert total.dtype == np.float32
    assert all(np.array_equal(REPLIES[name].update, update) for name, update in before.items())


def test_the_coordinators_noise_is_asked_for_once_a_round_and_added():
    asked = []

    def noise(size, round):
        asked.append((size, round))
        return np.full(size, 10.0, dtype=np.float32)

    assert CoordinatorNoise(PlainSum(), noise).sum(REPLIES, 7).tolist() == [11.75, 11.0, 11.0]
    assert asked == [(3, 7)]


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        simulated_secure_sum([])
