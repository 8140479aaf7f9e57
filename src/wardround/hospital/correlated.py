"""A hospital's rounds under correlated noise: in their order, each answered once, from notes that are never sent.

The notes of a round are its noise and that of the rounds before it, every patient's cohort, what was released, and a
digest of what was asked. They are written before the release leaves. A round that is asked for again is answered from
them, word for word: computed anew, it might differ in a dropout mask or in the last digit of a sum, under the same
noise, and the difference would leave without any. Asked with other weights it would be a second release: it is
refused.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from wardround.errors import RecordError
from wardround.hospital.memory import Memory
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.kinds import Training
from wardround.privacy.plans.releases import correlated_sum
from wardround.randomness import Stream
from wardround.randomness.sampling import Indices
from wardround.types import Vector
from wardround.work import GradientSum

_ROUND, _COHORTS, _NOISE, _RELEASE, _ASKED = "round", "cohorts", "noise", "release", "asked"


@dataclass(frozen=True)
class CorrelatedRounds:
    """A hospital's notes of a run with correlated noise.

    Attributes:
        memory: its notes; round 0 stands for the draw of the cohorts.
        correlation: the plan's.
    """

    memory: Memory
    correlation: Correlation

    def has_begun(self, round: int) -> bool:
        """Returns whether this run was charged: cohorts are drawn after that, before anything is computed.

        Raises:
            RecordError: the notes cannot be read.
        """
        return bool(self.memory.of(round) or self.memory.before(round))

    def fits(self, round: int, work: GradientSum) -> bool:
        """Returns whether the request is for the next round, or repeats one that is remembered, or begins the run.

        Raises:
            RecordError: the notes cannot be read.
        """
        if round > self.correlation.rounds:
            return False
        if self.memory.of(round):
            return self.repeated(round, work) is not None
        earlier = self.memory.before(round)
        return int(earlier[_ROUND][0]) == round - 1 if earlier else round == 1

    def repeated(self, round: int, work: GradientSum) -> Vector | None:
        """Returns what was released when this was asked before, (parameter,); None if it was not.

        Raises:
            RecordError: the notes cannot be read.
        """
        notes = self.memory.of(round)
        if not notes or not np.array_equal(notes[_ASKED], _asked(work)):
            return None
        return notes[_RELEASE].astype(np.float32, copy=False)

    def chosen(self, round: int, num_patients: int, stream: Stream) -> Indices:
        """Returns the round's patients; the first round draws every patient's cohort and writes it down.

        Args:
            round: from 1.
            num_patients: of this hospital.
            stream: of the draw, which is made once.

        Raises:
            RecordError: the notes cannot be read, or are those of another number of patients.
        """
        notes = self.memory.before(round)
        if notes:
            cohorts = notes[_COHORTS].astype(np.int64)
        else:
            cohorts = self.correlation.draw_cohorts(num_patients, stream)
            self.memory.write(0, {_ROUND: np.zeros(1), _COHORTS: cohorts.astype(np.float32)})
        if len(cohorts) != num_patients:
            raise RecordError(
                f"A hospital's notes must be of its {num_patients} patients, and are of {len(cohorts)}; restore the "
                "data, or start a new run."
            )
        return self.correlation.chosen(cohorts, round)

    def release(
        self, round: int, work: GradientSum, clipped: ClippedSum, part: Training, stream: Stream
    ) -> Vector:
        """Returns the round's sum with this hospital's noise, (parameter,), once its notes are on disk."""
        notes = self.memory.before(round)
        earlier = list(notes.get(_NOISE, np.zeros((0, clipped.vector.numel()), dtype=np.float32)))
        release, noise = correlated_sum(part, clipped, earlier, stream)
        kept = [noise, *earlier][: self.correlation.bands - 1]
        now = {
            _ROUND: np.array([float(round)]),
            _COHORTS: notes[_COHORTS],
            _NOISE: np.stack(kept) if kept else np.zeros((0, release.size), dtype=np.float32),
            _RELEASE: release,
            _ASKED: _asked(work),
        }
        self.memory.write(round, now)
        return release


def _asked(work: GradientSum) -> Vector:
    """Returns a digest of the weights that a round starts from, (32,): whole numbers below 256."""
    weights = np.ascontiguousarray(work.weights, dtype=np.float32)
    return np.frombuffer(hashlib.sha256(weights.tobytes()).digest(), dtype=np.uint8).astype(np.float32)
