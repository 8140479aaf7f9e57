"""The rounds, from the first to the last: ask, update, remember, and be able to stop anywhere.

Everything here sees noised sums only. Averaging the weights of the last rounds is post-processing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from wardround.errors import BudgetExhausted, RecordError
from wardround.federation.channel import Channel
from wardround.federation.strategies.scored import average_from
from wardround.federation.strategy import State, Strategy
from wardround.types import Vector

Models = dict[str, Vector]
JsonDict = dict[str, object]

_PARAMETERS = re.compile(
    r"(^|/)(weights|mean|moments|rows|centre|velocity|first_moment|second_moment|variates|counter|left_out|model/\d+)$"
)
"""Names of arrays of a strategy's state whose last axis is the trained parameters."""


class _Restored(dict[str, npt.NDArray[np.float32]]):
    """A state from a checkpoint; an array that the strategy asks for and that is not there is a damaged record."""

    def __missing__(self, name: str) -> NoReturn:
        raise RecordError(
            f"A checkpoint must hold the array {name!r} of the study's strategy, and has none; restore the checkpoint, "
            "or start a new run."
        )


class Journal(Protocol):
    """The memory of a run. Contract: a checkpoint is whole on disk, or it is the one before."""

    def write_checkpoint(self, round: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Remembers everything needed to go on after `round`."""

    def append_round(self, entry: JsonDict) -> None:
        """Adds one line to the history."""


@dataclass(frozen=True)
class Schedule:
    """The length of a run, and the rounds that are evaluated.

    Attributes:
        evaluate_every: rounds between two evaluations; the last round is always evaluated.
        average_last: share of the rounds, from the end, whose weights are averaged; 0 takes the last ones.
        score_rounds: rounds at the end that train nothing.
    """

    num_rounds: int
    evaluate_every: int
    average_last: float
    score_rounds: int = 0

    @property
    def average_from(self) -> int:
        """First round whose weights count."""
        return average_from(self.num_rounds - self.score_rounds, self.average_last)

    def evaluates(self, round: int) -> bool:
        """Returns whether patients set aside are looked at after this round."""
        return round % self.evaluate_every == 0 or round == self.num_rounds


@dataclass
class Position:
    """The state of a run between two rounds, as a checkpoint holds it.

    Attributes:
        round: the last finished round; 0 before the first.
        means: running mean of the models' weights since `Schedule.average_from`.
    """

    round: int
    state: State
    means: Models = field(default_factory=dict)

    def to_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the position as named arrays."""
        state = {f"state:{key}": value for key, value in self.state.items()}
        return state | {f"mean:{key}": value for key, value in self.means.items()}

    @classmethod
    def from_arrays(cls, round: int, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "Position":
        """Returns the position that `to_arrays` wrote."""

        def part(prefix: str) -> Models:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        return cls(round, _Restored(part("state:")), part("mean:"))

    def check(self, num_rounds: int, size: int) -> None:
        """Refuses a position that no run of a study leaves.

        Args:
            num_rounds: of the study.
            size: number of trained parameters.

        Raises:
            RecordError: it lies behind the last round, or vectors of parameters have another length.
        """
        if self.round > num_rounds:
            raise RecordError(
                f"A checkpoint must be of one of the study's {num_rounds} rounds, got round {self.round}; start a new "
                "run."
            )
        vectors = [value for key, value in self.state.items() if _PARAMETERS.search(key)] + list(
            self.means.values()
        )
        if any(value.ndim == 0 or value.shape[-1] != size for value in vectors):
            raise RecordError(
                f"Every vector of a checkpoint must have the network's {size} trained parameters, and one has others; "
                "restore the checkpoint, or start a new run."
            )


@dataclass(frozen=True)
class Outcome:
    """The end of the rounds.

    Attributes:
        stopped: a sentence when the budget ended the run before its last round, else None.
    """

    position: Position
    models: Models
    stopped: str | None


def run_rounds(
    strategy: Strategy,
    channel: Channel,
    schedule: Schedule,
    position: Position,
    journal: Journal,
    look: Callable[[int, Models | None], JsonDict],
) -> Outcome:
    """Runs every round after `position`, until the last one or until a hospital's budget is spent.

    Args:
        strategy: asks and updates, once a round.
        channel: reaches the hospitals.
        schedule: number of rounds, and those that are evaluated.
        position: the start, from `Strategy.init` or from a checkpoint.
        journal: remembers the run.
        look: called after every round with the models when it is time to evaluate them, else with None;
            returns the entry of the history.
    """
    stopped = None
    for round in range(position.round + 1, schedule.num_rounds + 1):
        try:
            state = strategy.update(position.state, channel, round)
        except BudgetExhausted as error:
            stopped = str(error)
            break
        position = Position(round, state, _averaged(position, strategy.models(state), round, schedule))
        models = (position.means or strategy.models(state)) if schedule.evaluates(round) else None
        entry: JsonDict = {"round": round}
        if "clipping_norm" in state:
            entry["clipping_norm"] = float(state["clipping_norm"][0])
        trains = round <= schedule.num_rounds - schedule.score_rounds
        if "sum_norm" in state and trains:
            entry["sum_norm"] = float(state["sum_norm"][0])
        if "contributions" in state and trains:
            entry["contributions"] = state["contributions"].tolist()
        journal.append_round(entry | look(round, models))
        journal.write_checkpoint(round, position.to_arrays())
    return Outcome(position, position.means or strategy.models(position.state), stopped)


def _averaged(position: Position, models: Models, round: int, schedule: Schedule) -> Models:
    if schedule.average_last == 0 or round < schedule.average_from:
        return {}
    if not position.means:
        return models
    share = np.float32(1 / (round - schedule.average_from + 1))
    return {name: mean + (models[name] - mean) * share for name, mean in position.means.items()}
