"""FedAvg: every round, some hospitals take steps of their own, and the server averages what came of it.

Where gradients are noised, each hospital adds its full noise at every local step, so what it sends is already
private against everyone else; where updates are noised, the sum is what the plan protects. The average is
post-processing. Its weights are fixed and public: patient counts would be facts about patients.

With `LocalTraining.proximal` this is FedProx, with a `ServerOptimizer` FedAvgM, FedAdam and FedYogi; with one step
and no momentum it is FedSGD. Hospitals' velocities start from rest, or, where they are kept, from their last mean.

Source: McMahan et al. 2017, Algorithm 1, https://arxiv.org/abs/1602.05629.
"""

from dataclasses import dataclass, field

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Replies
from wardround.federation.server import ServerOptimizer, own_part
from wardround.federation.strategy import State
from wardround.federation.timetable import Timetable
from wardround.types import HospitalName, Vector


@dataclass(frozen=True)
class FedAvg:
    """Local steps, then the mean of the updates.

    Attributes:
        local: what a hospital is asked.
        aggregator: forms the sum of the updates.
        timetable: who is asked in which round.
        server: what is done with the mean.
        shares: public weight of each hospital, by position; None for equal ones. They need single replies.
    """

    local: LocalTraining
    aggregator: Aggregator
    timetable: Timetable
    server: ServerOptimizer = field(default_factory=ServerOptimizer)
    shares: tuple[float, ...] | None = None

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        return {"weights": weights, **self.local.counts(channel), **self.server.init(weights)}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, names = state["weights"], channel.hospitals

        asked = {names[k]: k for k in self.timetable.asked(round)}
        velocity = state.get("velocity")
        requests = {
            name: self.local.request(round, state, k, weights, velocity=velocity) for name, k in asked.items()
        }
        replies = self.local.call.ask(channel, requests)
        mean = self._mean(replies, asked, round)
        weights, server = self.server.step(own_part(state), weights, mean)

        return {**state, "weights": weights, **server, **mean_velocity(replies)}

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`."""
        return {"global": state["weights"]}

    def _mean(self, replies: Replies, asked: dict[HospitalName, int], round: int) -> Vector:
        if self.shares is None:
            return self.aggregator.sum(replies, round) / np.float32(len(replies))
        shares = np.array([self.shares[asked[name]] for name in replies], dtype=np.float32)
        updates = np.stack([reply.update for reply in replies.values()])
        return np.asarray(shares / shares.sum() @ updates, dtype=np.float32)


def mean_velocity(replies: Replies) -> State:
    """The mean of the velocities that came back, if any did."""
    velocities = [reply.velocity for reply in replies.values() if reply.velocity is not None]
    return {"velocity": np.mean(velocities, axis=0, dtype=np.float32)} if velocities else {}
