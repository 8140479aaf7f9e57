"""A study's federation, put together: ledgers, agents, channel and strategy."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from wardround.accounting.ledger import Ledger, LedgerFile
from wardround.agent.agent import Agent, answer_all
from wardround.agent.memory import Memory
from wardround.agent.policy import COUNTS, Policy
from wardround.agent.union import Union
from wardround.config import Study
from wardround.federation.availability import UnreliableChannel
from wardround.federation.channel import Channel, InProcessChannel
from wardround.federation.masked import MaskedChannel, Tries
from wardround.federation.strategy import Strategy
from wardround.federation.timetable import Order, Timetable
from wardround.privacy.plan import PrivacyPlan
from wardround.randomness import Randomness
from wardround.run.availability import availability_of
from wardround.run.masked import masked_channel
from wardround.run.materials import Hospitals, Materials
from wardround.run.strategies import strategy_of, task_of, timetable_of
from wardround.secure_aggregation.round.witness import Witness
from wardround.types import HospitalName

SUMMED_PLANS = frozenset({"dp-sgd", "none"})
"""Plans whose noise is each round's own, alike at all hospitals: simulated, they may answer as one (`Union`)."""


def open_ledger(
    ledgers: LedgerFile, hospital: HospitalName, plan: PrivacyPlan, materials: Materials, epsilon_limit: float
) -> Ledger:
    """A hospital's ledger for these pictures, at the plan's delta, accountant and unit."""
    return ledgers.open(
        hospital,
        materials.images.digest,
        epsilon_limit=epsilon_limit,
        delta=plan.delta,
        accountant=plan.accountant,
        unit=plan.unit,
        relation=plan.relation,
    )


@dataclass(frozen=True)
class Federation:
    """Hospitals that can be asked, and the way they are asked.

    Attributes:
        agents: one a hospital.
        channel: reaches them.
        strategy: what a round is.
    """

    agents: Mapping[HospitalName, Agent]
    channel: Channel
    strategy: Strategy

    def witness(self, round: int) -> Witness | None:
        """What the witness coordinates of a round showed; None where sums are not masked."""
        return self.channel.witnesses.get(round) if isinstance(self.channel, MaskedChannel) else None

    def tries(self, round: int) -> Tries | None:
        """What a round took in which hospitals were missing; None where sums are not masked or nobody was."""
        found = self.channel.tries.get(round) if isinstance(self.channel, MaskedChannel) else None
        return found if found is not None and found.missing else None


def federate(
    study: Study,
    plan: PrivacyPlan,
    materials: Materials,
    hospitals: Hospitals,
    ledgers: LedgerFile,
    *,
    strategy: str,
    label: str,
    epsilon_limit: float,
    memory: Path | None = None,
) -> Federation:
    """Agents, channel and strategy for some hospitals under one plan.

    Args:
        study: gives step sizes and the seed.
        plan: the privacy plan; every part takes its numbers from here.
        materials: pictures and network.
        hospitals: who holds which patients.
        ledgers: the file with the hospitals' ledgers.
        strategy: its name in the study file.
        label: part of every stream's name, so that the runs of one study share no noise.
        epsilon_limit: what each ledger allows.
        memory: folder of the simulated hospitals' own notes; None keeps them in this process.
    """
    randomness = Randomness(study.study.seed, f"{study.stream_name}/{label}")
    tasks = COUNTS | {task_of(study, strategy)}
    visits = _visits(timetable_of(study, strategy), study.rounds)
    agents = {
        name: Agent(
            name=name,
            patients=patients,
            plan=plan,
            policy=Policy(study.digest, tasks, study.rounds, visits[position] if visits else None),
            ledger=open_ledger(ledgers, name, plan, materials, epsilon_limit),
            randomness=randomness,
            workbench=materials.workbench,
            memory=Memory(None if memory is None else memory / f"{position:05d}"),
            num_classes=len(materials.images.class_names),
        )
        for position, (name, patients) in enumerate(hospitals.items())
    }
    transaction: Callable[[], AbstractContextManager[object]] = ledgers.transaction
    availability = availability_of(study, strategy)
    chosen = strategy_of(study, plan, strategy, randomness)
    if plan.shares is not None:
        return Federation(agents, masked_channel(study, plan, agents, transaction, availability, memory), chosen)
    unseen = study.privacy.plan in SUMMED_PLANS
    channel: Channel = InProcessChannel(
        tuple(agents),
        lambda requests: answer_all(agents, requests, transaction),
        Union(agents, transaction).answer_sum if unseen else None,
    )
    if availability is not None:
        channel = UnreliableChannel(channel, availability)
    return Federation(agents, channel, chosen)


def answers_as_one(study: Study) -> bool:
    """Whether the hospitals of a study's main run answer with one sum."""
    unseen = study.privacy.plan == "none" or study.privacy.trust == "secure-aggregation"
    if study.privacy.sum == "masked":
        return False
    return study.federation.strategy == "fedsgd" and study.privacy.plan in SUMMED_PLANS and unseen


def _visits(timetable: Timetable, rounds: int) -> list[tuple[int, ...]] | None:
    """The rounds in which each hospital is asked; None where that is every round."""
    if timetable.order is Order.EVERYONE:
        return None
    visits: list[list[int]] = [[] for _ in range(timetable.hospitals)]
    for round in range(1, rounds + 1):
        for position in timetable.asked(round):
            visits[position].append(round)
    return [tuple(mine) for mine in visits]
