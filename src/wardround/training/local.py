"""A hospital's own steps within a round: DP-SGD on its patients, or plain SGD where nothing is promised of a step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.kinds import Training
from wardround.privacy.plans.releases import clip_of, noised_sum, sample, share_of_patients
from wardround.randomness import Stream
from wardround.randomness.sampling import Indices
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import Vector
from wardround.work import LocalSteps

_FEW_PICTURES = 16
"""Expected pictures of a step below which hospitals share passes: the walk through the modules costs more then."""

_STATE_BYTES = 1 << 27
"""Weights, velocities and gradients of hospitals that share passes, at most, unless those of one a core are more."""


@dataclass(frozen=True)
class LocalRun:
    """Local steps of one hospital, from public weights, (parameter,); its streams draw patients and noise."""

    weights: Vector
    patients: TrainingPatients
    run: LocalSteps
    sampling: Stream
    noise: Stream


Place = int
Stepped = tuple[Place, Vector, Vector | None]
"""Place of a hospital among those asked, its weights, and its velocity where `LocalSteps.keep_velocity` asks for it."""


def local_steps(
    workbench: Workbench, part: Training, runs: Sequence[LocalRun], *, may_round: bool = False
) -> Iterator[Stepped]:
    """Yields weights and velocity of the heavy ball after steps on each hospital's own patients, as they are done.

    Both are in memory of their own.

    The step is v <- momentum v + g + proximal (w - w0) + correction, w <- w - learning_rate v, with g the noised sum of
    clipped gradients over a public constant. Everything but g is public or computed from earlier steps.

    Several hospitals are spread over the cores, a process for each (`Workbench.processes`), where torch gives a kernel
    one thread: the same bits as one after the other. With `may_round`, kernels that had several threads have one, and
    hospitals of few pictures share their passes where nothing is clipped, which changes the values by rounding.

    Guarantee, for each hospital:
        Releases `run.steps` noised sums as the part's event has them; the weights are computed from these alone.
        Where the part noises updates, nothing here is noised, and the weights may leave only through
        `wardround.privacy.plans.releases.noised_update`. Weights and sampling by class must be public: a patient's
        gradient is clipped after it was weighted, and a patient is drawn with at most the part's
        probability, independently of others.

    Sources:
        Abadi et al. 2016, Algorithm 1, https://arxiv.org/abs/1607.00133, divided by a public constant instead of
        the realised batch size; the proximal term of Li et al. 2018 (FedProx), equation 2,
        https://arxiv.org/abs/1812.06127; the correction of Karimireddy et al. 2019 (SCAFFOLD), equation 3,
        https://arxiv.org/abs/1910.06378.
    """
    if len(runs) > 1 and (may_round or torch.get_num_threads() == 1):
        pictures = share_of_patients(part) * sum(int(own.patients.counts.sum()) for own in runs)
        if may_round and math.isinf(clip_of(part).norm) and pictures < _FEW_PICTURES * len(runs):
            most = max(workbench.cores, _STATE_BYTES // (12 * runs[0].weights.size))
            for first in range(0, len(runs), most):
                block = _in_step(workbench, part, runs[first : first + most])
                yield from ((first + place, *after) for place, after in enumerate(block))
            return
        if workbench.processes is not None:
            items = [(part, own) for own in runs]
            for place, (weights, velocity, sampling, noise) in workbench.processes.each(_there, items, workbench):
                runs[place].sampling.go_on_as(sampling)
                runs[place].noise.go_on_as(noise)
                yield place, weights, velocity
            return
    for place, own in enumerate(runs):
        [after] = _in_step(workbench, part, [own])
        yield place, *after


def _there(workbench: Workbench, item: tuple[Training, LocalRun]) -> tuple[Vector, Vector | None, Stream, Stream]:
    """Returns what a hospital's steps give in another process, and its streams, which go on in this one."""
    part, own = item
    [after] = _in_step(workbench, part, [own])
    return *after, own.sampling, own.noise


def _in_step(workbench: Workbench, part: Training, runs: Sequence[LocalRun]) -> list[tuple[Vector, Vector | None]]:
    """Returns weights and velocity of hospitals that take each step together."""
    weights = [own.weights if own.run.steps else own.weights.copy() for own in runs]
    velocities = [
        np.zeros_like(own.weights) if own.run.velocity is None else own.run.velocity.copy() for own in runs
    ]
    for step in range(max((own.run.steps for own in runs), default=0)):
        places = [place for place, own in enumerate(runs) if step < own.run.steps]
        at = [weights[place] for place in places]
        sums = _sums(workbench, part, [runs[place] for place in places], at)
        for place, clipped in zip(places, sums, strict=True):
            weights[place] = _stepped(part, runs[place], clipped, weights[place], velocities[place])
    kept = [own.run.keep_velocity for own in runs]
    return [(at, ball if keep else None) for at, ball, keep in zip(weights, velocities, kept, strict=True)]


def _sums(
    workbench: Workbench,
    part: Training,
    runs: Sequence[LocalRun],
    weights: Sequence[Vector],
) -> list[ClippedSum]:
    """Returns the clipped sum of one step of each hospital, at its own weights."""
    clip = clip_of(part)
    samples = [
        Sample(
            own.patients,
            _thinned(sample(part, own.patients.names, own.sampling), own.patients, own.run, own.sampling),
        )
        for own in runs
    ]
    classes = {own.run.class_weights for own in runs}
    if len(runs) > 1 and len(classes) == 1 and math.isinf(clip.norm):
        together = workbench.plain_sums_at(weights, samples, classes.pop())
        if together is not None:
            return together
    return [
        workbench.gradient_sums(at, [of], clip.norm, own.sampling.seed(), clip.fixed, own.run.class_weights)[0]
        for own, at, of in zip(runs, weights, samples, strict=True)
    ]


def _stepped(part: Training, own: LocalRun, clipped: ClippedSum, weights: Vector, velocity: Vector) -> Vector:
    """Returns the weights after one step, in memory of their own; the velocity is changed in place.

    Memory as long as the weights is mapped anew each time, which took longer than the sums.
    """
    run = own.run
    expected = share_of_patients(part) * max(1, len(own.patients)) if run.denominator is None else run.denominator
    gradient = noised_sum(part, clipped, own.noise)
    gradient /= np.float32(expected)
    if run.proximal:
        gradient += np.float32(run.proximal) * (weights - own.weights)
    if run.correction is not None:
        gradient += run.correction
    velocity *= np.float32(run.momentum)
    velocity += gradient
    moved = np.multiply(velocity, np.float32(run.learning_rate), out=gradient)
    return np.subtract(weights, moved, out=moved)


def class_of_patients(patients: TrainingPatients) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the class of each patient's first picture, (patient,)."""
    return patients.labels[patients.starts[:-1]]


def _thinned(chosen: Indices, patients: TrainingPatients, run: LocalSteps, sampling: Stream) -> Indices:
    """Returns the drawn patients, each kept with the probability of its class, independently."""
    if run.class_sampling is None:
        return chosen
    share = np.array(run.class_sampling)[class_of_patients(patients)[chosen]]
    return chosen[sampling.uniform_of(patients.names[chosen]) < share]
