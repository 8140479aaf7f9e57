"""Models on disk as a finished run leaves them, with drawn weights, and what training's evaluation says of pictures."""

import hashlib

import numpy as np
import torch
from safetensors.torch import save_file

from wardround.images.entries import Target
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
from wardround.models.catalogue import NETWORKS, build
from wardround.models.linear import scoring_layer
from wardround.models.vectors import to_vector
from wardround.training.augment.augmentation import Augmentation
from wardround.training.losses import LOSSES, LOSSES_FOR
from wardround.training.workbench import Workbench


def picture_input(**changed):
    known = {"version": 1, "colour": "grey", "image_size": 32, "fit": "crop", "circle_crop": False, "patch": None}
    return PictureInput.model_validate(known | changed)


def volume_input(**changed):
    known = {
        "version": 1, "channels": 1, "volume_size": (16, 16, 16), "spacing": None, "window": None, "view": "volume",
        "patch": None,
    }  # fmt: skip
    return VolumeInput.model_validate(known | changed)


def drawn(name, recipe, num_classes, *, seed=1, **options):
    """A network of the catalogue whose every parameter is drawn, as if it had been trained; options are `build`'s."""
    channels, *size = recipe.shape
    network = build(
        name, size=tuple(size), channels=channels, num_classes=num_classes,
        init_generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip
    assert network.parts is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parts.body.parameters():
            parameter.add_(0.1 * parameter.abs().mean() + 0.02 * torch.randn(parameter.shape, generator=generator))
    return network


def save(folder, networks, recipe, classes=("clear", "lesion"), target="classes", of_network=None, **fields):
    """Writes model.json and model.safetensors of one network, or of several by name; returns the folder.

    `of_network` are fields of the card's network that cannot be seen on it; the rest are those of the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    several = isinstance(networks, dict)
    named = networks if several else {"": networks}
    tensors = {
        f"{name}/{key}" if several else key: value.clone()
        for name, network in named.items()
        for key, value in network.parts.body.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors")
    first = next(iter(named.values()))
    backbone = getattr(first.encode, "backbone", None)
    card = ModelCard(
        study=StudyReference(name="tiny", digest="0" * 64),
        statement="epsilon = 8.00 at delta = 0.001 for one patient",
        network=NetworkCard(
            name=first.name, width=NETWORKS[first.name].width, train=first.stage, init_seed=1,
            channels=recipe.shape[0], size=recipe.shape[1:], encoder=backbone and backbone.name,
            moments=backbone and backbone.moments,
            head="ordinal" if scoring_layer(first)[1] else "softmax", **(of_network or {}),
        ),
        target=target, classes=classes, recipe=recipe, normalisation=normalisation_of(first),
        encoder_sha256=frozen_sha256(first),
        weights=WeightsCard(
            sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
            models=tuple(networks) if several else (),
        ),
        **fields,
    )  # fmt: skip
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


def evaluated(images, network, *others, patch=None):
    """Training's own evaluation of every picture: probabilities, (picture, class); of masks the classes.

    Of several networks of one form it is their mean.
    """
    has_masks = images.masks is not None
    loss = LOSSES[LOSSES_FOR[Target.MASKS if has_masks else Target.CLASSES][0]]
    bench = Workbench(
        network, images.pixels, loss, 1 << 26, masks=images.masks, augmentation=Augmentation(patch=patch)
    )
    rows, weights = np.arange(len(images.pixels)), tuple(to_vector(one.trained) for one in (network, *others))
    if has_masks:
        return np.concatenate([masks for _, masks in bench.predicted_masks(weights, rows)])
    return bench.probabilities(weights, rows)
