"""What a study works on: its pictures, its hospitals and test patients, and its network."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wardround.config import Study
from wardround.coordinator.observer import Observer
from wardround.errors import DataError, ModelError
from wardround.images.entries import Target
from wardround.images.layouts.phantom import PhantomOptions
from wardround.images.layouts.readers import ReaderOptions
from wardround.images.load import Volumes, load_images
from wardround.images.patients import ImageSet
from wardround.images.rows.recipe import View
from wardround.models.catalogue import NAMES, build
from wardround.models.network import Network
from wardround.per_patient.validation import check_trainable
from wardround.simulation.dealing import Scheme, Split, split_patients
from wardround.training.augment.augmentation import Augmentation
from wardround.training.augment.axes import Axis
from wardround.training.convex import linear_head
from wardround.training.losses import LOSSES, LOSSES_FOR, Loss
from wardround.training.patients import TrainingPatients, training_patients
from wardround.training.workbench import Workbench
from wardround.types import HospitalName

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
    site, phantom = study.site, study.site.phantom
    cache = (study.performance.cache or DEFAULT_CACHE).expanduser()
    return load_images(
        site.layout,
        site.path if site.layout != "phantom" else None,
        image_size=data.image_size,
        channels=data.channels,
        fit=data.fit,
        circle=data.circle_crop,
        volumes=volumes_of(study),
        task=data.task,
        cache_dir=cache,
        skip_unreadable=site.skip_unreadable,
        duplicates=site.duplicates,
        options=reader_options(study),
        phantom=PhantomOptions(
            patients=phantom.patients,
            max_images=phantom.max_images,
            sites=phantom.sites,
            image_size=phantom.image_size,
            seed=phantom.seed,
            prevalence=phantom.prevalence,
        )
        if site.layout == "phantom"
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
    site = study.site
    key_file = site.key_file or (study.performance.cache or DEFAULT_CACHE).expanduser() / "hospital.key"
    return ReaderOptions(key_file, site.labels, site.reviewed, study.data.segments)


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
