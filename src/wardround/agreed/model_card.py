"""The card of the model that a study trained, from the study and what hospitals say of their pictures."""

from dataclasses import asdict

from wardround.config import Study
from wardround.images.entries import Target
from wardround.images.rows.recipe import VERSION
from wardround.models.backbones.names import Backbone, OwnEncoder
from wardround.models.card import (
    ModelCard,
    NetworkCard,
    OwnEncoderCard,
    PictureInput,
    StudyReference,
    VolumeInput,
    WeightsCard,
    frozen_sha256,
    normalisation_of,
)
from wardround.models.catalogue import NETWORKS
from wardround.models.network import Network
from wardround.models.operating_point import OperatingPoint


def card_of(
    study: Study,
    network: Network,
    weights: WeightsCard,
    *,
    target: Target,
    classes: tuple[str, ...],
    channels: int,
    statement: str,
    operating_points: tuple[OperatingPoint, ...] = (),
) -> ModelCard:
    """Returns the model card of a study's final model or models.

    `channels` are those of a preprocessed picture or volume, and `statement` is the guarantee in one line. Of the
    network only its frozen parameters and its encoding are read.
    """
    recipe, section = _recipe(study, channels), study.model
    backbone = section.backbone
    return ModelCard(
        study=StudyReference(name=study.study.name, digest=study.digest),
        statement=statement,
        network=NetworkCard(
            name=section.name,
            width=section.width or NETWORKS[section.name].width,
            train=section.train,
            init_seed=section.init_seed,
            channels=recipe.shape[0],
            size=recipe.shape[1:],
            encoder=backbone.name if isinstance(backbone, Backbone) else None,
            moments=backbone.moments if isinstance(backbone, Backbone) else None,
            standardise_weights=section.standardise_weights,
            head=section.head,
            own=OwnEncoderCard(**asdict(backbone)) if isinstance(backbone, OwnEncoder) else None,
        ),
        target=target.value,
        classes=classes,
        recipe=recipe,
        normalisation=normalisation_of(network),
        encoder_sha256=frozen_sha256(network),
        weights=weights,
        modalities=study.data.modalities,
        operating_points=operating_points,
    )


def _recipe(study: Study, channels: int) -> PictureInput | VolumeInput:
    data, patch = study.data, study.training.augment.patch
    if data.volume_size is None:
        return PictureInput(
            version=VERSION,
            colour=data.colour,
            image_size=data.image_size,
            fit=data.fit,
            circle_crop=data.circle_crop,
            bits=data.bits,
            patch=patch,
        )
    return VolumeInput(
        version=VERSION,
        channels=channels,
        volume_size=data.volume_size,
        spacing=data.spacing,
        window=data.window,
        view=data.view,
        patch=patch,
    )
