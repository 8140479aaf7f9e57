"""Aggregators form the sum of the hospitals' updates. Each is a small value; a new behaviour wraps another."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wardround.errors import FederationError
from wardround.federation.channel import Channel
from wardround.federation.messages import Answer, Answers, Failure, FailureCode, Replies, Requests, Stage, Total
from wardround.types import Vector


class Aggregator(Protocol):
    """A way to form the sum of several hospitals' updates.

    Contract: hospitals that fail are in `Total.failures` and add nothing; the same answers give the same sum. It raises
    for no hospital's failure but one that ends the run.
    """

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """Asks the hospitals and returns the sum of their updates, (parameter,)."""


@dataclass(frozen=True)
class PlainSum:
    """Adds updates in the open: they are noised, or nothing is promised, or secure aggregation is only simulated.

    Attributes:
        coordinates: of an update; a hospital that sends another number of them has failed. None where the channel holds
            answers to it already.
    """

    coordinates: int | None = None

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`."""
        replies, failures = channel.ask(requests, deadline_s)
        answers = answers_of(replies)
        for name, answer in list(answers.items()):
            if self.coordinates not in (None, answer.update.size):
                failures[name] = Failure(FailureCode.PROTOCOL, Stage.TRANSPORT)
                del answers[name]
        update = sum_of(answer.update for answer in answers.values()) if answers else None
        return Total(update, {name: answer.event for name, answer in answers.items()}, failures)


def answers_of(replies: Replies) -> Answers:
    """Returns the replies, each of which must be a noised vector.

    Raises:
        FederationError: a hospital replied with something else.
    """
    answers = {name: reply for name, reply in replies.items() if isinstance(reply, Answer)}
    if len(answers) < len(replies):
        odd = next(name for name in replies if name not in answers)
        raise FederationError(f"A hospital must reply with what it was asked for, and {odd} did not.")
    return answers


def sum_of(updates: Iterable[Vector]) -> Vector:
    """Returns the sum of updates, (parameter,), accumulated in float64 and rounded once."""
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    for update in updates:
        total = update.astype(np.float64) if total is None else np.add(total, update, out=total)
    if total is None:
        raise ValueError("a sum needs at least one vector")
    return total.astype(np.float32)


@dataclass(frozen=True)
class CoordinatorNoise:
    """Adds the coordinator's noise to another aggregator's sum.

    Attributes:
        inner: forms the sum, which the coordinator sees without noise.
        noise: (size, round) -> noise for that round, (size,).
    """

    inner: Aggregator
    noise: Callable[[int, int], Vector]

    def collect(self, channel: Channel, requests: Requests, deadline_s: float) -> Total:
        """See `Aggregator`."""
        total = self.inner.collect(channel, requests, deadline_s)
        if total.update is None:
            return total
        round = next(iter(requests.values())).round
        return Total(total.update + self.noise(total.update.size, round), total.events, total.failures)
