"""SCAFFOLD: local steps that are corrected by how far a hospital's gradients usually are from everybody's.

The control variates are kept by the server: option II of the source computes them from the update alone, so nothing
but the update leaves a hospital, and a hospital that was away for some rounds has forgotten nothing.

Source: Karimireddy et al. 2019, Algorithm 1, option II, https://arxiv.org/abs/1910.06378. Its equation for the local
step has no momentum; neither has this.
"""

from dataclasses import dataclass

import numpy as np

from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.strategy import State, Strategy
from wardround.federation.timetable import Timetable
from wardround.types import Vector


@dataclass(frozen=True)
class Scaffold(Strategy):
    """FedAvg with control variates; local steps have no momentum, and `learning_rate` is that of the server."""

    local: LocalTraining
    timetable: Timetable
    learning_rate: float = 1.0

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        variates = np.zeros((len(channel.hospitals), weights.size), dtype=np.float32)
        return {"weights": weights, **self.local.counts(channel), "variates": variates}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, variates, names = state["weights"], state["variates"], channel.hospitals
        common = variates.mean(axis=0)

        asked = {names[k]: k for k in self.timetable.asked(round)}
        requests = {
            name: self.local.request(round, state, k, weights, correction=common - variates[k])
            for name, k in asked.items()
        }
        replies = self.local.call.ask(channel, requests)

        variates = variates.copy()
        for name, reply in replies.items():
            k = asked[name]
            path = np.float32(self.local.learning_rate * self.local.steps_of(state, k))
            variates[k] += -common - reply.update / path
        mean = np.mean([reply.update for reply in replies.values()], axis=0, dtype=np.float32)
        return {**state, "weights": weights + np.float32(self.learning_rate) * mean, "variates": variates}
