"""FedAvg: every round, each hospital takes some private steps of its own, and the server averages the models.

Each hospital adds its full noise at every local step, so what it sends is already private against everyone
else; the average is post-processing. The weights of the average are fixed and public: equal.

Source: McMahan et al. 2017, Algorithm 1, https://arxiv.org/abs/1602.05629, with equal weights instead of
patient counts, which would publish them.
"""

from dataclasses import dataclass, replace

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.messages import Task
from wardround.federation.strategy import Call, State
from wardround.types import LocalSteps, Vector


@dataclass(frozen=True)
class FedAvg:
    """Local steps, then the mean of the models.

    Attributes:
        call: how hospitals are asked.
        aggregator: forms the sum of the updates.
        local_steps: private steps of a hospital in a round.
        learning_rate: step size at the hospital.
        momentum: at the hospital, from rest in every round.
        sampling_prob: probability of a patient in a step, the plan's.
        num_patients: public size of the training set over all hospitals, taken to be spread evenly; None asks
            every hospital for a private count before round 1.
    """

    call: Call
    aggregator: Aggregator
    local_steps: int
    learning_rate: float
    momentum: float
    sampling_prob: float
    num_patients: int | None

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        hospitals = channel.hospitals
        if self.num_patients is None:
            replies = self.call.ask(channel, {h: self.call.request(Task.COUNT, 0) for h in hospitals})
            counts = np.array([replies[h].update[0] if h in replies else 1.0 for h in hospitals])
        else:
            counts = np.full(len(hospitals), self.num_patients / len(hospitals))
        return {"weights": weights, "num_patients": np.maximum(counts, 1).astype(np.float32)}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, num_patients = state["weights"], state["num_patients"]

        ask = self.call.request(Task.LOCAL_STEPS, round, weights)
        requests = {
            hospital: replace(ask, local=self._local(float(count)))
            for hospital, count in zip(channel.hospitals, num_patients, strict=True)
        }
        replies = self.call.ask(channel, requests)
        mean_update = self.aggregator.sum(replies, round) / np.float32(len(replies))

        return {"weights": weights + mean_update, "num_patients": num_patients}

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`."""
        return {"global": state["weights"]}

    def _local(self, num_patients: float) -> LocalSteps:
        return LocalSteps(
            steps=self.local_steps,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            denominator=self.sampling_prob * num_patients,
        )
