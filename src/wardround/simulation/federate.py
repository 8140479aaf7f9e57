"""A study's federation in one process: ledgers, hospitals, channel and strategy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wardround.accounting.events import NoEvent
from wardround.agreed.strategies import asked_by, open_aggregator, strategy_of, timetable_of
from wardround.config import Study
from wardround.config.robust import robust_section
from wardround.coordinator.coordinator import Coordinator
from wardround.federation.aggregators import Aggregator
from wardround.federation.channel import Channel, InProcessChannel
from wardround.federation.masked import MaskedAggregator
from wardround.federation.messages import Failure, Reply, Requests
from wardround.hospital.agent import Agent
from wardround.hospital.hospital import Hospital
from wardround.hospital.kept.memory import Memory
from wardround.hospital.policy import Policy
from wardround.ledger.account import Account
from wardround.ledger.file import LedgerFile
from wardround.noisers import ByCoordinator, ByEachHospital
from wardround.privacy.plans.kinds import NoisedGradients, NotPrivate
from wardround.privacy.plans.plan import Plan
from wardround.randomness import Randomness
from wardround.simulation.availability import UnreliableChannel, allowed_missing, availability_of
from wardround.simulation.batches import Transaction, answer_all
from wardround.simulation.masked import masked_rounds, own_folder
from wardround.simulation.materials import Hospitals, Materials
from wardround.simulation.union import JointSum
from wardround.types import HospitalName
from wardround.work import Answered, GiveReceipt, Upload


@dataclass(frozen=True)
class Federation:
    """A coordinator and the hospitals of its process.

    Attributes:
        coordinator: asks the hospitals.
        hospitals: by name.
    """

    coordinator: Coordinator
    hospitals: Mapping[HospitalName, Hospital]


def federate(
    study: Study,
    plan: Plan,
    materials: Materials,
    hospitals: Hospitals,
    accounts: Mapping[HospitalName, Account],
    transaction: Transaction,
    *,
    label: str,
    memory: Path | None = None,
) -> Federation:
    """Returns hospitals, and a coordinator that reaches them, under one plan.

    `accounts` are charged, a round in one `transaction` of their ledger. `label` is part of every stream's name, so
    that the runs of one study share no noise. `memory` is the folder of the simulated hospitals' own notes; None keeps
    them in this process.
    """
    randomness = Randomness(study.study.seed, f"{study.stream_name}/{label}")
    asks = asked_by(study, plan)
    timetable = timetable_of(study)
    classes, digest = materials.images.class_names, study.digest

    @cache  # hospitals that are asked in the same rounds share one
    def policy(visits: tuple[int, ...] | None) -> Policy:
        return Policy(digest, asks, study.rounds, visits)

    agents = {
        name: Agent(
            name=name,
            patients=patients,
            plan=plan,
            policy=policy(timetable.visited(position, study.rounds)),
            account=accounts[name],
            randomness=randomness,
            workbench=materials.workbench,
            memory=Memory(own_folder(memory, name)),
            num_classes=len(classes),
        )
        for position, (name, patients) in enumerate(hospitals.items())
    }
    aggregator: Aggregator = open_aggregator(study, plan, randomness)
    availability = availability_of(study)
    masked = None
    if plan.masked is not None:
        agreement, rounds = masked_rounds(study, plan, agents, memory)
        answering = {name: Hospital(agent, classes, rounds[name]) for name, agent in agents.items()}
        aggregator = masked = MaskedAggregator(agreement)
    else:
        answering = {name: Hospital(agent, classes) for name, agent in agents.items()}
        if answers_as_one(study, plan):
            aggregator = JointSum(agents, transaction, aggregator, availability)
    channel: Channel = InProcessChannel(tuple(agents), answer_exchanges(answering, transaction))
    if availability is not None:
        channel = UnreliableChannel(channel, availability)
    missing = allowed_missing(study, plan)
    chosen = strategy_of(study, plan, aggregator, classes=len(classes), allowed_missing=missing)
    return Federation(Coordinator(study, plan, channel, chosen, masked), answering)


def federate_apart(
    study: Study, plan: Plan, materials: Materials, hospitals: Hospitals, ledger: LedgerFile, *, label: str
) -> Federation:
    """Returns a federation beside the study's run: `ledger` is thrown away, and its accounts have no cap."""
    digest = study.digest
    accounts = {
        name: ledger.begin(
            run=label, study=digest, name=label, hospital=name, persons=(), foreseen=NoEvent(),
            epsilon=math.inf, delta=plan.delta, accountant=plan.accountant,
        )
        for name in hospitals
    }  # fmt: skip
    return federate(study, plan, materials, hospitals, accounts, ledger.transaction, label=label)


def answers_as_one(study: Study, plan: Plan) -> bool:
    """Returns whether the hospitals of a run answer with one sum.

    Only sums over hospitals are then ever seen, each with noise of its own round.
    """
    if robust_section(study.federation) is not None:
        return False
    if study.federation.strategy not in ("fedsgd", "pooled") or study.privacy.plan not in ("dp-sgd", "none"):
        return False
    match plan.training:
        case NoisedGradients(noiser=noiser):
            return plan.masked is None and not isinstance(noiser, ByEachHospital | ByCoordinator)
        case NotPrivate(participation=float()):
            return True
        case _:
            return False


def answer_exchanges(
    hospitals: Mapping[HospitalName, Hospital], transaction: Transaction
) -> Callable[[Requests], dict[HospitalName, Reply | Failure]]:
    """Returns what answers an exchange: charges reach the disk by one write, and gradients are computed in batches."""
    agents = {name: hospital.agent for name, hospital in hospitals.items()}

    def answer(requests: Requests) -> dict[HospitalName, Reply | Failure]:
        first = next(iter(requests.values())).work
        if isinstance(first, Upload):
            with transaction():
                refused = {name: hospitals[name].admit_upload(request) for name, request in requests.items()}
            return {name: refusal or hospitals[name].upload() for name, refusal in refused.items()}
        if isinstance(first, Answered):
            return dict(answer_all(agents, requests, transaction))
        if isinstance(first, GiveReceipt):
            with transaction():  # in which nobody else writes: the file is looked at once
                return {name: hospitals[name].reply(request) for name, request in requests.items()}
        return {name: hospitals[name].reply(request) for name, request in requests.items()}

    return answer
