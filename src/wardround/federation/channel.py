"""The seam between a strategy and the hospitals: `Channel.ask`, in one process or over a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from wardround.federation.messages import Failure, Failures, Replies, Reply, Requests
from wardround.types import HospitalName

DEADLINE_S = 3600.0
"""Seconds that the hospitals of a round have to answer."""


class Channel(Protocol):
    """A way to ask hospitals.

    Contract: `ask` returns when every hospital has answered or failed, or when `deadline_s` seconds have
    passed; each hospital asked is in exactly one of the two dictionaries, in the order of the requests. It
    never raises for a hospital's failure. Asking twice with the same round and attempt costs a second
    release in a simulation; a deployed hospital repeats its answer, and refuses another content of the same attempt.
    """

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """The hospitals that take part, in a fixed public order."""

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """Returns replies and failures, by hospital."""


@dataclass(frozen=True)
class InProcessChannel:
    """A channel to hospitals of this process.

    Attributes:
        answer: answers all requests of an exchange together, so that simulated hospitals can share batches.
    """

    hospitals: tuple[HospitalName, ...]
    answer: Callable[[Requests], Mapping[HospitalName, Reply | Failure]]

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`. Hospitals of this process are always waited for: the deadline has nothing to stop."""
        del deadline_s
        answers, replies, failures = self.answer(requests), Replies(), Failures()
        for name in requests:
            match answers[name]:
                case Failure() as failure:
                    failures[name] = failure
                case reply:
                    replies[name] = reply
        return replies, failures
