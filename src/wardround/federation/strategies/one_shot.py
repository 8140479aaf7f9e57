"""One shot: every hospital fits a linear head to the end, and the server takes the mean of the weights, once.

Each head is noised before it leaves, or the hospitals add shares of the noise and only the sum is seen; the mean is
post-processing. Every hospital counts alike: patient counts would be facts about patients.

Source: Zhang, Wainwright and Duchi 2012, https://arxiv.org/abs/1209.4129 (averaging of minimisers).
"""

from dataclasses import dataclass

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.strategy import Call, State, Strategy
from wardround.work import FittedHead, HeadFit


@dataclass(frozen=True)
class OneShot(Strategy):
    """A single round in which everything is fitted; the aggregator forms the sum of the weights."""

    call: Call
    aggregator: Aggregator
    fit: HeadFit

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        requests = dict.fromkeys(channel.hospitals, self.call.request(FittedHead(self.fit), round))
        total, hospitals = self.call.ask_sum(channel, requests, self.aggregator)
        return {"weights": total / np.float32(hospitals)}
