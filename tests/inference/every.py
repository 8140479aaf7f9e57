"""A model of every network, head, encoder, colour and recipe, with pictures and training's own evaluation of them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.images.nifti_files import nifti_bytes
from tests.inference.saved import drawn, evaluated, picture_input, save, volume_input
from torch import nn

from wardround.images.load import load_images
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe, View, VolumeRecipe
from wardround.inference.model import Model, load
from wardround.models.backbones.names import SIDE, Backbone, OwnEncoder
from wardround.models.card import OwnEncoderCard, PictureInput, VolumeInput
from wardround.models.catalogue import NAMES, NETWORKS
from wardround.models.operating_point import ByThreshold

LEAST = {
    "alexnet": 64,
    "squeezenet": 32,
    "linear": 16,
    "features": 16,
    "small_cnn": 16,
    "vit_tiny": 32,
    "unet_vgg11": 64,
}
GIANTS = ("alexnet", "vgg11", "vgg16")
"""Networks of more than 50 million parameters."""

LAST_LAYER = {"squeezenet": 1e-3, "alexnet": 5e-5, "vgg11": 5e-7, "vgg16": 5e-9}
"""Factors of the last layer of networks without normalisation, for logits of drawn weights of order 1 to 10."""


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        classes: number of its classes; with an ordinal head grades.
        members: networks that share its file, whose mean answers.
        calibrated: its card has operating points.
        options: of `tests.inference.saved.drawn`.
    """

    network: str
    recipe: PictureInput | VolumeInput
    classes: int = 2
    members: int = 1
    calibrated: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def target(self) -> str:
        if self.network in NAMES["segmentation"]:
            return "masks"
        return "grades" if ("head", "ordinal") in self.options else "classes"

    @property
    def needs_backbone(self) -> bool:
        return any(isinstance(value, Backbone) for _, value in self.options)


def _cases() -> Iterator[tuple[str, Case]]:
    """Yields every network in grey and in colours, of volumes whole and in slices; and every head and encoder."""
    for name, builder in NETWORKS.items():
        size = LEAST.get(name, 48 if builder.segments else 32)
        if 2 in builder.dimensions:
            grey = {"image_size": size, "fit": "pad" if name in GIANTS else "crop"}
            yield f"{name} grey", Case(name, picture_input(**grey))
            # Colours take the other ways of a recipe: the middle of a larger square, stretched, of three classes.
            rgb = {"image_size": size + 16, "patch": size, "colour": "rgb", "fit": "stretch", "bits": 12}
            if name == "features":  # its inputs are computed once, of a whole picture
                del rgb["patch"]
            if name not in GIANTS:
                yield f"{name} rgb", Case(name, picture_input(**rgb), 3)
        if 3 in builder.dimensions:
            size = 32 if name in ("resnet18", "densenet121") else 16
            yield f"{name} volume", Case(name, volume_input(volume_size=(size, size, size)))
    window = {"spacing": (1.5, 1.0, 2.0), "window": (-50.0, 300.0)}
    for name in ("linear", "unet"):
        volume = volume_input(volume_size=(24, 16, 16), patch=16, **window)
        yield f"{name} of a window", Case(name, volume, 3)
        yield f"{name} of slices", Case(name, volume_input(volume_size=(16, 16, 12), view="slices", **window))
    yield "small_cnn of a disc", Case("small_cnn", picture_input(colour="rgb", circle_crop=True, fit="pad"))
    yield "small_cnn standardised", Case("small_cnn", picture_input(), options=(("standardise_weights", True),))
    yield "resnet18 head alone", Case("resnet18", picture_input(), options=(("train", "head"),))
    yield "small_cnn of three hospitals", Case("small_cnn", picture_input(), members=3)
    for classes in (2, 3):
        yield f"features calibrated {classes}", Case("features", picture_input(), classes, calibrated=True)
    encoders: dict[str, Backbone | OwnEncoder | None] = {
        "hog": None,
        "lite0": Backbone("efficientnet-lite0"),
        "lite0-all": Backbone("efficientnet-lite0-all", "chest-xray"),
        "own resnet18": OwnEncoder("0" * 64, "resnet18", "Made for this test."),
        "own vit_tiny": OwnEncoder("0" * 64, "vit_tiny", "Made for this test."),
    }
    for encoder, backbone in encoders.items():
        size = SIDE if isinstance(backbone, Backbone) else 32
        own = () if backbone is None else (("backbone", backbone),)
        for colour in ("grey", "rgb"):
            recipe = picture_input(image_size=size, colour=colour)
            yield f"{encoder} {colour} grades", Case("features", recipe, 4, options=(("head", "ordinal"), *own))
            if own:
                yield f"{encoder} {colour}", Case("features", recipe, options=own)


CASES = dict(_cases())


@dataclass(frozen=True)
class Made:
    """A saved model, the folder of its pictures, and training's evaluation of each file, by its name."""

    model: Model
    pictures: Path
    expected: dict[str, Any]


def made(case: Case, place: Path, cache: Path) -> Made:
    """Returns the model of a case, with every parameter drawn, and four pictures that training has read."""
    recipe, has_masks = case.recipe, case.target == "masks"
    root = place / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    files = list((_volumes if isinstance(recipe, VolumeInput) else _pictures)(root, has_masks))
    classes = ("background", "box", "other")[: case.classes] if has_masks else tuple("abcd")[: case.classes]
    lines = [f"images/{file},p{n},{'abcd'[n % case.classes]},masks/{mask}" for n, (file, mask) in enumerate(files)]
    (root / "manifest.csv").write_text("\n".join(["image,patient,label,mask", *lines]) + "\n")
    table = [f"{number},{name}" for number, name in enumerate(classes)]
    (root / "classes.csv").write_text("\n".join(["index,name", *table]) + "\n")
    by: PictureRecipe | VolumeRecipe
    if isinstance(recipe, VolumeInput):
        by = VolumeRecipe(recipe.volume_size, 1, recipe.spacing, recipe.window, View(recipe.view))
    else:
        channels = 1 if recipe.colour == "grey" else 3
        by = PictureRecipe(recipe.image_size, channels, Fit(recipe.fit), recipe.circle_crop, recipe.bits)
    task = "segmentation" if has_masks else "classification"
    images = load_images("manifest", root, cache_dir=cache, task=task, recipes=[by])
    options = dict(case.options)
    networks = [drawn(case.network, recipe, case.classes, seed=n + 1, **options) for n in range(case.members)]
    for network in networks if case.network in LAST_LAYER else ():
        *_, last = (layer for layer in network.trained.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
        for parameter in last.parameters():
            parameter.data *= LAST_LAYER[case.network]
    own = options.get("backbone")
    of_network: dict[str, Any] = {"standardise_weights": True} if "standardise_weights" in options else {}
    if isinstance(own, OwnEncoder):
        of_network = {"own": OwnEncoderCard(**asdict(own))}
    fields = {"operating_points": _points(classes)} if case.calibrated else {}
    members = {f"hospital {n}": network for n, network in enumerate(networks)}
    given = members if case.members > 1 else networks[0]
    model = load(save(place / "run", given, recipe, classes, case.target, of_network, **fields))
    values = evaluated(images, *networks, patch=recipe.patch)
    rows: dict[str, list[int]] = {}
    for patient in images.patients:
        for image in patient.images:
            rows.setdefault(Path(image.file).name, []).append(image.row)
    return Made(model, root / "images", {name: values[rows[name]] for name in sorted(rows)})


def _points(classes: tuple[str, ...]) -> tuple[ByThreshold, ...]:
    named = classes[1:] if len(classes) == 2 else classes
    return tuple(
        ByThreshold(class_name=name, thresholds=(), slope=0.5 + n, intercept=0.3 - n, patients_std=1.0)
        for n, name in enumerate(named)
    )


def _pictures(root: Path, has_masks: bool) -> Iterator[tuple[str, str]]:
    """Writes pictures of several kinds, and masks on their pixels; yields the names of both."""
    turned = Image.Exif()
    turned[0x0112] = 6
    # A mask lies on pixels as they are stored, so that a turned picture has none.
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "0.png": ("L", {}), "1.png": ("RGB", {}), "2.jpg": ("RGB", {} if has_masks else {"exif": turned}),
        "3.png": ("I;16", {}),
    }  # fmt: skip
    for number, (file, (mode, options)) in enumerate(kinds.items()):
        generator = np.random.default_rng(number)
        height, width = 90 + 20 * number, 120 - 10 * number
        coarse = generator.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        colours = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        if mode == "I;16":
            Image.fromarray(np.asarray(colours)[..., 0].astype(np.uint16) * 16).save(root / "images" / file)
        else:
            colours.convert(mode).save(root / "images" / file, **options)
        mask = (np.asarray(colours)[..., 1] > 128).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        yield file, f"{number}.png"


def _volumes(root: Path, has_masks: bool) -> Iterator[tuple[str, str]]:
    """Writes volumes and masks of one grid, whose axes differ in length and spacing; yields the names of both."""
    del has_masks
    affine = np.array([[-1.0, 0, 0, 5], [0, 0, 1.2, -3], [0, 2.0, 0, 1], [0, 0, 0, 1]])
    for number in range(4):
        generator = np.random.default_rng(number)
        values = generator.integers(0, 256, (20 + number, 14, 33)).astype(np.int16)
        for folder, content in (("images", values), ("masks", (values > 128).astype(np.uint8))):
            (root / folder / f"{number}.nii.gz").write_bytes(nifti_bytes(content, affine))
        yield f"{number}.nii.gz", f"{number}.nii.gz"
