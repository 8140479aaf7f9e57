"""The contract of a strategy: a value with `init` and `update`, and a state of plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wardround.errors import BudgetExhausted, FederationError
from wardround.federation.aggregators import Aggregator, answers_of
from wardround.federation.channel import DEADLINE_S, Channel
from wardround.federation.messages import UNREACHED, Answers, FailureCode, Failures, Request, Requests
from wardround.types import Vector
from wardround.work import Work

State = Mapping[str, npt.NDArray[np.float32]]
"""Everything a strategy remembers between rounds, as named arrays: it is what a checkpoint holds."""


class Strategy(Protocol):
    """An algorithm by which hospitals make one model together.

    Contract: `init` and `update` draw nothing at random themselves and change nothing but what they return, so
    that a run resumed from a checkpoint is the run that was never interrupted.
    """

    def init(self, weights: Vector, channel: Channel) -> State:
        """Returns the state before round 1; may ask the hospitals for a count."""
        return {"weights": weights}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """Returns the state after one round."""

    def models(self, state: State) -> dict[str, Vector]:
        """Returns the model, or models, that the state amounts to, by name."""
        return {"global": state["weights"]}


class Unchanged(Strategy):
    """No training: the model that the study gives, to be evaluated as it is."""

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`. There is no round."""
        return state


@dataclass(frozen=True)
class Call:
    """The way a strategy calls the hospitals.

    Attributes:
        study: digest of the study, repeated in every request.
        allowed_missing: hospitals that may fail to answer without the round failing.
    """

    study: str
    allowed_missing: int = 0

    def request(self, work: Work, round: int) -> Request:
        """Returns a first attempt at one piece of work of one round."""
        return Request(self.study, round, 1, work)

    def ask(self, channel: Channel, requests: Requests) -> Answers:
        """Returns the answers of the hospitals that answered; enough of them, or the round does not happen.

        Raises:
            BudgetExhausted: a hospital refused because its patients' budget is spent; nothing was released.
            FederationError: more hospitals failed than the plan tolerates.
        """
        replies, failures = channel.ask(requests, DEADLINE_S)
        self._check_enough(requests, failures)
        return answers_of(replies)

    def ask_sum(self, channel: Channel, requests: Requests, aggregator: Aggregator) -> tuple[Vector, int]:
        """Returns the sum that an aggregator forms of the answers, (parameter,), and the number of hospitals in it.

        Raises:
            BudgetExhausted: as `ask` does.
            FederationError: likewise.
        """
        total = aggregator.collect(channel, requests, DEADLINE_S)
        self._check_enough(requests, total.failures)
        assert total.update is not None, "some hospital answered"
        return total.update, len(total.events)

    def ask_some(self, channel: Channel, requests: Requests) -> Answers:
        """Returns answers as `ask`, but where as many hospitals may be missing as are asked, none is no failure."""
        if self.allowed_missing < len(requests):
            return self.ask(channel, requests)
        replies, failures = channel.ask(requests, DEADLINE_S)
        _stop_for_the_budget(requests, failures)
        return answers_of(replies)

    def _check_enough(self, requests: Requests, failures: Failures) -> None:
        _stop_for_the_budget(requests, failures)
        if len(failures) > self.allowed_missing or len(failures) == len(requests):
            raise FederationError(_describe(failures, self.allowed_missing))


def _stop_for_the_budget(requests: Requests, failures: Failures) -> None:
    remedies = {
        FailureCode.REFUSED_BUDGET: "a larger privacy.epsilon_limit, where the hospitals allow one",
        FailureCode.REFUSED_SPARE: "more privacy.spare_attempts",
    }
    for code, remedy in remedies.items():
        spent = [name for name, failure in failures.items() if failure.code is code]
        if spent:
            raise BudgetExhausted(
                f"Every hospital must have budget left, but {len(spent)} of {len(requests)} refused "
                f"round {next(iter(requests.values())).round} (first: {spent[0]}); nothing of it was released. "
                f"A new run goes further with {remedy}."
            )


def _describe(failures: Failures, allowed: int) -> str:
    parts = [f"{name}: {failure}" for name, failure in failures.items()]
    unreached = all(failure.is_unreached for failure in failures.values())
    look = UNREACHED if unreached else "Each hospital's own log says why; repair the cause and resume."
    return (
        f"A round needs its hospitals: at most {allowed} may be missing, {len(parts)} did not answer "
        f"({'; '.join(parts[:5])}). {look}"
    )
