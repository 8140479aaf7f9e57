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

from wardround.federation.aggregators import Aggregator, sum_of
from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.messages import Answers, Requests
from wardround.federation.server import ServerOptimizer, own_part
from wardround.federation.strategy import State, Strategy
from wardround.federation.timetable import Timetable
from wardround.types import HospitalName, Vector


@dataclass(frozen=True)
class FedAvg(Strategy):
    """Local steps, then the mean of the updates.

    Attributes:
        timetable: who is asked in which round.
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
        mean, velocities = self._mean(channel, requests, asked)
        weights, server = self.server.step(own_part(state), weights, mean)

        return {**state, "weights": weights, **server, **velocities}

    def _mean(self, channel: Channel, requests: Requests, asked: dict[HospitalName, int]) -> tuple[Vector, State]:
        """Returns the mean update and the mean velocity, where velocities travel."""
        call = self.local.call
        if self.shares is None and not self.local.keep_velocity:
            total, hospitals = call.ask_sum(channel, requests, self.aggregator)
            return total / np.float32(hospitals), {}
        answers = call.ask(channel, requests)
        if self.shares is None:
            return sum_of(a.update for a in answers.values()) / np.float32(len(answers)), mean_velocity(answers)
        shares = np.array([self.shares[asked[name]] for name in answers], dtype=np.float32)
        updates = np.stack([answer.update for answer in answers.values()])
        return np.asarray(shares / shares.sum() @ updates, dtype=np.float32), mean_velocity(answers)


def mean_velocity(answers: Answers) -> State:
    """Returns the mean of the velocities that came back, if any did."""
    velocities = [answer.velocity for answer in answers.values() if answer.velocity is not None]
    return {"velocity": np.mean(velocities, axis=0, dtype=np.float32)} if velocities else {}
