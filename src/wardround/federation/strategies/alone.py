"""Alone: every hospital trains on its own patients only, a reference for what collaboration brings.

Each hospital runs `inner` by itself, as a federation of one. With `FedSGD` inside this is DP-SGD at each
hospital; the hospitals hold different patients, so the guarantee is that of the worst of them.
"""

from dataclasses import dataclass

from wardround.federation.channel import Channel
from wardround.federation.messages import Failures, Replies, Requests
from wardround.federation.strategy import State, Strategy
from wardround.types import HospitalName, Vector


@dataclass(frozen=True)
class Alone:
    """A federation of one, as often as there are hospitals: each does `inner` by itself."""

    inner: Strategy

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        return _joined({h: self.inner.init(weights, _Only(channel, h)) for h in channel.hospitals})

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        return _joined(
            {h: self.inner.update(_part(state, h), _Only(channel, h), round) for h in channel.hospitals}
        )

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`: one model a hospital, under the hospital's name."""
        names = dict.fromkeys(key.rpartition("/")[0] for key in state)
        return {
            name: vector
            for name in names
            for vector in self.inner.models(_part(state, HospitalName(name))).values()
        }


@dataclass(frozen=True)
class _Only:
    """A channel to one hospital of another channel."""

    channel: Channel
    hospital: HospitalName

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        return (self.hospital,)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        return self.channel.ask(requests, deadline_s)


def _joined(states: dict[HospitalName, State]) -> State:
    return {f"{hospital}/{key}": value for hospital, state in states.items() for key, value in state.items()}


def _part(state: State, hospital: HospitalName) -> State:
    prefix = f"{hospital}/"
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
