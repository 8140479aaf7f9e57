"""Selective sharing: hospitals train replicas of their own, and exchange only some parameters with a server.

A round is one hospital's turn. It fetches the parameters that were updated most often, overwrites them in its
replica, takes its steps, and sends the changes of a few parameters, cut to a size; the server adds them. The server
sees each hospital's changes by themselves, so each protects its own.

The counter of updates is computed from what was sent, and whose turn it is, is public: both are free.

Source: Shokri and Shmatikov 2015, Figures 3 and 4, https://doi.org/10.1145/2810103.2813687; round robin, random order,
and, with a hospital drawn anew for every turn, the order in which free-running hospitals arrive one at a time.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.federation.channel import Channel
from wardround.federation.local_training import LocalTraining
from wardround.federation.strategy import State
from wardround.federation.timetable import Order, Timetable
from wardround.reproduce.mechanisms.selective.section import SelectiveSection
from wardround.types import Vector
from wardround.work import LocalSteps, Selection, SelectiveUpdate

_TURNS = {"fixed": Order.FIXED, "random": Order.RANDOM, "stochastic": Order.STOCHASTIC}


@dataclass(frozen=True)
class Selective:
    """One turn after the other.

    Attributes:
        timetable: whose turn it is; one hospital a round.
        download_fraction: share of the parameters that a hospital fetches.
        upload_fraction: share of the parameters that it sends, at most.
        random: it sends a draw of the changes above the threshold, else the largest of them.
        threshold: changes of this size or less are not sent.
        truncation: changes are cut to this size.
        counter_decay: the counter is multiplied by this in every turn.
    """

    local: LocalTraining
    timetable: Timetable
    download_fraction: float
    upload_fraction: float
    random: bool
    threshold: float
    truncation: float
    counter_decay: float

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`: with how often each parameter was sent, (parameter,)."""
        return {"weights": weights, **self.local.counts(channel), "counter": np.zeros_like(weights)}

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, counter = state["weights"], state["counter"]

        [k] = self.timetable.asked(round)
        positions = most_updated(counter, self.download_fraction)
        selection = Selection(positions, self.upload_fraction, self.random, self.threshold, self.truncation)
        work = SelectiveUpdate(weights[positions], self.local.steps_for(state, k), selection)
        request = self.local.call.request(work, round)
        replies = self.local.call.ask_some(channel, {channel.hospitals[k]: request})
        counter = np.float32(self.counter_decay) * counter
        for reply in replies.values():
            weights = weights + reply.update
            counter = counter + (reply.update != 0)

        return {**state, "weights": weights, "counter": counter.astype(np.float32)}

    def models(self, state: State) -> dict[str, Vector]:
        """See `Strategy`: the server's."""
        return {"global": state["weights"]}


def most_updated(counter: Vector, fraction: float) -> npt.NDArray[np.int64]:
    """Positions of that share of the parameters with the highest counts, ascending; ties go in order."""
    number = max(1, round(fraction * counter.size))
    return np.sort(np.argsort(-counter, kind="stable")[:number])


def timetable_of(section: SelectiveSection, hospitals: int) -> Timetable:
    """Returns the hospital asked in each round."""
    return Timetable(hospitals, _TURNS[section.turns], seed=section.timetable_seed)


def work_of(section: SelectiveSection, steps: LocalSteps) -> SelectiveUpdate:
    """Returns the work that hospitals are asked for, without the model."""
    nothing = Selection(
        np.zeros(0, dtype=np.int64), section.upload_fraction, section.selection == "random", section.threshold,
        section.truncation,
    )  # fmt: skip
    return SelectiveUpdate(np.zeros(0, dtype=np.float32), steps, nothing)


def selects_as(agreed: Selection, asked: Selection) -> bool:
    """Returns whether a hospital is asked to choose changes as the study says.

    The positions that it fetches follow from what was sent before, and may be any.
    """
    return (agreed.fraction, agreed.random, agreed.threshold, agreed.truncation) == (
        asked.fraction, asked.random, asked.threshold, asked.truncation,
    )  # fmt: skip


def strategy_of(section: SelectiveSection, local: LocalTraining, timetable: Timetable) -> Selective:
    """Returns the strategy of a study."""
    return Selective(
        local, timetable,
        download_fraction=section.download_fraction,
        upload_fraction=section.upload_fraction,
        random=section.selection == "random",
        threshold=section.threshold,
        truncation=section.truncation,
        counter_decay=section.counter_decay,
    )  # fmt: skip
