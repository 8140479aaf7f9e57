"""A tiny federation with real agents, for the tests of agents and strategies (a pytest plugin)."""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from tests.names import names
from torch import nn

from wardround.accounting.events import GaussianEvent
from wardround.federation.channel import InProcessChannel
from wardround.hospital.agent import Agent
from wardround.hospital.policy import Policy
from wardround.ledger.file import LedgerFile
from wardround.models.network import Network, Normalise
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares, Trust
from wardround.per_patient.clipping_rules import ClippingKind, Flat, rule_of
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.kinds import (
    UNCLIPPED,
    Clip,
    CorrelatedGradients,
    NoisedCounts,
    NoisedGradients,
    NoisedUpdates,
    NoisyCount,
    PublicSize,
)
from wardround.privacy.plans.plan import Plan
from wardround.randomness import Randomness
from wardround.simulation.batches import answer_all
from wardround.training.losses import cross_entropy
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName
from wardround.work import Answered

STUDY = "a study"


def asks_for(*kinds):
    """A policy's rule under which any work of some kinds is asked for."""
    return lambda work, round: type(work) in kinds


EVERY_WORK = asks_for(*get_args(Answered))


def clip_by(kind, norm):
    """The clip of a kind of rule."""
    return Clip(norm, AdaptiveNorm() if kind is ClippingKind.ADAPTIVE else rule_of(kind))


def noiser_by(trust, hospitals, colluders=0, dropouts=0):
    """Who adds the noise under a trust model."""
    match trust:
        case Trust.COORDINATOR:
            return ByCoordinator(hospitals)
        case Trust.NOBODY:
            return ByEachHospital(hospitals)
        case Trust.SECURE_AGGREGATION:
            return NoiseShares(hospitals, colluders, dropouts)


def private_plan(
    hospitals=3,
    *,
    noise_multiplier=1.0,
    clipping_norm=0.5,
    rule=None,
    sampling_prob=0.5,
    releases=5,
    delta=1e-5,
    trust=Trust.NOBODY,
    colluders=0,
    dropouts=0,
    num_patients=-1,
    count_noise_multiplier=1.0,
    correlation=None,
    mechanism=None,
):
    """A plan of noised gradients, correlated where there is a correlation, or of updates where there is a mechanism.

    The number of patients is public, by default four a hospital; with None it is counted with noise.
    """
    noiser = noiser_by(trust, hospitals, colluders, dropouts)
    if mechanism is not None:
        return Plan((NoisedUpdates(mechanism, sampling_prob, releases, noiser),), delta)
    size = (
        NoisyCount() if num_patients is None else PublicSize(num_patients if num_patients > 0 else 4 * hospitals)
    )
    counts = (NoisedCounts(GaussianEvent(count_noise_multiplier), noiser),) if num_patients is None else ()
    clip, noise = Clip(clipping_norm, rule or Flat()), GaussianEvent(noise_multiplier)
    if correlation is not None:
        return Plan((*counts, CorrelatedGradients(clip, noise, correlation, size, noiser)), delta)
    return Plan((*counts, NoisedGradients(clip, noise, sampling_prob, releases, size, noiser)), delta)


def without_noise(plan, *, clipped=False):
    """The plan without its noise, and without its clip where it is not `clipped`."""
    quiet = not_private(plan, plan.releases)
    return quiet if clipped else with_training(quiet, clip=UNCLIPPED)


def with_training(plan, **changes):
    """The plan with other fields of its training part."""
    return replace(plan, parts=(*plan.parts[:-1], replace(plan.training, **changes)))


class TinyFederation:
    """Hospitals with four patients each (of 1, 2, 3 and 1 pictures), a linear network, and real agents and ledgers."""

    def __init__(
        self, folder, *, hospitals=3, plan=None, seed=5, epsilon_limit=math.inf, rounds=5, works=EVERY_WORK
    ):
        self.plan = plan or without_noise(private_plan(hospitals, sampling_prob=1.0))
        generator = np.random.default_rng(0)
        counts = np.tile([1, 2, 3, 1], hospitals)
        self.pixels = generator.integers(0, 256, (counts.sum(), 1, 4, 4), dtype=np.uint8)
        self.labels = generator.integers(0, 2, counts.sum())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network(
                "linear", Normalise(), nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), encode_once=False
            )
        self.workbench = Workbench(network, self.pixels, cross_entropy, 1 << 20)
        self.seed, self.epsilon_limit = seed, epsilon_limit
        self.ledgers: dict[HospitalName, LedgerFile] = {}
        self.agents, policy = {}, Policy(STUDY, works, rounds)  # shared, as in a simulation
        starts, ids = np.concatenate([[0], np.cumsum(counts)]), names(len(counts))
        for index in range(hospitals):
            name = HospitalName(f"hospital-{index + 1}")
            mine = starts[4 * index : 4 * index + 5]
            rows = np.arange(mine[0], mine[-1])
            self.ledgers[name] = LedgerFile(folder / f"{name}.sqlite")
            self.agents[name] = Agent(
                name=name,
                patients=TrainingPatients(rows, self.labels[rows], mine - mine[0], ids[4 * index : 4 * index + 4]),
                plan=self.plan,
                policy=policy,
                account=self.account_in(self.ledgers[name], name),
                randomness=Randomness(seed, STUDY),
                workbench=self.workbench,
            )
        self.channel = InProcessChannel(
            tuple(self.agents), lambda requests: answer_all(self.agents, requests, self.transaction)
        )

    def account_in(self, ledger, hospital):
        """A hospital's account in a ledger, of its four patients in this run."""
        return ledger.begin(
            run="a run", study=STUDY, name=STUDY, hospital=hospital, persons=[f"{hospital}/{n}" for n in range(4)],
            foreseen=self.plan.event_after(self.plan.releases), epsilon=self.epsilon_limit, delta=self.plan.delta,
            seeded=self.seed is not None,
        )  # fmt: skip

    @contextmanager
    def transaction(self):
        """One write in each hospital's own ledger, all of them undone by an error."""
        with ExitStack() as stack:
            for ledger in self.ledgers.values():
                stack.enter_context(ledger.transaction())
            yield

    def close(self):
        """Closes every ledger."""
        for ledger in self.ledgers.values():
            ledger.close()

    @property
    def weights(self):
        return self.workbench.initial_weights


@pytest.fixture
def make_federation(tmp_path):
    """A factory of tiny federations, each with a ledger file of its own; all are closed at the end."""
    made: list[TinyFederation] = []

    def make(**options):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(TinyFederation(folder, **options))
        return made[-1]

    yield make
    for federation in made:
        federation.close()
