"""What the hospitals of a run agree on before its first round; each makes the terms of a round from it by itself."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.transcript import Parameter, Terms
from wardround.secure_aggregation.witness import WITNESSES


@dataclass(frozen=True)
class Agreement:
    """The public parameters of all masked sums of a run.

    Attributes:
        run: names the run, and no other.
        study: hash of the resolved study, 64 hexadecimal digits.
        mechanism: of a round in which no hospital is missing; its dimension counts parameters and witnesses.
        rounds: of the run.
        code_version: of Wardround.
        clipping: how patients' gradients are brought to the clipping norm, with every parameter of it, by name.
    """

    run: str
    study: str
    mechanism: IntegerMechanism
    rounds: int
    code_version: str
    clipping: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def minimum(self) -> int:
        """Hospitals without which no round happens: with fewer, the noise would fall short of the promise."""
        return self.mechanism.hospitals - self.mechanism.dropouts

    def mechanism_for(self, hospitals: int) -> IntegerMechanism:
        """The mechanism of an attempt with that many hospitals.

        Who is missing was foreseen as a dropout and is one no longer, so that as many shares are relied on as before:
        grid, sensitivity and share stay what they were, and so does the cost of the release.

        Raises:
            FederationError: more hospitals are missing than were foreseen, or there are more than agreed.
        """
        missing = self.mechanism.hospitals - hospitals
        if not 0 <= missing <= self.mechanism.dropouts:
            raise FederationError(
                f"An attempt must have {self.minimum} to {self.mechanism.hospitals} hospitals, got {hospitals}; "
                "nothing is sent. Wait for more of them, or plan for more dropouts."
            )
        return replace(self.mechanism, hospitals=hospitals, dropouts=self.mechanism.dropouts - missing)

    def terms(
        self,
        round: int,
        attempt: int,
        hospitals: int,
        weights: npt.NDArray[np.floating[Any]],
        clipping_norm: float | None = None,
    ) -> Terms:
        """The terms of one attempt at the sum of gradients at these weights, (parameter,).

        `clipping_norm` is that of the round, where norms adapt.
        """
        mechanism = self.mechanism_for(hospitals)
        of_round = {} if clipping_norm is None else {"clipping_norm_of_round": clipping_norm}
        return Terms(
            run=self.run,
            study=self.study,
            round=round,
            attempt=attempt,
            model=hashlib.sha256(np.ascontiguousarray(weights).data).hexdigest(),
            hospitals=hospitals,
            mechanism={**mechanism.parameters, "witnesses": WITNESSES, **self.clipping, **of_round},
            length=mechanism.dimension,
            ring=mechanism.ring,
            code_version=self.code_version,
        )
