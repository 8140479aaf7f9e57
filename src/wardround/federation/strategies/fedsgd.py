"""FedSGD: every round, one clipped and noised gradient sum over all hospitals, and one step of the server.

Because the sum over the hospitals is the sum over the union of their patients, this is DP-SGD on the pooled
data, step by step, and so is its guarantee. Momentum sits at the server, where it is only post-processing.

Source: McMahan et al. 2017, section 2 ("FedSGD"), https://arxiv.org/abs/1602.05629; with noise shares,
Malekzadeh et al. 2021 (Dopamine), Algorithm 1, https://arxiv.org/abs/2101.11693, momentum moved to the server
and the sum divided by a public constant.
"""

from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel
from wardround.federation.robust import contributions
from wardround.federation.strategy import Call, State, Strategy
from wardround.types import Vector
from wardround.work import CountPatients, GradientSum


class Follows(Protocol):
    """A clipping norm that follows the gradients."""

    def separated(
        self, released: Vector, expected_patients: float, clipping_norm: float, unit: float
    ) -> tuple[Vector, float]:
        """The gradient sum, and the next round's clipping norm, from what was released."""


@dataclass(frozen=True)
class PerPatient:
    """A learning rate in proportion to the number of patients, which is public or noised.

    Attributes:
        each: rate of one patient.
        most: the rate is never larger.
    """

    each: float
    most: float

    def at(self, num_patients: float) -> float:
        """Returns the learning rate for a number of patients."""
        return min(self.most, self.each * num_patients)


Rate: TypeAlias = float | PerPatient


@dataclass(frozen=True)
class FedSGD(Strategy):
    """One gradient a round.

    Attributes:
        learning_rate: step size; a private head's follows from the number of patients.
        momentum: heavy ball at the server.
        sampling_prob: probability of a patient in a round, the plan's; of fixed cohorts, one of their number.
        num_patients: public size of the training set; None asks for a private count before round 1.
        clipping_norm: the plan's; sums come in units of it.
        adaptive: how each round's clipping norm follows from the sum before it; None keeps it.
        left_out_from: first of as many rounds as there are hospitals, each of which leaves one out; 0: there are none.
            The last of them gives the hospitals' contributions.
    """

    call: Call
    aggregator: Aggregator
    learning_rate: Rate
    momentum: float
    sampling_prob: float
    num_patients: int | None
    clipping_norm: float = 1.0
    adaptive: Follows | None = None
    left_out_from: int = 0

    def init(self, weights: Vector, channel: Channel) -> State:
        """See `Strategy`."""
        if self.num_patients is None:
            requests = dict.fromkeys(channel.hospitals, self.call.request(CountPatients(), 0))
            count, _ = self.call.ask_sum(channel, requests, self.aggregator)
        else:
            count = np.array([self.num_patients], dtype=np.float32)
        # A noised count may fall below the truth, even below zero; the step stays finite.
        state = {"weights": weights, "velocity": np.zeros_like(weights), "num_patients": np.maximum(count, 1)}
        if self.adaptive is not None:
            state["clipping_norm"] = np.array([self.clipping_norm], dtype=np.float32)
        return state

    def update(self, state: State, channel: Channel, round: int) -> State:
        """See `Strategy`."""
        weights, velocity, num_patients = state["weights"], state["velocity"], state["num_patients"]

        clipping_norm = None if self.adaptive is None else float(state["clipping_norm"][0])
        request = self.call.request(GradientSum(weights, clipping_norm, state.get("centre")), round)
        requests, call = dict.fromkeys(channel.hospitals, request), self.call
        # Divided by a public constant, never by the realised number of patients.
        expected = np.float32(self.sampling_prob) * num_patients
        left_out = round - self.left_out_from if 0 < self.left_out_from <= round else None
        if left_out is not None:
            del requests[channel.hospitals[left_out]]  # one of those whose share of the noise may be missing
            call = replace(call, allowed_missing=max(0, call.allowed_missing - 1))
            expected = expected * np.float32(len(requests) / len(channel.hospitals))
        noised_sum, _ = call.ask_sum(channel, requests, self.aggregator)
        if self.adaptive is not None and clipping_norm is not None:
            noised_sum, following = self.adaptive.separated(
                noised_sum, float(expected[0]), clipping_norm, self.clipping_norm
            )
            state = {**state, "clipping_norm": np.array([following], dtype=np.float32)}
        else:
            norm = np.linalg.norm(noised_sum.astype(np.float64))
            state = {**state, "sum_norm": np.array([norm], dtype=np.float32)}
        if left_out is not None:
            sums = state["left_out"] if left_out else np.zeros((len(channel.hospitals), weights.size), np.float32)
            sums = np.concatenate([sums[:left_out], noised_sum[None], sums[left_out + 1 :]])
            state = {**state, "left_out": sums}
            if left_out == len(requests):
                state = {**state, "contributions": contributions(sums)}
        gradient = noised_sum / expected
        velocity = np.float32(self.momentum) * velocity + gradient
        rate = self.learning_rate
        step = np.float32(rate.at(float(num_patients[0])) if isinstance(rate, PerPatient) else rate)
        weights = weights - step * velocity
        return {**state, "weights": weights, "velocity": velocity}
