"""Several heads of one study trained together: references and repeats of the noise share each pass over the features.

With every patient in every round, such runs differ by their noise, learning rate, number of patients and centre. Their
weights are the rows of one table, and a round reads the features once for all of them.

Released: nothing is charged for these runs; each is a reference of a simulation, "released without protection".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wardround.agreed.schedule import own_size, rate_of
from wardround.agreed.strategies import strategy_of
from wardround.config import Study
from wardround.config.federation import FederatedSGD
from wardround.config.robust import robust_section
from wardround.coordinator.observer import Observer
from wardround.federation.aggregators import PlainSum
from wardround.federation.strategies.centred import Centred
from wardround.federation.strategies.fedsgd import PerPatient
from wardround.federation.strategies.scored import average_from
from wardround.noisers import ByCoordinator
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, noised_counts, noised_sum
from wardround.randomness import Randomness
from wardround.simulation.materials import Materials
from wardround.training.centring import Moves
from wardround.training.patients import Sample, united
from wardround.training.scores import mean_rows
from wardround.types import Vector


@dataclass(frozen=True)
class Head:
    """One of several runs.

    Attributes:
        label: part of the names of its streams.
        study: of the run, with a rate and without rounds of scores.
        plan: of the run, with noise in floating point; its noise is drawn as that of a sum over all hospitals.
    """

    label: str
    study: Study
    plan: Plan


def share_passes(study: Study, plan: Plan, materials: Materials) -> bool:
    """Returns whether federated and pooled runs of a study can share passes: heads, every patient in every round."""
    part, section = plan.training, study.federation
    if not isinstance(part, NoisedGradients) or not isinstance(section, FederatedSGD):
        return False
    return (
        materials.workbench.trains_head
        and section.strategy in ("fedsgd", "pooled")
        and part.sampling_prob == 1
        and part.clip.adaptive is None
        and not isinstance(part.noiser, ByCoordinator)
        and study.hospitals.is_reliable
        and robust_section(section) is None
        and not section.leave_one_out
    )


def trained_together(heads: Sequence[Head], materials: Materials, observer: Observer) -> list[Vector]:
    """Returns the model of each run, (parameter,); the descent is that of `FedSGD`, row by row.

    All are of one study but for rate and noise, and its patients are those of all hospitals.
    """
    study, section, workbench = heads[0].study, heads[0].study.federation, materials.workbench
    assert isinstance(section, FederatedSGD), "`share_passes` was asked"
    patients = united(list(materials.hospitals.values()))
    everyone, clip = Sample(patients, np.arange(len(patients))), clip_of(heads[0].plan.training)
    sources = [Randomness(head.study.study.seed, f"{study.stream_name}/{head.label}") for head in heads]
    sizes = np.array(
        [_size(head, len(patients), source) for head, source in zip(heads, sources, strict=True)], dtype=np.float32
    )
    classes = len(materials.images.class_names)
    rates = np.array(
        [_rate(head, float(size), classes) for head, size in zip(heads, sizes, strict=True)], dtype=np.float32
    )
    moves = _moves(heads, materials, everyone, sizes, sources) if study.centre_rounds else None
    weights = np.tile(workbench.initial_weights, (len(heads), 1))
    mean, velocity = weights, np.zeros_like(weights)
    first = average_from(study.rounds, section.average_last)
    for round in range(study.centre_rounds + 1, study.rounds + 1):
        sums = workbench.head.sums_at(weights, (patients, everyone.chosen), clip.norm, clip.fixed, moves)
        noised = np.stack([_noised(*each, round) for each in zip(heads, sums, sources, strict=True)])
        velocity = np.float32(section.momentum) * velocity + noised / sizes[:, None]
        weights = weights - rates[:, None] * velocity
        if round >= first:
            mean = weights if round == first else mean + (weights - mean) * np.float32(1 / (round - first + 1))
        observer.progress(round, study.rounds)
    return list(mean if moves is None else moves.folded(mean))


def _moves(
    heads: Sequence[Head],
    materials: Materials,
    everyone: Sample,
    sizes: npt.NDArray[np.float32],
    sources: Sequence[Randomness],
) -> Moves:
    """Returns the centre of each run, from the noised mean rows of its first rounds, as `Centred` has it."""
    bench, classes, rounds = materials.workbench, len(materials.images.class_names), heads[0].study.centre_rounds
    size = bench.initial_weights.size
    rows = mean_rows(bench, size, everyone, clip_of(heads[0].plan.training).norm).sum(axis=0)
    total, centres = ClippedSum(torch.from_numpy(rows), clip_of(heads[0].plan.training).norm), []
    for head, patients, source in zip(heads, sizes, sources, strict=True):
        strategy = strategy_of(head.study, head.plan, PlainSum(), classes=classes)
        assert isinstance(strategy, Centred), "its first rounds release the mean row"
        sums = sum((_noised(head, total, source, round + 1) for round in range(rounds)), np.zeros_like(rows))
        centres.append(strategy.centre_of(sums.astype(np.float32), float(patients)))
    assert bench.kept_inputs is not None, "heads train on kept inputs"
    return Moves(np.stack(centres), bench.kept_inputs[0].numel())


def _size(head: Head, patients: int, source: Randomness) -> float:
    """Returns the number of patients that a run's sums are divided by: public, counted with noise, or exact."""
    public = own_size(head.study, head.plan.public_size)
    if public is not None:
        return public
    stream = source.stream("all hospitals", "noise", "count")
    [count] = noised_counts(head.plan.count, np.array([float(patients)]), stream, head.plan.hospitals)
    return max(1.0, float(count))


def _rate(head: Head, size: float, classes: int) -> float:
    section = head.study.federation
    assert isinstance(section, FederatedSGD), "`share_passes` was asked"
    rate = rate_of(head.study, section, head.plan, classes)
    return rate.at(size) if isinstance(rate, PerPatient) else rate


def _noised(head: Head, total: ClippedSum, source: Randomness, round: int) -> npt.NDArray[np.float32]:
    stream = source.stream("all hospitals", "noise", "gradient-sum", round)
    return noised_sum(head.plan.training, total, stream, head.plan.hospitals)
