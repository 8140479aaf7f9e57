"""A hospital's rounds under correlated noise: in their order, each answered once, from notes that are never sent.

The notes of a round are its noise and that of the rounds before it, the secret key that patients' cohorts follow from,
what was released, and a digest of what was asked. They are written before the release leaves. A round that is asked for
again is answered from them, word for word: computed anew, it might differ in a dropout mask or in the last digit of a
sum, under the same noise, and the difference would leave without any. Asked with other weights it would be a second
release: it is refused.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from wardround.hospital.kept.memory import Memory
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.kinds import Training
from wardround.privacy.plans.releases import correlated_sum
from wardround.randomness import Names, Stream
from wardround.randomness.sampling import Indices
from wardround.types import Vector
from wardround.work import GradientSum

_ROUND, _KEY, _NOISE, _RELEASE, _ASKED = "round", "key", "noise", "release", "asked"


@dataclass(frozen=True)
class CorrelatedRounds:
    """A hospital's notes of a run with correlated noise.

    Attributes:
        memory: its notes; round 0 stands for the draw of the cohorts' key.
        correlation: the plan's.
    """

    memory: Memory
    correlation: Correlation

    def has_begun(self, round: int) -> bool:
        """Returns whether this run was charged: the key is drawn after that, before anything is computed.

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

    def chosen(self, round: int, names: Names, stream: Stream) -> Indices:
        """Returns the round's patients; the first round draws the key that every cohort follows from, and keeps it.

        Args:
            round: from 1.
            names: of this hospital's patients, (patient, 2).
            stream: of the draw, which is made once.

        Raises:
            RecordError: the notes cannot be read.
        """
        notes = self.memory.before(round)
        if notes:
            key = notes[_KEY].astype(np.uint8).tobytes()
        else:
            key = stream.words(4).tobytes()
            self.memory.write(0, {_ROUND: np.zeros(1), _KEY: _as_floats(key)})
        return self.correlation.chosen(self.correlation.cohorts_of(names, Stream(key)), round)

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
            _KEY: notes[_KEY],
            _NOISE: np.stack(kept) if kept else np.zeros((0, release.size), dtype=np.float32),
            _RELEASE: release,
            _ASKED: _asked(work),
        }
        self.memory.write(round, now)
        return release


def _asked(work: GradientSum) -> Vector:
    """Returns a digest of the weights that a round starts from, (32,): whole numbers below 256."""
    weights = np.ascontiguousarray(work.weights, dtype=np.float32)
    return _as_floats(hashlib.sha256(weights.tobytes()).digest())


def _as_floats(content: bytes) -> Vector:
    """Returns bytes as notes have them, (byte,): whole numbers below 256."""
    return np.frombuffer(content, dtype=np.uint8).astype(np.float32)
