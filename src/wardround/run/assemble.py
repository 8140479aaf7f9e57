"""A study's parts, put together: pictures, hospitals, network, plan, agents, channel and strategy."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.ledger import Ledger, LedgerFile
from wardround.accounting.terms import Trust
from wardround.agent.agent import Agent, answer_all
from wardround.agent.memory import Memory
from wardround.agent.policy import COUNTS, Policy
from wardround.agent.union import Union
from wardround.config import Study
from wardround.config.federation import TOGETHER
from wardround.config.privacy import PrivacySection
from wardround.errors import DataError, ModelError, PrivacyError
from wardround.federation.availability import UnreliableChannel
from wardround.federation.channel import Channel, InProcessChannel
from wardround.federation.strategy import Strategy
from wardround.federation.timetable import Order, Timetable
from wardround.hospitals import Scheme, Split, split_patients
from wardround.images.entries import Target
from wardround.images.load import Volumes, load_images
from wardround.images.patients import ImageSet
from wardround.images.phantom import PhantomOptions
from wardround.images.readers import ReaderOptions
from wardround.images.recipe import View
from wardround.models.catalogue import NAMES, build
from wardround.models.network import Network
from wardround.privacy.clips import ClippingKind
from wardround.privacy.correlated import Correlation
from wardround.privacy.plan import (
    PrivacyPlan,
    calibrated,
    not_private,
    with_clipped_updates,
    with_local_pictures,
    with_noise,
    with_output_perturbation,
)
from wardround.privacy.randomness import Randomness
from wardround.privacy.sparse_vector import GumbelTopK, SparseVector, with_sparse_vector, with_top_k
from wardround.privacy.toeplitz import best_bands
from wardround.privacy.validation import check_trainable
from wardround.run.availability import availability_of, check_availability
from wardround.run.observer import Observer
from wardround.run.picture_mechanisms import local_release_of
from wardround.run.strategies import head_fit_of, releases_after, strategy_of, task_of, timetable_of
from wardround.training.augment.augmentation import Augmentation
from wardround.training.augment.axes import Axis
from wardround.training.convex import linear_head
from wardround.training.losses import LOSSES, LOSSES_FOR, Loss
from wardround.training.patients import TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName

Hospitals = dict[HospitalName, TrainingPatients]

DEFAULT_CACHE = Path("~/.cache/wardround")

SUMMED_PLANS = frozenset({"dp-sgd", "none"})
"""Plans whose noise is each round's own, alike at all hospitals: simulated, they may answer as one (`Union`)."""


@dataclass(frozen=True)
class Materials:
    """What a study works on, before its first round.

    Attributes:
        images: the patients and their decoded pictures.
        split: who is where.
        hospitals: each hospital's patients, ready for training.
        test: the patients set aside.
        validation: those set aside to choose by; often nobody.
        workbench: the one copy of the network.
        originals: the materials before noise was put on pictures and labels; None where none was.
    """

    images: ImageSet
    split: Split
    hospitals: Hospitals
    test: TrainingPatients
    validation: TrainingPatients
    workbench: Workbench
    originals: "Materials | None" = None


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
        validation_fraction=study.data.validation_fraction,
        published=study.data.test == "published",
        scheme=Scheme(options.scheme),
        count=options.count,
        sizes=options.sizes or (),
        alpha=options.alpha,
        shards_per_hospital=options.shards_per_hospital,
        images=options.images or 0,
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
    network = build_network(
        study, target=images.target, num_classes=len(images.class_names), shape=images.pixels.shape[1:]
    )
    bound = study.privacy.images_per_patient
    workbench = workbench_of(study, images, network)
    return Materials(
        images=images,
        split=split,
        hospitals={name: training_patients(patients, bound) for name, patients in split.hospitals.items()},
        test=training_patients(split.test, None),
        validation=training_patients(split.validation, None),
        workbench=workbench,
    )


def workbench_of(
    study: Study, images: ImageSet, network: Network, *, loss: Loss | None = None, inputs: Tensor | None = None
) -> Workbench:
    """The network, and what it reads.

    Args:
        study: says how it is trained.
        images: the pictures.
        network: not used by anybody else.
        loss: default: the study's.
        inputs: of every picture, where they are not the network's own encoding.
    """
    return Workbench(
        network,
        images.pixels,
        loss or loss_of(study, images.target),
        int(study.performance.memory_gb * 1e9),
        masks=images.masks,
        augmentation=augmentation_of(study, None if images.sliced else images.spacing),
        inputs=inputs,
    )


def read_images(study: Study, observer: Observer) -> ImageSet:
    """The study's pictures, decoded once and kept in the cache."""
    data = study.data
    phantom = data.phantom
    cache = (study.performance.cache or DEFAULT_CACHE).expanduser()
    return load_images(
        data.layout,
        data.path if data.layout != "phantom" else None,
        image_size=data.image_size,
        channels=data.channels,
        fit=data.fit,
        circle=data.circle_crop,
        volumes=volumes_of(study),
        task=data.task,
        cache_dir=cache,
        skip_unreadable=data.skip_unreadable,
        duplicates=data.duplicates,
        options=reader_options(study),
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


def volumes_of(study: Study) -> Volumes | None:
    """How the study's volumes are brought to one shape; None for pictures."""
    data = study.data
    if data.volume_size is None:
        return None
    return Volumes(data.volume_size, data.spacing, data.window, View(data.view))


def reader_options(study: Study) -> ReaderOptions:
    """What the layout's reader may need beside the folder."""
    data = study.data
    key_file = data.key_file or (study.performance.cache or DEFAULT_CACHE).expanduser() / "hospital.key"
    return ReaderOptions(key_file, data.labels, data.reviewed, data.segments)


def loss_of(study: Study, target: Target) -> Loss:
    """What is made small, for each picture.

    Raises:
        ModelError: a loss that does not fit what is predicted.
    """
    fitting = LOSSES_FOR[target]
    name = study.training.loss or fitting[0]
    if name not in fitting:
        raise ModelError(f"training.loss must be one of {', '.join(fitting)} for {target}, got {name}; change it.")
    return LOSSES[name]


def augmentation_of(study: Study, spacing: tuple[float, ...] | None) -> Augmentation:
    """How training pictures are varied."""
    section = study.training.augment
    return Augmentation(
        flip=tuple(Axis(axis) for axis in section.flip),
        rotate=section.rotate,
        scale=section.scale,
        shift=section.shift,
        patch=section.patch,
        brightness=section.brightness,
        contrast=section.contrast,
        noise=section.noise,
        multiplicity=section.multiplicity,
        spacing=spacing,
    )


def build_network(study: Study, *, target: Target, num_classes: int, shape: tuple[int, ...]) -> Network:
    """The study's network, refused when it mixes patients.

    Args:
        study: names it.
        target: what it is to predict.
        num_classes: number of logits.
        shape: (channel, *space) of a preprocessed picture.

    Raises:
        ModelError: it does not predict that, does not fit the pictures, or mixes patients.
    """
    name, augmentation = study.model.name, augmentation_of(study, None)
    fitting = NAMES["segmentation" if target is Target.MASKS else "classification"]
    if name not in fitting:
        raise ModelError(f"model.name must be one of {', '.join(fitting)} for {target}, got {name}; change it.")
    channels, *space = shape
    augmentation.check(tuple(space))
    size = tuple(space) if augmentation.patch is None else (augmentation.patch,) * len(space)
    network = build(
        name,
        size=size,
        channels=channels,
        num_classes=num_classes,
        train=study.model.train,
        weights=study.model.weights,
        width=study.model.width,
        init_generator=torch.Generator().manual_seed(study.model.init_seed),
    )
    if network.encode_once and not augmentation.is_identity:
        raise ModelError(
            f"{name} reads features that are computed once from each picture, so training.augment would change "
            'nothing; remove it, or choose another network or train = "all".'
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, channels, *size), dtype=torch.uint8, generator=generator)
    network.trained.train()
    check_trainable(network.trained, network.encode(noise))
    if study.fits_head:
        linear_head(network)
    return network


def plan_of(study: Study) -> PrivacyPlan:
    """The one plan of a study's main run, calibrated.

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
        FederationError: more hospitals will be missing than it allows for.
    """
    check_availability(study, timetable_of(study))
    section, private = study.privacy, study.privacy.plan != "none"
    summed = study.federation.strategy in TOGETHER and study.privacy.plan != "local-pictures"
    trust = Trust(section.trust) if private and summed else Trust.NOBODY
    shared = trust is Trust.SECURE_AGGREGATION
    plan = PrivacyPlan(
        noise_multiplier=section.noise_multiplier or 1.0,
        clipping_norm=section.clipping_norm,
        sampling_prob=section.sampling_prob,
        releases=releases_after(study, study.rounds),
        delta=section.delta or 1e-5,
        trust=trust,
        hospitals=timetable_of(study).hospitals,
        colluders=section.colluders if shared else 0,
        dropouts=section.dropouts if shared else 0,
        images_per_patient=section.images_per_patient,
        num_patients=section.num_patients,
        accountant=AccountantKind(section.accountant),
        clipping=ClippingKind(section.clipping),
        quantile=section.clipping_quantile,
        correlation=correlation_of(study),
    )
    if not private:
        return not_private(plan)
    if section.plan == "local-pictures":
        return with_local_pictures(plan, local_release_of(study))
    if section.plan == "output-perturbation":
        return with_output_perturbation(plan, head_fit_of(study), section.epsilon, section.noise_multiplier)
    if section.plan == "sparse-vector":
        return with_sparse_vector(plan, sparse_vector_of(section), section.epsilon)
    if section.plan == "top-k":
        noise_multiplier = section.noise_multiplier or 1.0
        top = GumbelTopK(section.clipping_norm, section.answers or 1, noise_multiplier, section.values_share)
        return with_top_k(plan, top, section.epsilon)
    if section.plan == "clipped-update":
        return with_clipped_updates(plan, section.clipping_norm, section.epsilon, section.noise_multiplier)
    if section.epsilon is not None:
        return calibrated(plan, section.epsilon)
    if section.noise_multiplier is None:
        raise PrivacyError("A private study must give epsilon or noise_multiplier, got neither.")
    return with_noise(plan, section.noise_multiplier)


def sparse_vector_of(section: PrivacySection) -> SparseVector:
    """The mechanism as the study describes it; where it gives a total epsilon, that of one release is still open."""
    answers, share = section.answers or 1, section.values_share
    epsilon = section.epsilon if section.noise_multiplier is None else answers / (section.noise_multiplier * share)
    return SparseVector(section.clipping_norm, answers, epsilon or 1.0, section.answer_threshold, share)


def correlation_of(study: Study) -> Correlation | None:
    """How the noise of the rounds hangs together; None where every round has its own."""
    cohorts, momentum = study.privacy.cohorts, study.federation.momentum
    if study.privacy.plan != "correlated-noise" or cohorts is None:
        return None
    bands = study.privacy.bands or best_bands(study.rounds, cohorts, momentum)
    return Correlation(study.rounds, cohorts, bands, momentum)


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
    randomness = Randomness(study.study.seed, f"{study.digest}/{label}")
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
    unseen = study.privacy.plan in SUMMED_PLANS
    channel: Channel = InProcessChannel(
        tuple(agents),
        lambda requests: answer_all(agents, requests, transaction),
        Union(agents, transaction).answer_sum if unseen else None,
    )
    availability = availability_of(study, strategy)
    if availability is not None:
        channel = UnreliableChannel(channel, availability)
    return Federation(agents, channel, strategy_of(study, plan, strategy, randomness))


def answers_as_one(study: Study) -> bool:
    """Whether the hospitals of a study's main run answer with one sum."""
    unseen = study.privacy.plan == "none" or study.privacy.trust == "secure-aggregation"
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
