import numpy as np
import pytest

from wardround.coordinator.rounds import Position, Schedule, run_rounds
from wardround.errors import BudgetExhausted, RecordError
from wardround.federation.channel import InProcessChannel

NOBODY = InProcessChannel((), lambda requests: {})


class Counting:
    """A strategy whose weights are the number of rounds, and whose budget may end."""

    def __init__(self, last_affordable=99):
        self.last_affordable = last_affordable

    def init(self, weights, channel):
        return {"weights": weights}

    def update(self, state, channel, round):
        if round > self.last_affordable:
            raise BudgetExhausted("the budget is spent.")
        return {"weights": state["weights"] + 1}

    def models(self, state):
        return {"global": state["weights"]}


class Memory:
    def __init__(self):
        self.checkpoints, self.entries = {}, []

    def write_checkpoint(self, round, arrays):
        self.checkpoints[round] = {key: value.copy() for key, value in arrays.items()}

    def append_round(self, entry):
        self.entries.append(entry)


def run(schedule, position=None, strategy=None):
    memory, looks = Memory(), []

    def look(round, models):
        looks.append((round, models is not None))
        return {"seen": models is not None}

    start = position or Position(0, {"weights": np.zeros(2, dtype=np.float32)})
    outcome = run_rounds(strategy or Counting(), NOBODY, schedule, start, memory, look)
    return outcome, memory, looks


def test_every_round_is_remembered_and_looked_at_when_it_is_time():
    outcome, memory, looks = run(Schedule(5, 2, 0.0))
    assert outcome.position.round == 5
    assert outcome.models["global"].tolist() == [5.0, 5.0]
    assert [entry["round"] for entry in memory.entries] == [1, 2, 3, 4, 5]
    assert looks == [(1, False), (2, True), (3, False), (4, True), (5, True)]
    assert sorted(memory.checkpoints) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("average_last", [0.0, 0.5])
def test_a_run_resumed_from_any_round_is_the_uninterrupted_run(average_last):
    schedule = Schedule(6, 3, average_last)
    whole, memory, _ = run(schedule)
    for round, arrays in memory.checkpoints.items():
        resumed, _, _ = run(schedule, Position.from_arrays(round, arrays))
        assert np.array_equal(resumed.models["global"], whole.models["global"])


def test_the_average_is_the_mean_of_the_last_rounds_weights():
    outcome, _, _ = run(Schedule(6, 6, 0.5))
    assert outcome.models["global"].tolist() == [5.0, 5.0]  # the mean of 4, 5 and 6


def test_a_spent_budget_ends_the_run_with_the_model_of_the_last_round():
    outcome, memory, _ = run(Schedule(6, 6, 0.0), strategy=Counting(last_affordable=4))
    assert outcome.position.round == 4
    assert outcome.models["global"].tolist() == [4.0, 4.0]
    assert outcome.stopped == "the budget is spent."
    assert max(memory.checkpoints) == 4


WEIGHTS = {"state:weights": np.zeros(3, np.float32), "state:variates": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("round", "arrays"),
    [
        (5, WEIGHTS),
        (1, WEIGHTS | {"state:weights": np.zeros(2, np.float32)}),
        (1, WEIGHTS | {"state:north/velocity": np.zeros((), np.float32)}),
        (1, WEIGHTS | {"state:model/7": np.zeros(4, np.float32)}),
        (1, WEIGHTS | {"mean:global": np.zeros(4, np.float32)}),
    ],
)
def test_a_position_that_no_run_of_the_study_leaves_is_refused(round, arrays):
    Position.from_arrays(4, WEIGHTS).check(4, 3)
    with pytest.raises(RecordError):
        Position.from_arrays(round, arrays).check(4, 3)


def test_an_array_that_a_checkpoint_lacks_is_a_sentence():
    state = Position.from_arrays(1, WEIGHTS).state
    assert state.get("velocity") is None
    with pytest.raises(RecordError, match="'velocity'"):
        state["velocity"]
