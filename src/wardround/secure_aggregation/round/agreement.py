"""The agreement of a run's hospitals before its first round; each makes the terms of a round from it by itself."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.round.transcript import Parameter, Summed, Terms
from wardround.secure_aggregation.round.witness import WITNESSES


@dataclass(frozen=True)
class Agreement:
    """The public parameters of all masked sums of a run.

    Attributes:
        run: names the run, and no other.
        study: hash of the resolved study, 64 hexadecimal digits.
        mechanism: of a round in which no hospital is missing; its dimension counts parameters and witnesses.
        clipping: how patients' gradients are brought to the clipping norm, with every parameter of it, by name.
        rounds: of training; 0 where nothing is trained, and `mechanism` is then that of the evaluation.
        count: the mechanism of the count of patients before round 1; None where their number is public.
        evaluation: the mechanism of the test patients' histograms after the last round; None where none leave.
    """

    run: str
    study: str
    mechanism: IntegerMechanism
    rounds: int
    code_version: str
    clipping: Mapping[str, Parameter] = field(default_factory=dict)
    count: IntegerMechanism | None = None
    evaluation: IntegerMechanism | None = None

    @property
    def sums(self) -> int:
        """Sums that are opened over the run."""
        return self.rounds + (self.count is not None) + (self.evaluation is not None)

    @property
    def minimum(self) -> int:
        """Hospitals without which no round happens: with fewer, the noise would fall short of the promise."""
        return self.mechanism.shares.hospitals - self.mechanism.shares.dropouts

    def mechanism_for(self, hospitals: int, round: int) -> IntegerMechanism:
        """Returns the mechanism of an attempt at a round with that many hospitals.

        Round 0 is the count, and the round after the last one the evaluation.

        A missing hospital was foreseen as a dropout and is one no longer, so as many shares are relied on as before:
        grid, sensitivity and share stay what they were, and so does the cost of the release.

        Raises:
            FederationError: more hospitals are missing than were foreseen, or there are more than agreed; or a count
                or an evaluation is asked for and none was agreed on.
        """
        match self.summed(round):
            case Summed.COUNT:
                agreed = self.count
            case Summed.GRADIENTS:
                agreed = self.mechanism
            case Summed.HISTOGRAMS:
                agreed = self.evaluation
        if agreed is None:
            raise FederationError(
                f"A sum in round {round} must have been agreed on, and this run has none there; nothing is sent."
            )
        shares = agreed.shares
        missing = shares.hospitals - hospitals
        if not 0 <= missing <= shares.dropouts:
            raise FederationError(
                f"An attempt must have {self.minimum} to {shares.hospitals} hospitals, got {hospitals}; "
                "nothing is sent. Wait for more of them, or plan for more dropouts."
            )
        return replace(agreed, shares=replace(shares, hospitals=hospitals, dropouts=shares.dropouts - missing))

    def summed(self, round: int) -> Summed:
        """Returns the kind of sum of a round."""
        if round == 0:
            return Summed.COUNT
        return Summed.GRADIENTS if round <= self.rounds else Summed.HISTOGRAMS

    def terms(
        self,
        round: int,
        attempt: int,
        hospitals: int,
        weights: npt.NDArray[np.floating[Any]] | None,
        clipping_norm: float | None = None,
    ) -> Terms:
        """Returns the terms of one attempt at the sum of a round, of a model with these weights, (parameter,).

        `clipping_norm` is that of the round, where norms adapt.
        """
        mechanism = self.mechanism_for(hospitals, round)
        model = b"" if weights is None else np.ascontiguousarray(weights).data
        summed = self.summed(round)
        clipping = dict(self.clipping) if summed is Summed.GRADIENTS else {}
        if clipping_norm is not None:
            clipping["clipping_norm_of_round"] = clipping_norm
        return Terms(
            run=self.run,
            study=self.study,
            summed=summed,
            round=round,
            attempt=attempt,
            model=hashlib.sha256(model).hexdigest(),
            hospitals=hospitals,
            mechanism={**mechanism.parameters, "witnesses": WITNESSES, **clipping},
            length=mechanism.dimension,
            ring=mechanism.ring,
            code_version=self.code_version,
        )
