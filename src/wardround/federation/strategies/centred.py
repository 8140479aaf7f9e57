"""Rounds before training that release the mean row of all patients, and training on rows less that mean.

Released: in each of these rounds one noised sum of the patients' mean rows, by the same part of the plan, with the same
sensitivity, noise and charge as a round of training. The sum of R such sums is one release with noise smaller by
sqrt(R) to its size: R rounds of T take the share R / T of mu squared. The mean row is public from then on, and every
request of a gradient has it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.strategy import Call, State, Strategy
from wardround.types import Vector
from wardround.work import RowSum


@dataclass(frozen=True)
class Centred:
    """A strategy of one head, and rounds before it.

    Attributes:
        inner: trains, in the rounds after the first `rounds`; its requests have the centre of the state.
        centre_of: the centre from the sum of these rounds, and the number of patients.
        fold: the model on rows as they are, from that on rows less a centre.
    """

    inner: Strategy
    call: Call
    aggregator: Aggregator
    rounds: int
    centre_of: Callable[[Vector, float], Vector]
    fold: Callable[[Vector, Vector], Vector]

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        return self.inner.init(weights, channel)

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        if round > self.rounds:
            return self.inner.update(state, channel, round)
        request = self.call.request(RowSum(state["weights"]), round)
        rows, _ = self.call.ask_sum(channel, dict.fromkeys(channel.hospitals, request), self.aggregator)
        sums = state["rows"] + rows if "rows" in state else rows
        found = {**state, "rows": sums}
        if round == self.rounds:
            found["centre"] = self.centre_of(sums, float(state["num_patients"][0]))
        return found

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`."""
        if "centre" not in state:
            return self.inner.models(state)
        return {name: self.fold(weights, state["centre"]) for name, weights in self.inner.models(state).items()}
