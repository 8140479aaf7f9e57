"""The card of the model that a simulation trained."""

from collections.abc import Collection

from wardround.config import Study
from wardround.images.rows.recipe import VERSION
from wardround.models.card import (
    ModelCard,
    NetworkCard,
    PictureInput,
    StudyReference,
    VolumeInput,
    WeightsCard,
    frozen_sha256,
    normalisation_of,
)
from wardround.models.catalogue import NETWORKS
from wardround.simulation.materials import Materials


def card_of(
    study: Study, materials: Materials, models: Collection[str], weights_sha256: str, statement: str
) -> ModelCard:
    """Returns the card of a run's final models.

    Args:
        study: of the run.
        materials: of the run.
        models: their names.
        weights_sha256: of the content of `model.safetensors`.
        statement: the guarantee, one line.
    """
    images, network = materials.images, materials.workbench.network
    recipe = _recipe(study, images.pixels.shape[1])
    channels, *size = recipe.shape
    section = study.model
    return ModelCard(
        study=StudyReference(name=study.study.name, digest=study.digest),
        statement=statement,
        network=NetworkCard(
            name=section.name,
            width=section.width or NETWORKS[section.name].width,
            train=section.train,
            init_seed=section.init_seed,
            channels=channels,
            size=tuple(size),
        ),
        target=images.target.value,
        classes=images.class_names,
        recipe=recipe,
        normalisation=normalisation_of(network),
        encoder_sha256=frozen_sha256(network),
        weights=WeightsCard(sha256=weights_sha256, models=tuple(models) if len(models) > 1 else ()),
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
