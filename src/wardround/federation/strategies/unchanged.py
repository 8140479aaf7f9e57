"""No training: the model that the study gives, to be evaluated as it is."""

from dataclasses import dataclass

from wardround.federation.channel import Channel
from wardround.federation.strategy import State, Strategy
from wardround.types import Vector


@dataclass(frozen=True)
class Unchanged(Strategy):
    """A strategy without rounds; see `Strategy`."""

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`. Nothing is asked."""
        del channel
        return {"weights": weights}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`. There is no round."""
        del channel, round
        return state
