"""A tiny federation with real agents, for the tests of agents and strategies (a pytest plugin)."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.variants import not_private

from wardround.accounting.ledger import LedgerFile
from wardround.accounting.terms import Trust
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Task
from wardround.hospital.agent import Agent, answer_all
from wardround.hospital.policy import Policy
from wardround.models.network import Network, Normalise
from wardround.randomness import Randomness
from wardround.training.losses import cross_entropy
from wardround.training.patients import TrainingPatients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName

STUDY = "a study"


def private_plan(hospitals=3, **fields):
    defaults = dict(
        noise_multiplier=1.0, clipping_norm=0.5, sampling_prob=0.5, releases=5, delta=1e-5,
        trust=Trust.NOBODY, hospitals=hospitals, num_patients=4 * hospitals,
    )  # fmt: skip
    return PrivacyPlan(**(defaults | fields))


class TinyFederation:
    """Hospitals with four patients each (of 1, 2, 3 and 1 pictures), a linear network, real agents and ledgers."""

    def __init__(self, folder, *, hospitals=3, plan=None, seed=5, epsilon_limit=math.inf, rounds=5, tasks=Task):
        self.plan = plan or not_private(private_plan(hospitals, sampling_prob=1.0))
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
        self.ledgers = LedgerFile(folder / "ledger.sqlite")
        self.agents = {}
        starts = np.concatenate([[0], np.cumsum(counts)])
        for index in range(hospitals):
            name = HospitalName(f"hospital-{index + 1}")
            mine = starts[4 * index : 4 * index + 5]
            rows = np.arange(mine[0], mine[-1])
            self.agents[name] = Agent(
                name=name,
                patients=TrainingPatients(rows, self.labels[rows], mine - mine[0]),
                plan=self.plan,
                policy=Policy(STUDY, frozenset(tasks), rounds),
                ledger=self.ledgers.open(name, "digest", epsilon_limit=epsilon_limit, delta=self.plan.delta),
                randomness=Randomness(seed, STUDY),
                workbench=self.workbench,
            )
        self.channel = InProcessChannel(
            tuple(self.agents), lambda requests: answer_all(self.agents, requests, self.ledgers.transaction)
        )

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
        federation.ledgers.close()
