"""The network of a study, its loss, and how training pictures are varied."""

import torch

from wardround.config import Study
from wardround.errors import ModelError, StudyError
from wardround.federation.local_training import Repair
from wardround.images.entries import Target
from wardround.models.backbones.names import Backbone
from wardround.models.catalogue import NAMES, build
from wardround.models.network import Network
from wardround.per_patient.batch import Loss
from wardround.per_patient.validation import check_trainable
from wardround.training.augment.augmentation import Augmentation, Axis
from wardround.training.convex import linear_head
from wardround.training.losses import LOSSES, LOSSES_FOR
from wardround.training.threads import using_threads


def loss_of(study: Study, target: Target) -> Loss:
    """Returns what is made small, for each picture.

    Raises:
        ModelError: a loss that does not fit what is predicted.
    """
    fitting = LOSSES_FOR[target]
    name = study.training.loss or fitting[0]
    if name not in fitting:
        raise ModelError(f"training.loss must be one of {', '.join(fitting)} for {target}, got {name}; change it.")
    return LOSSES[name]


def augmentation_of(study: Study, spacing: tuple[float, ...] | None) -> Augmentation:
    """Returns how training pictures are varied."""
    section = study.training.augment
    flip = tuple(Axis(axis) for axis in section.flip)
    return Augmentation(**section.model_dump(exclude={"flip"}), flip=flip, spacing=spacing)


def build_network(study: Study, *, target: Target, num_classes: int, shape: tuple[int, ...]) -> Network:
    """Returns the study's network, refused when it mixes patients.

    The shape is (channel, *space) of a preprocessed picture.

    Raises:
        ModelError: it does not predict that, does not fit the pictures, or mixes patients.
        StudyError: a repair by classes, and pictures have masks (code `study-repair`).
    """
    name, augmentation, own = study.model.name, augmentation_of(study, None), study.model.own_encoder
    fitting = NAMES["segmentation" if target is Target.MASKS else "classification"]
    if name not in fitting:
        raise ModelError(f"model.name must be one of {', '.join(fitting)} for {target}, got {name}; change it.")
    _check_moments(study)
    if study.model.head == "ordinal" and target is not Target.GRADES:
        raise ModelError(
            f'`[model] head` must be "softmax" for {target.value}, got "ordinal"; it is for grades in an order.',
            code="model-head",
        )
    if target is Target.MASKS and Repair(getattr(study.federation, "repair", "none")).counts_classes:
        raise StudyError(
            "a repair by classes must have one class a picture, and masks have one a pixel; set `[federation] repair` "
            'to "proportional", or remove it.',
            code="study-repair",
        )
    channels, *space = shape
    augmentation.check(tuple(space))
    size = tuple(space) if augmentation.patch is None else (augmentation.patch,) * len(space)
    network = build(
        name,
        size=size,
        channels=channels,
        num_classes=num_classes,
        train=study.model.train,
        weights=study.model.weights if own is None else own.file,
        width=study.model.width,
        backbone=study.model.backbone,
        head=study.model.head,
        standardise_weights=study.model.standardise_weights,
        init_generator=torch.Generator().manual_seed(study.model.init_seed),
    )
    if network.encode_once and not augmentation.is_identity:
        raise ModelError(
            f"{name} reads features that are computed once from each picture, so training.augment would change "
            'nothing; remove it, or choose another network or train = "all".'
        )
    _check_weights(study, network)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, channels, *size), dtype=torch.uint8, generator=generator)
    network.trained.train()
    with using_threads(study.performance.threads):
        check_trainable(network.trained, network.encode(noise))
    if study.fits_head:
        linear_head(network)
    return network


def _check_moments(study: Study) -> None:
    """Refuses constants that were computed from the study's own pictures: they would be a release without noise."""
    backbone = study.model.backbone
    if isinstance(backbone, Backbone) and backbone.moments == "chest-xray" and study.site.layout == "chest_xray":
        raise ModelError(
            '`[model] moments` must be of other pictures than the study\'s, got "chest-xray" with the layout '
            'chest_xray; set moments = "generated".',
            code="model-own-moments",
        )


def _check_weights(study: Study, network: Network) -> None:
    """Refuses a weights file that is not the one the study names by its hash."""
    wanted, read = study.model.weights_sha256, network.weights_sha256
    if wanted is not None and read != wanted:
        raise ModelError(
            f"model.weights must be the file with SHA-256 {wanted}, got {read}. Ask the study's author for "
            "the file.",
            code="model-other-weights",
        )
