"""A study's parts, put together: pictures, hospitals, network, plan, agents, channel and strategy."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.ledger import Ledger, LedgerFile
from wardround.accounting.terms import Trust
from wardround.agent.agent import Agent, answer_all
from wardround.agent.policy import Policy
from wardround.config import FederationSection, Study
from wardround.errors import DataError, PrivacyError
from wardround.federation.aggregators import Aggregator, CoordinatorNoise, PlainSum, SimulatedSecureSum
from wardround.federation.channel import Channel, InProcessChannel
from wardround.federation.messages import Task
from wardround.federation.strategies.alone import Alone
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategy import Call, Strategy
from wardround.hospitals import Scheme, Split, split_patients
from wardround.images.load import load_images
from wardround.images.patients import ImageSet
from wardround.images.phantom import PhantomOptions
from wardround.models.catalogue import build
from wardround.models.network import Network
from wardround.privacy.clips import ClippingKind
from wardround.privacy.plan import PrivacyPlan, calibrated, not_private, with_noise
from wardround.privacy.randomness import Randomness
from wardround.privacy.validation import check_trainable
from wardround.run.observer import Observer
from wardround.training.losses import cross_entropy
from wardround.training.patients import TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName, Vector

Hospitals = dict[HospitalName, TrainingPatients]

DEFAULT_CACHE = Path("~/.cache/wardround")


@dataclass(frozen=True)
class Materials:
    """What a study works on, before its first round.

    Attributes:
        images: the patients and their decoded pictures.
        split: who is where.
        hospitals: each hospital's patients, ready for training.
        test: the patients set aside.
        workbench: the one copy of the network.
    """

    images: ImageSet
    split: Split
    hospitals: Hospitals
    test: TrainingPatients
    workbench: Workbench


def gather(study: Study, observer: Observer) -> Materials:
    """Reads the pictures, deals out the patients and builds the network.

    Raises:
        DataError: pictures, patients or hospitals that do not hold.
        ModelError: a network that does not fit the pictures, or that mixes patients.
    """
    observer.stage("reading pictures")
    images = read_images(study, observer)
    observer.stage("dealing out patients")
    options = study.hospitals
    split = split_patients(
        images,
        test_fraction=study.data.test_fraction,
        published=study.data.test == "published",
        scheme=Scheme(options.scheme),
        count=options.count,
        sizes=options.sizes or (),
        alpha=options.alpha,
        shards_per_hospital=options.shards_per_hospital,
        seed=options.split_seed,
    )
    if len(split.hospitals) != options.count:  # noise shares are sized by the number the study file gives
        raise DataError(
            f"hospitals.count must be the number of sites in the data, {len(split.hospitals)}, got "
            f"{options.count}; correct the study file."
        )
    if not split.test:
        raise DataError("At least one patient must be set aside for testing, got none; raise data.test_fraction.")
    observer.stage(f"building {study.model.name}")
    network = build_network(study, num_classes=len(images.class_names))
    bound = study.privacy.images_per_patient
    return Materials(
        images=images,
        split=split,
        hospitals={name: training_patients(patients, bound) for name, patients in split.hospitals.items()},
        test=training_patients(split.test, None),
        workbench=Workbench(network, images.pixels, cross_entropy, int(study.performance.memory_gb * 1e9)),
    )


def read_images(study: Study, observer: Observer) -> ImageSet:
    """The study's pictures, decoded once and kept in the cache."""
    data = study.data
    phantom = data.phantom
    return load_images(
        data.layout,
        data.path if data.layout != "phantom" else None,
        image_size=data.image_size,
        channels=data.channels,
        task=data.task,
        cache_dir=(study.performance.cache or DEFAULT_CACHE).expanduser(),
        skip_unreadable=data.skip_unreadable,
        duplicates=data.duplicates,
        phantom=PhantomOptions(
            patients=phantom.patients,
            max_images=phantom.max_images,
            sites=phantom.sites,
            image_size=phantom.image_size,
            seed=phantom.seed,
            prevalence=phantom.prevalence,
        )
        if data.layout == "phantom"
        else None,
        progress=lambda done, total: observer.progress(done, total),
    )


def build_network(study: Study, *, num_classes: int) -> Network:
    """The study's network, refused when it mixes patients."""
    network = build(
        study.model.name,
        image_size=study.data.image_size,
        channels=study.data.channels,
        num_classes=num_classes,
        train=study.model.train,
        weights=study.model.weights,
        init_generator=torch.Generator().manual_seed(study.model.init_seed),
    )
    side, channels = study.data.image_size, study.data.channels
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, channels, side, side), dtype=torch.uint8, generator=generator)
    network.trained.train()
    check_trainable(network.trained, network.encode(noise))
    return network


def plan_of(study: Study) -> PrivacyPlan:
    """The one plan of a study's main run, calibrated.

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
    """
    section, federation = study.privacy, study.federation
    trust = Trust(section.trust) if federation.strategy in ("fedsgd", "fedavg") else Trust.NOBODY
    shared = trust is Trust.SECURE_AGGREGATION
    plan = PrivacyPlan(
        noise_multiplier=section.noise_multiplier or 1.0,
        clipping_norm=section.clipping_norm,
        sampling_prob=section.sampling_prob,
        releases=federation.rounds * federation.local_steps,
        delta=section.delta or 1e-5,
        trust=trust if section.plan != "none" else Trust.NOBODY,
        hospitals=1 if federation.strategy == "pooled" else study.hospitals.count,
        colluders=section.colluders if shared and section.plan != "none" else 0,
        dropouts=section.dropouts if shared and section.plan != "none" else 0,
        images_per_patient=section.images_per_patient,
        num_patients=section.num_patients,
        accountant=AccountantKind(section.accountant),
        clipping=ClippingKind(section.clipping),
        quantile=section.clipping_quantile,
    )
    if section.plan == "none":
        return not_private(plan)
    if section.epsilon is not None:
        return calibrated(plan, section.epsilon)
    if section.noise_multiplier is None:
        raise PrivacyError("A private study must give epsilon or noise_multiplier, got neither.")
    return with_noise(plan, section.noise_multiplier)


def epsilon_limit_of(study: Study, plan: PrivacyPlan) -> float:
    """What each hospital's ledger allows: the study's word, or else just what the plan promises."""
    if study.privacy.epsilon_limit is not None:
        return study.privacy.epsilon_limit
    return max(study.privacy.epsilon or 0.0, plan.epsilon)


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
    """
    randomness = Randomness(study.study.seed, f"{study.digest}/{label}")
    tasks = frozenset({Task.COUNT, Task.LOCAL_STEPS if strategy == "fedavg" else Task.GRADIENT_SUM})
    policy = Policy(study.digest, tasks, study.federation.rounds)
    agents = {
        name: Agent(
            name=name,
            patients=patients,
            plan=plan,
            policy=policy,
            ledger=open_ledger(ledgers, name, plan, materials, epsilon_limit),
            randomness=randomness,
            workbench=materials.workbench,
        )
        for name, patients in hospitals.items()
    }
    transaction: Callable[[], AbstractContextManager[object]] = ledgers.transaction
    channel = InProcessChannel(tuple(agents), lambda requests: answer_all(agents, requests, transaction))
    return Federation(agents, channel, _strategy(study, plan, strategy, randomness))


def _strategy(study: Study, plan: PrivacyPlan, name: str, randomness: Randomness) -> Strategy:
    """The strategy of that name: the one place that maps the few names to the few classes."""
    federation, aggregator = study.federation, _aggregator(plan, randomness)
    call = Call(study.digest, allowed_missing=plan.dropouts)
    size = plan.num_patients
    if name == "fedavg":
        rate, momentum = federation.learning_rate, federation.momentum
        return FedAvg(call, aggregator, federation.local_steps, rate, momentum, plan.sampling_prob, size)
    if name == "alone":
        each = None if size is None else max(1, round(size / plan.hospitals))
        return Alone(_fedsgd(call, aggregator, plan, federation, each))
    return _fedsgd(call, aggregator, plan, federation, size)


def _fedsgd(
    call: Call, aggregator: Aggregator, plan: PrivacyPlan, federation: FederationSection, num_patients: int | None
) -> FedSGD:
    return FedSGD(
        call=call,
        aggregator=aggregator,
        learning_rate=federation.learning_rate,
        momentum=federation.momentum,
        sampling_prob=plan.sampling_prob,
        num_patients=num_patients,
        clipping_norm=plan.clipping_norm,
        adaptive=plan.adaptive,
    )


def _aggregator(plan: PrivacyPlan, randomness: Randomness) -> Aggregator:
    if plan.trust is Trust.SECURE_AGGREGATION:
        return SimulatedSecureSum()
    if plan.trust is Trust.NOBODY or not plan.is_private:
        return PlainSum()

    def noise(size: int, round: int) -> Vector:
        return plan.coordinator_noise(size, randomness.stream("coordinator", "noise", round), counting=round == 0)

    return CoordinatorNoise(PlainSum(), noise)
