"""Hospitals that are away or late, by a public timetable: a feature of simulation, drawn from a public seed.

A hospital that is away in a round is never reached: it is asked nothing, computes nothing and is charged nothing. A
hospital that is late was asked: its charge stands, and its answer is thrown away unopened. Charging an unused answer is
the looser count, and the right one: the answer had left the hospital. Either way the coordinator sees a failure, as of
a hospital that does not answer, and goes on if the plan foresaw as many missing noise shares.

Nothing is gained for privacy by being away: the timetable is public. It begins with round 1; for the counts before it
everybody is there. A study whose rounds or privacy plan cannot bear its absences is refused.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wardround.agreed.strategies import fewest_answers
from wardround.boundary.text import counted
from wardround.config import Study
from wardround.config.federation import OF_ONE, Averages
from wardround.errors import FederationError
from wardround.federation.channel import Channel
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Failures,
    Replies,
    Requests,
    Stage,
    Uploaded,
)
from wardround.federation.timetable import Timetable
from wardround.noisers import NoiseShares
from wardround.privacy.plans.plan import Plan
from wardround.types import HospitalName

Table = npt.NDArray[np.bool_]
"""(round, hospital); the first row is round 1."""

_NOBODY = Failure(FailureCode.NO_ANSWER, Stage.TRANSPORT)


@dataclass(frozen=True)
class Availability:
    """The hospitals that are away or late in each round.

    A hospital goes away and comes back by a Markov chain of two states, alike and independent for all hospitals.

    Attributes:
        hospitals: how many there are.
        rounds: of the run.
        absent_rate: share of the rounds in which a hospital is away, in the long run; in [0, 1).
        absent_rounds: how many rounds it then stays away, on average; >= 1.
        late_rate: probability that a hospital that is there answers too late.
        seed: of the draws; public.

    Raises:
        ValueError: absences so short that a hospital could not be away that often.
    """

    hospitals: int
    rounds: int
    absent_rate: float = 0.0
    absent_rounds: float = 1.0
    late_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses a chain that does not exist."""
        if self._leaves > 1:
            raise ValueError(
                f"absent_rate must be <= absent_rounds / (1 + absent_rounds), got {self.absent_rate:g} and "
                f"{self.absent_rounds:g}; lower it, or raise absent_rounds"
            )

    @property
    def _leaves(self) -> float:
        """Probability that a present hospital is away in the next round."""
        return self.absent_rate / (1 - self.absent_rate) / self.absent_rounds

    @cached_property
    def absent(self) -> Table:
        """The hospitals that are away. More rounds are more rows, and change none."""
        table = np.zeros((self.rounds, self.hospitals), dtype=np.bool_)
        away = np.zeros(self.hospitals, dtype=np.bool_)
        for row in range(self.rounds):
            draws = self._draws(row, 0)
            turns = self.absent_rate if row == 0 else np.where(away, 1 - 1 / self.absent_rounds, self._leaves)
            away = draws < turns
            table[row] = away
        return table

    @cached_property
    def late(self) -> Table:
        """The hospitals that are present and answer too late."""
        draws = [self._draws(row, 1) < self.late_rate for row in range(self.rounds)]
        return np.array(draws, dtype=np.bool_).reshape(self.absent.shape) & ~self.absent

    def missing(self, round: int) -> npt.NDArray[np.bool_]:
        """Returns the hospitals whose answers do not arrive in a round, (hospital,)."""
        row = round - 1
        missing: npt.NDArray[np.bool_] = self.absent[row] | self.late[row]
        return missing

    def silent(
        self, hospitals: tuple[HospitalName, ...], requests: Requests
    ) -> tuple[set[HospitalName], set[HospitalName]]:
        """Returns the hospitals asked that are away, and those that are late; none before round 1."""
        row = next((request.round for request in requests.values()), 0) - 1
        if row < 0:
            return set(), set()
        places = {name: place for place, name in enumerate(hospitals) if name in requests}
        absent, late = self.absent[row], self.late[row]
        return {n for n, k in places.items() if absent[k]}, {n for n, k in places.items() if late[k]}

    def to_json(self, rounds: int) -> dict[str, object]:
        """Returns the absences of the first rounds, for the record."""
        missing = (self.absent | self.late)[:rounds].sum(axis=1)
        return {
            "absent_rate": self.absent_rate,
            "absent_rounds": self.absent_rounds,
            "late_rate": self.late_rate,
            "seed": self.seed,
            "absences": int(self.absent[:rounds].sum()),
            "late_answers": int(self.late[:rounds].sum()),
            "most_missing": int(missing.max(initial=0)),
            "note": "Hospitals were away or late by a public, simulated timetable; late ones were asked and charged.",
        }

    def _draws(self, row: int, purpose: int) -> npt.NDArray[np.float64]:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(row, purpose))
        return np.random.Generator(np.random.PCG64(sequence)).random(self.hospitals)


@dataclass(frozen=True)
class UnreliableChannel:
    """Another channel, with hospitals that are away or late.

    A late hospital is asked, charged, and its answer is lost. Of a masked attempt the upload is lost: announcements and
    confirmations, which cost nothing, arrive.

    Attributes:
        inner: reaches those who are there.
        availability: of hospitals by their position in `inner.hospitals`.
    """

    inner: Channel
    availability: Availability

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        """See `Channel`."""
        return self.inner.hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        """See `Channel`. Late hospitals are asked with the others, and a refusal of theirs is in time."""
        absent, late = self.availability.silent(self.hospitals, requests)
        reached = {name: request for name, request in requests.items() if name not in absent}
        replies, failures = self.inner.ask(reached, deadline_s) if reached else ({}, {})
        lost = {name for name in late if isinstance(replies.get(name), Answer | Uploaded)}
        silent = absent | lost
        failures |= dict.fromkeys(silent, _NOBODY)
        return (
            {name: replies[name] for name in requests if name in replies and name not in silent},
            {name: failures[name] for name in requests if name in failures},
        )


def availability_of(study: Study) -> Availability | None:
    """Returns the hospitals that are away or late in each round; None where all are always there."""
    options = study.hospitals
    if options.is_reliable or study.federation.strategy in OF_ONE:
        return None
    return Availability(
        options.count,
        study.rounds,
        options.absent_rate,
        options.absent_rounds,
        options.late_rate,
        options.availability_seed,
    )


def allowed_missing(study: Study, plan: Plan) -> int:
    """Returns the hospitals that a round can do without: those whose share of the noise is foreseen to be missing.

    Where no hospital's protection hangs on another one's noise, all that the simulation sends away.
    """
    if isinstance(plan.noiser, NoiseShares):
        return plan.noiser.dropouts
    return 0 if availability_of(study) is None else study.hospitals.count


def check_availability(study: Study, timetable: Timetable) -> None:
    """Refuses a study in which some round could not happen: absences are public, and known beforehand.

    Raises:
        FederationError: more hospitals are missing from a round than the noise shares or a robust mean allow for, or
            all of them.
    """
    availability = availability_of(study)
    if availability is None or not (isinstance(study.federation, Averages) or study.forms_sums):
        return  # a strategy that asks one hospital a round passes it by
    shared, fewest = study.shares_noise, fewest_answers(study)
    for round in range(1, study.rounds + 1):
        asked = list(timetable.asked(round))
        missing, allowed = int(availability.missing(round)[asked].sum()), len(asked) - fewest
        if shared:
            allowed = min(allowed, getattr(study.privacy, "dropouts", 0))
        if missing > allowed:
            raise FederationError(
                f"At most {allowed} of {counted(len(asked), 'hospital')} may be missing from a round, and "
                f"the timetable has {missing} missing in round {round}; "
                f"{'raise privacy.dropouts, or ' if shared else ''}change absent_rate, late_rate or availability_seed.",
                code="federation-absences",
            )
