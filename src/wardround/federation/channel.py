"""How a strategy reaches the hospitals. It is written once against `Channel.ask`, one machine or many."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from wardround.federation.messages import Failure, Failures, Replies, Reply, Requests, Total
from wardround.types import HospitalName


class Channel(Protocol):
    """A way to ask hospitals.

    Contract: `ask` returns when every hospital has answered or failed, or when `deadline_s` seconds have
    passed; each hospital asked is in exactly one of the two dictionaries, in the order of the requests. It
    never raises for a hospital's failure. Asking twice with the same round and attempt may cost a second
    release; the caller raises `attempt` and means it.
    """

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """The hospitals that take part, in a fixed public order."""
        ...

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """Replies and failures, by hospital."""
        ...


@runtime_checkable
class SumChannel(Channel, Protocol):
    """A channel that may open a sum of answers without any single one.

    Contract: as `Channel.ask`, but one sum takes the place of the replies. None, with nobody asked, where this
    channel cannot do that for these requests.
    """

    def ask_sum(self, requests: Requests, deadline_s: float) -> Total | None:
        """The sum of the updates, and failures by hospital."""
        ...


class InProcessChannel:
    """Calls the same agents that answer over a network, in this process.

    Args:
        hospitals: who takes part.
        answer: answers all requests of a round together, so that simulated hospitals can share batches.
        answer_sum: forms the sum of their answers without the answers; None where single ones are wanted.
    """

    def __init__(
        self,
        hospitals: tuple[HospitalName, ...],
        answer: Callable[[Requests], dict[HospitalName, Reply | Failure]],
        answer_sum: Callable[[Requests], Total | None] | None = None,
    ) -> None:
        self._hospitals = hospitals
        self._answer = answer
        self._answer_sum = answer_sum

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """See `Channel`."""
        return self._hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`. Agents of this process are always waited for: the deadline has nothing to stop."""
        del deadline_s
        answers = self._answer(requests)
        replies = {name: answers[name] for name in requests if isinstance(answers[name], Reply)}
        failures = {name: answers[name] for name in requests if isinstance(answers[name], Failure)}
        return replies, failures  # type: ignore[return-value]  # the two comprehensions narrow what mypy cannot

    def ask_sum(self, requests: Requests, deadline_s: float) -> Total | None:
        """See `SumChannel`."""
        del deadline_s
        return None if self._answer_sum is None else self._answer_sum(requests)
