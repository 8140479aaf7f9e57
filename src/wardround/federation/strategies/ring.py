"""Weight transfer: the model goes from hospital to hospital, and each trains it further. A round is one hand-over.

In a fixed order over several cycles this is cyclic weight transfer, or round robin; over one cycle single weight
transfer; with a new order in each cycle, random order; with a hospital drawn anew for every round, stochastic weight
transfer. The next hospital sees what the last one sent, so each protects its own: with noise on every step (a private
ring), or on its clipped update. A hospital that does not answer is passed by.

Sources: Chang et al. 2018, https://doi.org/10.1093/jamia/ocy017; Yuan et al., Algorithm 1 (a single pass, without the
unfounded noise); Beaulieu-Jones et al. 2018, https://arxiv.org/abs/1812.01484 (the private ring); Darzidehkalani et al.
2024 (stochastic transfer).
"""

from dataclasses import dataclass

from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.strategies.fedavg import mean_velocity
from wardround.federation.strategy import State, Strategy
from wardround.federation.timetable import Timetable
from wardround.types import Vector


@dataclass(frozen=True)
class Ring(Strategy):
    """One hospital after the other; one is asked in a round."""

    local: LocalTraining
    timetable: Timetable

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        return {"weights": weights, **self.local.counts(channel)}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights = state["weights"]

        [k] = self.timetable.asked(round)
        request = self.local.request(round, state, k, weights, velocity=state.get("velocity"))
        replies = self.local.call.ask_some(channel, {channel.hospitals[k]: request})
        for reply in replies.values():
            weights = weights + reply.update

        return {**state, "weights": weights, **mean_velocity(replies)}
