import numpy as np
import pytest

from wardround.accounting.events import NoEvent
from wardround.errors import FederationError
from wardround.federation.aggregators import CoordinatorNoise, PlainSum, sum_of
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer, Failure, FailureCode, Request, Signed, Stage
from wardround.types import HospitalName
from wardround.work import GradientSum

ANSWERS = {
    HospitalName(name): Answer(np.array(values, dtype=np.float32), NoEvent())
    for name, values in {"a": [1.0, 2.0, 1e8], "b": [0.5, -2.0, 1.0], "c": [0.25, 1.0, -1e8]}.items()
}
AGGREGATORS = [PlainSum(), CoordinatorNoise(PlainSum(), lambda size, round: np.zeros(size, np.float32))]
SILENT = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


def collect(aggregator, replies, round=1):
    """The total of hospitals that reply the same whatever they are asked."""
    request = Request("a study", round, 1, GradientSum(np.zeros(3, dtype=np.float32)))
    channel = InProcessChannel(tuple(replies), lambda requests: {name: replies[name] for name in requests})
    return aggregator.collect(channel, dict.fromkeys(replies, request), 60.0)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_every_aggregator_sums_in_double_precision_and_changes_no_update(aggregator):
    before = {name: answer.update.copy() for name, answer in ANSWERS.items()}
    total = collect(aggregator, ANSWERS).update
    assert total.tolist() == [1.75, 1.0, 1.0]
    assert total.dtype == np.float32
    assert all(np.array_equal(ANSWERS[name].update, update) for name, update in before.items())


@pytest.mark.parametrize(
    "aggregator", [PlainSum(), CoordinatorNoise(PlainSum(), lambda size, _: np.zeros(size, np.float32))]
)
def test_a_hospital_that_fails_adds_nothing_and_is_named(aggregator):
    total = collect(aggregator, ANSWERS | {"b": SILENT})
    assert total.update.tolist() == [1.25, 3.0, 0.0]
    assert total.events == {"a": NoEvent(), "c": NoEvent()}
    assert total.failures == {"b": SILENT}
    nothing = collect(aggregator, dict.fromkeys("abc", SILENT))
    assert (nothing.update, nothing.events, nothing.failures) == (None, {}, dict.fromkeys("abc", SILENT))


def test_the_coordinators_noise_is_asked_for_once_a_round_and_added():
    asked = []

    def noise(size, round):
        asked.append((size, round))
        return np.full(size, 10.0, dtype=np.float32)

    assert collect(CoordinatorNoise(PlainSum(), noise), ANSWERS, 7).update.tolist() == [11.75, 11.0, 11.0]
    assert asked == [(3, 7)]


def test_a_reply_that_is_no_noised_vector_is_refused():
    with pytest.raises(FederationError, match="and b did not"):
        collect(PlainSum(), ANSWERS | {"b": Signed(b"something else")})


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        sum_of([])
