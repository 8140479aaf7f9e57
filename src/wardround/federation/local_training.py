"""Local training as every strategy with local steps asks for it, and the public numbers needed before round 1."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from wardround.federation.channel import Channel
from wardround.federation.messages import Request
from wardround.federation.strategy import Call, State
from wardround.types import Vector
from wardround.work import CountClasses, CountPatients, LocalSteps, LocalUpdate


class Repair(StrEnum):
    """Compensation for unequal hospitals, by numbers that are public or counted with noise.

    Source: Balachandar et al. 2020, https://doi.org/10.1093/jamia/ocaa017: proportional local training iterations,
    locally weighted mini-batch sampling, cyclically weighted loss.
    """

    NONE = "none"
    PROPORTIONAL = "proportional"
    """Steps in proportion to a hospital's patients; the largest takes all of them."""
    WEIGHTED_SAMPLING = "weighted-sampling"
    """Patients of a hospital's commoner classes are drawn more seldom, so that classes come equally often."""
    WEIGHTED_LOSS = "weighted-loss"
    """Each class weighs as much in a hospital's loss as any other."""

    @property
    def counts_classes(self) -> bool:
        """True if it needs each hospital's patients by class."""
        return self in (Repair.WEIGHTED_SAMPLING, Repair.WEIGHTED_LOSS)


@dataclass(frozen=True)
class LocalTraining:
    """Local steps at one hospital, as a strategy asks for them.

    Attributes:
        steps: steps of a hospital in a visit, at most.
        sampling_prob: probability of a patient in a step, the plan's.
        num_patients: public size of the training set over all hospitals, taken to be spread evenly; None asks
            every hospital for a private count before round 1.
        own_size: each hospital divides by its own number of patients, which leaves it only through a mechanism on
            its whole update; no patient is counted.
        proximal: FedProx's mu.
        keep_velocity: the velocity travels with the model; else it starts from rest at every visit.
    """

    call: Call
    steps: int
    learning_rate: float
    momentum: float
    sampling_prob: float
    num_patients: int | None
    own_size: bool = False
    proximal: float = 0.0
    keep_velocity: bool = False
    repair: Repair = Repair.NONE

    def counts(self, channel: Channel) -> State:
        """Returns patients of each hospital, (hospital,), and by class, (hospital, class), as far as needed."""
        hospitals = channel.hospitals
        if self.repair.counts_classes:
            replies = self.call.ask(channel, {h: self.call.request(CountClasses(), 0) for h in hospitals})
            ones = np.ones_like(next(iter(replies.values())).update)
            classes = np.stack([replies[h].update if h in replies else ones for h in hospitals])
            classes = np.maximum(classes, 1).astype(np.float32)  # a noised count may fall below zero
            return {"class_counts": classes, "num_patients": classes.sum(axis=1)}
        if self.num_patients is not None or self.own_size:
            return {"num_patients": np.full(len(hospitals), self._public_size(len(hospitals)), dtype=np.float32)}
        replies = self.call.ask(channel, {h: self.call.request(CountPatients(), 0) for h in hospitals})
        found = [replies[h].update[0] if h in replies else 1.0 for h in hospitals]
        return {"num_patients": np.maximum(np.array(found, dtype=np.float32), 1)}

    def steps_of(self, state: State, position: int) -> int:
        """Returns the steps that the hospital at that position takes in a visit."""
        if self.repair is not Repair.PROPORTIONAL:
            return self.steps
        counts = state["num_patients"]
        return max(1, round(self.steps * float(counts[position] / counts.max())))

    def request(
        self,
        round: int,
        state: State,
        position: int,
        weights: Vector,
        *,
        correction: Vector | None = None,
        velocity: Vector | None = None,
    ) -> Request:
        """Returns the request to the hospital at that position in a round."""
        work = LocalUpdate(weights, self.steps_for(state, position, correction=correction, velocity=velocity))
        return self.call.request(work, round)

    def steps_for(
        self, state: State, position: int, *, correction: Vector | None = None, velocity: Vector | None = None
    ) -> LocalSteps:
        """Returns the local steps of the hospital at that position."""
        shares = self._class_shares(state, position)
        return LocalSteps(
            steps=self.steps_of(state, position),
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            denominator=None if self.own_size else self.sampling_prob * float(state["num_patients"][position]),
            proximal=self.proximal,
            correction=correction,
            velocity=velocity,
            keep_velocity=self.keep_velocity,
            class_weights=shares if self.repair is Repair.WEIGHTED_LOSS else None,
            class_sampling=shares if self.repair is Repair.WEIGHTED_SAMPLING else None,
        )

    def asks_for(self, steps: LocalSteps, hospitals: int, *, corrected: bool) -> bool:
        """Returns whether one of so many hospitals may be asked for these steps.

        Numbers of the study are as the study has them. Those that follow from counts, which a hospital does not know,
        are within what `steps_for` makes of any count.

        Args:
            steps: as asked for.
            hospitals: of the federation.
            corrected: the strategy corrects gradients (SCAFFOLD).
        """
        of_study = (self.learning_rate, self.momentum, self.proximal, self.keep_velocity)
        return (
            (steps.learning_rate, steps.momentum, steps.proximal, steps.keep_velocity) == of_study
            and (
                steps.steps == self.steps
                or (self.repair is Repair.PROPORTIONAL and 1 <= steps.steps <= self.steps)
            )
            and self._divides_by(steps.denominator, hospitals)
            and (corrected or steps.correction is None)
            and (self.keep_velocity or steps.velocity is None)
            and _are_shares(steps.class_weights, self.repair is Repair.WEIGHTED_LOSS)
            and _are_shares(steps.class_sampling, self.repair is Repair.WEIGHTED_SAMPLING)
        )

    def _divides_by(self, denominator: float | None, hospitals: int) -> bool:
        if self.own_size or denominator is None:
            return self.own_size and denominator is None
        if self.num_patients is None:  # counted: one patient or more
            return self.sampling_prob <= denominator < math.inf
        return denominator == self.sampling_prob * float(np.float32(self._public_size(hospitals)))

    def _public_size(self, hospitals: int) -> float:
        """Returns the patients of one hospital, where their number is public or its own."""
        return max(1, 1 if self.num_patients is None else self.num_patients / hospitals)

    def _class_shares(self, state: State, position: int) -> tuple[float, ...] | None:
        """Returns the rarest class's number over each class's number at one hospital: at most 1."""
        if not self.repair.counts_classes:
            return None
        counts = state["class_counts"][position]
        return tuple(float(share) for share in counts.min() / counts)


def _are_shares(shares: tuple[float, ...] | None, wanted: bool) -> bool:
    """Returns whether there are shares of classes exactly where they are wanted, each as `steps_for` makes them."""
    if shares is None or not wanted:
        return not wanted and shares is None
    return all(0 < share <= 1 for share in shares)
