"""A hospital's own steps within a round: DP-SGD on its patients, or plain SGD where nothing is promised of a step."""

import numpy as np

from wardround.privacy.plans.kinds import Training
from wardround.privacy.plans.releases import clip_of, noised_sum, sample, share_of_patients
from wardround.randomness import Stream
from wardround.randomness.sampling import Indices
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Sample, Workbench
from wardround.types import Vector
from wardround.work import LocalSteps


def local_steps(
    workbench: Workbench,
    weights: Vector,
    patients: TrainingPatients,
    part: Training,
    run: LocalSteps,
    sampling: Stream,
    noise: Stream,
) -> tuple[Vector, Vector]:
    """Returns the weights and the velocity of the heavy ball after steps on one hospital's patients, (parameter,).

    The step is v <- momentum v + g + proximal (w - w0) + correction, w <- w - learning_rate v, with g the noised sum of
    clipped gradients over a public constant. Everything but g is public or computed from earlier steps.

    Guarantee:
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
    start = weights
    velocity = np.zeros_like(weights) if run.velocity is None else run.velocity
    denominator = share_of_patients(part) * max(1, len(patients)) if run.denominator is None else run.denominator
    clip = clip_of(part)
    for _ in range(run.steps):
        chosen = _thinned(sample(part, patients.names, sampling), patients, run, sampling)
        [clipped] = workbench.gradient_sums(
            weights, [Sample(patients, chosen)], clip.norm, sampling.seed(), clip.fixed, run.class_weights
        )
        gradient = noised_sum(part, clipped, noise) / np.float32(denominator)
        if run.proximal:
            gradient = gradient + np.float32(run.proximal) * (weights - start)
        if run.correction is not None:
            gradient = gradient + run.correction
        velocity = np.float32(run.momentum) * velocity + gradient
        weights = weights - np.float32(run.learning_rate) * velocity
    return weights, velocity


def class_of_patients(patients: TrainingPatients) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the class of each patient's first picture, (patient,)."""
    return patients.labels[patients.starts[:-1]]


def _thinned(chosen: Indices, patients: TrainingPatients, run: LocalSteps, sampling: Stream) -> Indices:
    """Returns the drawn patients, each kept with the probability of its class, independently."""
    if run.class_sampling is None:
        return chosen
    share = np.array(run.class_sampling)[class_of_patients(patients)[chosen]]
    return chosen[sampling.uniform_of(patients.names[chosen]) < share]
