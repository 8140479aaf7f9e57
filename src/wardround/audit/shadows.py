"""Shadow models: the study's own training on patients of whom each is in with a coin of its own.

An attacker who knows the study and similar patients trains them to learn what a model looks like with and without a
patient. Heads on kept encodings are trained all at once, as matrix products; every other network by the study's own
federation, one run after the other. Nothing of it is released.

Source: Carlini et al. 2022, https://arxiv.org/abs/2112.03570, section V.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.agreed.schedule import rate_of
from wardround.agreed.strategies import average_last_of
from wardround.audit.bounds import Float64
from wardround.config import Study
from wardround.config.federation import FederatedSGD
from wardround.federation.strategies.fedsgd import PerPatient
from wardround.federation.strategies.scored import average_from
from wardround.ledger.file import LedgerFile
from wardround.models.linear import linear_layer
from wardround.noisers import inflation_of
from wardround.privacy.plans.kinds import NoisedGradients, NotPrivate
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of, share_of_patients
from wardround.simulation.federate import federate_apart
from wardround.simulation.materials import Hospitals, Materials
from wardround.training.centring import Moves, estimated, unit_of
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.scores import mean_rows
from wardround.training.workbench import Workbench
from wardround.types import Progress, Vector

Inclusion = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Training:
    """The training that an attacker repeats.

    Attributes:
        study: trains.
        materials: its pictures and its network.
        pool: patients that may be in, each with the pictures that training would take.
        rounds: after which models are looked at, ascending.
    """

    study: Study
    plan: Plan
    materials: Materials
    pool: TrainingPatients
    rounds: tuple[int, ...]

    @property
    def bench(self) -> Workbench:
        """The network and its pictures."""
        return self.materials.workbench

    def confidence(self, weights: Vector) -> Float64:
        """Returns phi = ln(p / (1 - p)) of a patient's true class under a model, mean over pictures, (patient,)."""
        found = self.bench.probabilities(weights, self.pool.rows)
        return mean_of_patients(log_odds(found[np.arange(len(found)), self.pool.labels]), self.pool)


def log_odds(probability: npt.NDArray[np.floating]) -> Float64:
    """Returns ln(p / (1 - p)), within what float64 holds."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def mean_of_patients(values: Float64, patients: TrainingPatients) -> Float64:
    """Returns the mean over each patient's pictures, (picture,) to (patient,)."""
    return np.add.reduceat(values, patients.starts[:-1]) / patients.counts


def some(patients: TrainingPatients, chosen: npt.NDArray[np.int64]) -> TrainingPatients:
    """Returns some of the patients."""
    drawn, counts = patients.pictures_of(chosen), patients.counts[chosen]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TrainingPatients(drawn.rows, drawn.labels, starts, patients.names[chosen])


def shadow_confidence(training: Training, inclusion: Inclusion, seed: int, progress: Progress) -> Float64:
    """Returns phi of every patient under every shadow model, (shadow, round, patient).

    Args:
        training: is repeated.
        inclusion: whether a patient is in, (shadow, patient).
        seed: of noise and samples.
        progress: told of shadow models, or of rounds of all of them.
    """
    if _is_head(training):
        return np.stack(list(_heads(training, inclusion, seed, progress)), axis=1)
    found = []
    for number, is_in in enumerate(inclusion):
        members = np.flatnonzero(is_in)
        names = list(training.materials.hospitals)
        hospitals = {name: some(training.pool, members[k :: len(names)]) for k, name in enumerate(names)}
        label = f"audit/shadow/{seed}/{number}"
        models = models_of(training.study, training.plan, training.materials, hospitals, label)
        kept = [model for round, model in enumerate(models, start=1) if round in training.rounds]
        found.append(np.stack([training.confidence(model) for model in kept]))
        progress(number + 1, len(inclusion))
    return np.stack(found)


def models_of(
    study: Study, plan: Plan, materials: Materials, hospitals: Hospitals, label: str, *, averaged: bool = True
) -> Iterator[Vector]:
    """Yields the model after each round of the study's own federation, charged to a ledger that is thrown away.

    `averaged` gives the mean over the last rounds, as a run does; otherwise each round's own weights. A study of
    several models gives the first.
    """
    with LedgerFile(":memory:") as ledgers:
        made = federate_apart(study, plan, materials, hospitals, ledgers, label=label)
        strategy, channel = made.coordinator.strategy, made.coordinator.channel
        state = strategy.init(materials.workbench.initial_weights, channel)
        first = average_from(study.training_rounds, average_last_of(study))
        mean: Vector | None = None
        for round in range(1, study.training_rounds + 1):
            state = strategy.update(state, channel, round)
            weights = next(iter(strategy.models(state).values()))
            if round >= first and averaged:
                mean = weights if mean is None else mean + (weights - mean) / np.float32(round - first + 1)
            yield weights if mean is None else mean


def _is_head(training: Training) -> bool:
    section, part = training.study.federation, training.plan.training
    plain = isinstance(part, NoisedGradients | NotPrivate) and clip_of(part).adaptive is None
    flat = training.study.privacy.plan == "none" or getattr(training.study.privacy, "clipping", "") == "flat"
    descent = isinstance(section, FederatedSGD) and section.strategy in ("fedsgd", "pooled")
    is_softmax = linear_layer(training.bench.network) is not None
    return training.bench.trains_head and is_softmax and plain and flat and descent


def _heads(training: Training, inclusion: Inclusion, seed: int, progress: Progress) -> Iterator[Float64]:
    """Yields phi under all heads, (shadow, patient), after each round that is looked at."""
    study, part, pool = training.study, training.plan.training, training.pool
    section = study.federation
    assert isinstance(section, FederatedSGD), "asked for descents alone"
    inputs = training.bench.kept_inputs
    assert inputs is not None, "heads train on kept inputs"
    rows = inputs.flatten(1)[torch.from_numpy(pool.rows)]
    shadows, start = len(inclusion), torch.from_numpy(training.bench.initial_weights)
    classes = start.numel() // rows.shape[1]
    weights = start[: classes * rows.shape[1]].reshape(classes, -1)
    if start.numel() > weights.numel():  # the bias is the weight of a constant
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        weights = torch.cat([weights, start[weights.numel() :, None]], dim=1)
    weights = weights.repeat(shadows, 1, 1)
    steps = _Steps(rows, pool, torch.from_numpy(inclusion.T.astype(np.float32)), classes, seed)
    clip, q = clip_of(part).norm, share_of_patients(part)
    std = 0.0
    if isinstance(part, NoisedGradients):
        std = inflation_of(part.noiser) * part.noise.noise_multiplier * clip
    patients = float(training.plan.public_size or inclusion.sum(axis=1).mean())
    rate = rate_of(study, section, training.plan, classes)
    rate = rate.at(patients) if isinstance(rate, PerPatient) else rate
    velocity, mean = torch.zeros_like(weights), torch.zeros_like(weights)
    first = average_from(study.training_rounds, section.average_last)
    if study.centre_rounds:
        steps.centre(_moves(training, steps, patients, q, std))
    for round in range(1, training.rounds[-1] + 1):
        if round <= study.centre_rounds:
            if round in training.rounds:
                yield steps.confidence(weights)
            continue
        gradient = steps.noised_sum(weights, clip, q, std) / (q * patients)
        velocity = section.momentum * velocity + gradient
        weights = weights - rate * velocity
        mean = mean + (weights - mean) / (round - first + 1) if round > first else weights
        if round in training.rounds:
            yield steps.confidence(mean)
        progress(round, training.rounds[-1])


def _moves(training: Training, steps: "_Steps", patients: float, q: float, std: float) -> Moves:
    """Returns each head's centre, from the noised mean rows of the rounds before training."""
    rounds, clip, pool = training.study.centre_rounds, clip_of(training.plan.training).norm, training.pool
    features = steps.features
    means = mean_rows(training.bench, features, Sample(pool, np.arange(len(pool))), clip).astype(np.float32)
    totals = sum(steps.noised_rows(torch.from_numpy(means), q, std) for _ in range(rounds))
    assert isinstance(totals, Tensor), "there are such rounds"
    unit = rounds * q * unit_of(clip)
    noise = std * math.sqrt(rounds) / unit
    return Moves(np.stack([estimated(one / unit, patients, noise, features) for one in totals.numpy()]), features)


class _Steps:
    """The rounds of many heads on the same rows, each with its own patients.

    Args:
        rows: (picture, feature).
        pool: the patients of the pictures.
        is_in: 1 where a patient is in, (patient, shadow).
        classes: of each head.
        seed: of noise and samples.
    """

    def __init__(self, rows: Tensor, pool: TrainingPatients, is_in: Tensor, classes: int, seed: int) -> None:
        self._rows, self._pool, self._is_in, self._classes = rows, pool, is_in, classes
        self._generator = torch.Generator().manual_seed(seed)
        self._patient = torch.from_numpy(np.repeat(np.arange(len(pool)), pool.counts))
        self._labels = torch.from_numpy(pool.labels)
        self._squares = (rows.to(torch.float64) ** 2).sum(1).float()[:, None]
        pairs = [pair for a, b in pairwise(pool.starts.tolist()) for pair in combinations(range(a, b), 2)]
        self._first, self._second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
        count = 1 + len(pairs) // 4096
        parts = zip(self._first.tensor_split(count), self._second.tensor_split(count), strict=True)
        self._products = torch.cat([(rows[one] * rows[other]).sum(1) for one, other in parts])[:, None]
        self._moves: Moves | None = None

    @property
    def features(self) -> int:
        """Numbers in a row."""
        return self._rows.shape[1]

    def centre(self, moves: Moves) -> None:
        """From now on each head is one on rows less its centre."""
        pairs = self._first, self._second, 2 * self._products[:, 0].to(torch.float64)
        squares, doubled = moves.products(self._rows, self._squares[:, 0].to(torch.float64), *pairs)
        self._moves, self._squares, self._products = moves, squares.float(), doubled.float() / 2

    def noised_rows(self, means: Tensor, q: float, std: float) -> Tensor:
        """Returns each head's sum of its patients' mean rows, (patient, feature), with noise, (shadow, feature)."""
        drawn = self._drawn(q)
        noise = torch.randn(drawn.shape[1], means.shape[1], generator=self._generator)
        return drawn.T @ means + std * noise

    def noised_sum(self, weights: Tensor, clip: float, q: float, std: float) -> Tensor:
        """Returns each head's sum of clipped gradients with noise, (shadow, class, feature)."""
        shape = (len(self._rows), weights.shape[0], self._classes)
        residuals = self._probabilities(weights)
        residuals[torch.arange(len(residuals)), :, self._labels] -= 1
        residuals /= torch.from_numpy(self._pool.counts)[self._patient][:, None, None]
        factor = self._drawn(q)
        if math.isfinite(clip):
            factor = factor * (clip / self._norms(residuals).clamp_min(1e-30)).clamp_max(1)
        scaled = (residuals * factor[self._patient][:, :, None]).reshape(shape[0], -1)
        total = (scaled.T @ self._rows).reshape(weights.shape)
        if self._moves is not None:
            moved = [self._moves.gradient(head, one) for head, one in enumerate(total)]
            total = torch.stack(moved).float().view_as(total)
        return total + std * torch.randn(weights.shape, generator=self._generator) if std else total

    def confidence(self, weights: Tensor) -> Float64:
        """Returns phi of each patient under each head, (shadow, patient)."""
        found = self._probabilities(weights).to(torch.float64)
        own = log_odds(found[torch.arange(len(found)), :, self._labels].numpy())
        starts, counts = self._pool.starts[:-1], self._pool.counts
        return np.asarray(np.add.reduceat(own, starts, axis=0).T / counts)

    def _drawn(self, q: float) -> Tensor:
        """Returns 1 where a patient takes part in a round, (patient, shadow)."""
        if q == 1:
            return self._is_in
        return self._is_in * (torch.rand(self._is_in.shape, generator=self._generator) < q)

    def _probabilities(self, weights: Tensor) -> Tensor:
        if self._moves is not None:
            weights = torch.from_numpy(self._moves.folded(weights.flatten(1).numpy())).view_as(weights)
        logits = self._rows @ weights.reshape(-1, weights.shape[2]).T
        return torch.softmax(logits.reshape(len(self._rows), weights.shape[0], self._classes), dim=2)

    def _norms(self, residuals: Tensor) -> Tensor:
        """Returns the norm of each patient's gradient at each head, (patient, shadow)."""
        squared = torch.zeros_like(self._is_in)
        squared.index_add_(0, self._patient, (residuals**2).sum(2) * self._squares)
        crossed = 2 * (residuals[self._first] * residuals[self._second]).sum(2) * self._products
        squared.index_add_(0, self._patient[self._first], crossed)
        return squared.clamp_min(0).sqrt()
