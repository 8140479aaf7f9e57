"""Asynchronous: hospitals finish when they finish, and the server mixes in what comes, late work less.

A round is one arrival. Which hospital finishes next is a public timetable in a simulation. A hospital starts from
the model it was given when it last finished; when that is more than `staleness` rounds old, its work is thrown away
unasked and it starts from the oldest model that is still near enough: a bound that is kept, not hoped for.

Source: Xie et al. 2019 (FedAsync), Algorithm 1 with polynomial staleness, https://arxiv.org/abs/1903.03934; the bound
is that of Ho et al. 2013 (stale synchronous parallel).
"""

from dataclasses import dataclass

import numpy as np

from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.strategy import State, Strategy
from wardround.federation.timetable import Timetable
from wardround.types import Vector


@dataclass(frozen=True)
class Asynchronous(Strategy):
    """One arrival after the other.

    Attributes:
        timetable: who finishes in which round; one hospital a round.
        mixing: weight of work that is not late.
        staleness: rounds that a model may be old when work on it arrives.
        power: work that is s rounds late weighs mixing / (1 + s) ** power.
    """

    local: LocalTraining
    timetable: Timetable
    mixing: float
    staleness: int
    power: float

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`: with the round in which each hospital was last given a model."""
        given = np.zeros(len(channel.hospitals), dtype=np.float32)
        return {"weights": weights, **self.local.counts(channel), "given": given, "model/0": weights}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, given = state["weights"], state["given"].copy()

        [k] = self.timetable.asked(round)
        start = max(int(given[k]), round - 1 - self.staleness)
        old = state[f"model/{start}"]
        request = self.local.request(round, state, k, old)
        replies = self.local.call.ask_some(channel, {channel.hospitals[k]: request})
        late = round - 1 - start
        for reply in replies.values():
            share = np.float32(self.mixing / (1 + late) ** self.power)
            weights = weights + share * (old + reply.update - weights)
        given[k] = round

        kept = {name: array for name, array in state.items() if not name.startswith("model/")}
        oldest = round - self.staleness
        models = {f"model/{r}": state[f"model/{r}"] for r in range(max(0, oldest), round)}
        return {**kept, "weights": weights, "given": given, **models, f"model/{round}": weights}
