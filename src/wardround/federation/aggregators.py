"""Who sums. Each aggregator is a small value; a new behaviour wraps another one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wardround.federation.messages import Replies
from wardround.secure_aggregation.simulated import simulated_secure_sum
from wardround.types import Vector


class Aggregator(Protocol):
    """Adds the hospitals' updates. Contract: the same replies in the same round give the same sum."""

    @property
    def sees_replies(self) -> bool:
        """Whether somebody sees the replies one by one; else a channel may open their sum alone."""
        ...

    def sum(self, replies: Replies, round: int) -> Vector:
        """Sum of the updates, (parameter,). Round 0 is the count of patients."""
        ...


class PlainSum:
    """Adds updates that the coordinator may see one by one: they are noised, or nobody promised anything."""

    sees_replies = True

    def sum(self, replies: Replies, round: int) -> Vector:
        """See `Aggregator`."""
        del round
        total = np.sum([reply.update for reply in replies.values()], axis=0, dtype=np.float64)
        return np.asarray(total, dtype=np.float32)


class SimulatedSecureSum:
    """Adds updates as secure aggregation would, and is no secure aggregation: statements say "simulated"."""

    sees_replies = False

    def sum(self, replies: Replies, round: int) -> Vector:
        """See `Aggregator`."""
        del round
        return simulated_secure_sum(reply.update for reply in replies.values())


@dataclass(frozen=True)
class CoordinatorNoise:
    """Adds the coordinator's noise to another aggregator's sum.

    Attributes:
        inner: forms the sum, which the coordinator sees without noise.
        noise: (size, round) -> noise for that round, (size,).
    """

    inner: Aggregator
    noise: Callable[[int, int], Vector]
    sees_replies = True

    def sum(self, replies: Replies, round: int) -> Vector:
        """See `Aggregator`."""
        total = self.inner.sum(replies, round)
        return total + self.noise(total.size, round)
