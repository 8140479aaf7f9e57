"""Rounds after training that release moments of class scores at the final model, for thresholds and calibration.

Released: in each of these rounds one noised sum of the patients' moments, by the same part of the plan, with the same
sensitivity, noise and charge as a round of training. The mean of S such sums is one release with noise smaller by
sqrt(S): S rounds of T + S take the share S / (T + S) of mu squared.
"""

from dataclasses import dataclass

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.strategy import Call, State, Strategy
from wardround.types import Vector
from wardround.work import ScoreSum


def average_from(rounds: int, average_last: float) -> int:
    """Returns the first of some rounds whose weights are averaged, of a share from the end; the last one of none."""
    return min(rounds, 1 + round(rounds * (1 - average_last)))


@dataclass(frozen=True)
class Scored:
    """A strategy of one model, and rounds after it.

    Attributes:
        inner: trains, in the first `rounds` rounds.
        average_from: first round whose weights count in the final model.
    """

    inner: Strategy
    call: Call
    aggregator: Aggregator
    rounds: int
    average_from: int

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        return self.inner.init(weights, channel)

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        if round > self.rounds:
            request = self.call.request(ScoreSum(state["mean"]), round)
            moments, _ = self.call.ask_sum(channel, dict.fromkeys(channel.hospitals, request), self.aggregator)
            sums = state["moments"] + moments if "moments" in state else moments
            return {**state, "moments": sums, "score_rounds": np.array([round - self.rounds], dtype=np.float32)}
        after = self.inner.update(state, channel, round)
        if round < self.average_from:
            return after
        [weights] = self.inner.models(after).values()
        before = state.get("mean", weights)
        share = np.float32(1 / (round - self.average_from + 1))
        return {**after, "mean": before + (weights - before) * share}

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`. After training it is the averaged model, whose scores are asked for."""
        return {"global": state["mean"]} if "moments" in state else self.inner.models(state)
