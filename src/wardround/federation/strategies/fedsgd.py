"""FedSGD: every round, one clipped and noised gradient sum over all hospitals, and one step of the server.

Because the sum over the hospitals is the sum over the union of their patients, this is DP-SGD on the pooled
data, step by step, and so is its guarantee. Momentum sits at the server, where it is only post-processing.

Source: McMahan et al. 2017, section 2 ("FedSGD"), https://arxiv.org/abs/1602.05629; with noise shares,
Malekzadeh et al. 2021 (Dopamine), Algorithm 1, https://arxiv.org/abs/2101.11693, momentum moved to the server
and the sum divided by a public constant.
"""

from dataclasses import dataclass

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.messages import Task
from wardround.federation.strategy import Call, State
from wardround.types import Vector


@dataclass(frozen=True)
class FedSGD:
    """One gradient a round.

    Attributes:
        call: how hospitals are asked.
        aggregator: forms the noised sum.
        learning_rate: step of the server.
        momentum: heavy ball at the server.
        sampling_prob: probability of a patient in a round, the plan's.
        num_patients: public size of the training set; None asks for a private count before round 1.
    """

    call: Call
    aggregator: Aggregator
    learning_rate: float
    momentum: float
    sampling_prob: float
    num_patients: int | None

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        if self.num_patients is None:
            replies = self.call.ask(channel, {h: self.call.request(Task.COUNT, 0) for h in channel.hospitals})
            count = self.aggregator.sum(replies, 0)
        else:
            count = np.array([self.num_patients], dtype=np.float32)
        # A noised count may fall below the truth, even below zero; the step stays finite.
        return {"weights": weights, "velocity": np.zeros_like(weights), "num_patients": np.maximum(count, 1)}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, velocity, num_patients = state["weights"], state["velocity"], state["num_patients"]

        requests = {h: self.call.request(Task.GRADIENT_SUM, round, weights) for h in channel.hospitals}
        replies = self.call.ask(channel, requests)
        noised_sum = self.aggregator.sum(replies, round)

        # Divided by a public constant, never by the realised number of patients.
        gradient = noised_sum / (np.float32(self.sampling_prob) * num_patients)
        velocity = np.float32(self.momentum) * velocity + gradient
        weights = weights - np.float32(self.learning_rate) * velocity
        return {"weights": weights, "velocity": velocity, "num_patients": num_patients}

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`."""
        return {"global": state["weights"]}
