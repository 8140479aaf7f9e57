"""The model card: everything that a picture and `model.safetensors` need to become an answer, without the run.

`model.json` holds public facts only: the study's own settings, class names, hashes. No count, path or patient.
"""

import json
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from wardround.boundary.documents import Unfit, load_json
from wardround.boundary.text import brief
from wardround.errors import ModelError
from wardround.models.backbones.names import ArchitectureName, Backbone, BackboneName, MomentsName, OwnEncoder
from wardround.models.network import Constants, HeadName, Network, Stage
from wardround.models.operating_point import Name, OperatingPoint, Record
from wardround.models.vectors import digest_of

VERSION: Final = 1

ENCODER: Final = "encoder.onnx"
"""A user's own encoder beside the card, where it is an ONNX graph; one of safetensors is part of the weights."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=4096)]


class PictureInput(Record):
    """The recipe of a picture, scaled to a square; the words are those of `wardround.images.rows.recipe`.

    `patch` is the side of the centre that the network reads, in pixels; None for the whole picture.
    """

    kind: Literal["picture"] = "picture"
    version: int
    colour: Literal["grey", "rgb"]
    image_size: Side
    fit: Literal["crop", "pad", "stretch"]
    circle_crop: bool
    bits: Annotated[int, Field(ge=9, le=16)] = 16
    patch: Side | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, height, width) that the network reads."""
        side = self.image_size if self.patch is None else self.patch
        return (1 if self.colour == "grey" else 3, side, side)


class VolumeInput(Record):
    """The recipe of a volume in RAS+; the words are those of `wardround.images.rows.recipe`.

    Attributes:
        spacing: mm between voxels along x, y and z; None keeps each volume's own.
        window: physical values that become black and white; None takes percentiles of each volume.
        view: the volume whole, or as axial slices.
        patch: side of the centre that the network reads, in voxels; None for all of it.
    """

    kind: Literal["volume"] = "volume"
    version: int
    channels: Side
    volume_size: tuple[Side, Side, Side]
    spacing: tuple[float, float, float] | None
    window: tuple[float, float] | None
    view: Literal["volume", "slices"]
    patch: Side | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, x, y, z) that the network reads, or (channel, height, width) of an axial slice."""
        x, y, z = self.volume_size
        space = (y, x) if self.view == "slices" else (x, y, z)
        return (self.channels, *(space if self.patch is None else (self.patch,) * len(space)))


class OwnEncoderCard(Record):
    """A user's frozen encoder, see `wardround.models.backbones.names.OwnEncoder`."""

    sha256: Sha256
    architecture: ArchitectureName | None
    provenance: Name


class NetworkCard(Record):
    """The arguments of `wardround.models.catalogue.build`, but for the number of classes."""

    name: Name
    width: int | None
    train: Stage
    init_seed: int
    channels: Side
    size: tuple[Side, ...]
    encoder: BackboneName | None = None
    moments: MomentsName | None = None
    own: OwnEncoderCard | None = None
    head: HeadName = "softmax"
    standardise_weights: bool = False

    @property
    def backbone(self) -> Backbone | OwnEncoder | None:
        """The encoder with weights before the head of `features`; None for another network, and for histograms."""
        if self.own is not None:
            return OwnEncoder(self.own.sha256, self.own.architecture, self.own.provenance)
        if self.encoder is None or self.moments is None:
            return None
        return Backbone(self.encoder, self.moments)


class WeightsCard(Record):
    """SHA-256 of `model.safetensors`, and the names of the models that share it; none for one model."""

    sha256: Sha256
    models: tuple[Name, ...]


class StudyReference(Record):
    """The study that trained the model."""

    name: Name
    digest: Sha256


class ModelCard(Record):
    """A trained model in use: its input, its network, its answer and its provenance.

    Attributes:
        target: classes, grades in an order, or a class for every pixel or voxel.
        classes: names of the logits, in order.
        modalities: of the pictures that the study reads, as DICOM or BIDS writes them; None where it names none.
        normalisation: constants of the network's encoding, see `Encoder.constants`.
        encoder_sha256: of the frozen parameters, see `frozen_sha256`; None where every parameter was trained.
        operating_points: of each class, of two classes of the second; none where no moments of scores were released.
    """

    version: Literal[1] = VERSION
    study: StudyReference
    statement: str
    network: NetworkCard
    target: Literal["classes", "grades", "masks"]
    classes: Annotated[tuple[Name, ...], Field(min_length=2)]
    recipe: Annotated[PictureInput | VolumeInput, Field(discriminator="kind")]
    normalisation: Constants
    encoder_sha256: Sha256 | None
    weights: WeightsCard
    modalities: tuple[Name, ...] | None = None
    operating_points: tuple[OperatingPoint, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = (self.network.channels, *self.network.size)
        if self.recipe.shape != given:
            raise ValueError(f"recipe makes {self.recipe.shape}, and network reads {given}")
        for names in (self.classes, self.weights.models):
            if len(set(names)) < len(names):
                raise ValueError(f"names must differ, got {', '.join(names)}")
        return self

    def to_json(self) -> dict[str, object]:
        """Returns the card as JSON holds it; `from_json` gives an equal card."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, content: object) -> "ModelCard":
        """Returns the card that some JSON holds.

        Raises:
            ModelError: no card (code `model-card`), or one of another format (`model-card-version`).
        """
        if not isinstance(content, dict):
            raise _no_card(f"got {type(content).__name__}, not an object")
        version = content.get("version")
        if type(version) is not int or version != VERSION:
            raise ModelError(
                f"`version` of a model card must be {VERSION}, got {brief(version)}; read it with the release of "
                "wardround that wrote it.",
                code="model-card-version",
            )
        try:
            return cls.model_validate_json(json.dumps(content))  # strict, and a JSON array is a tuple
        except ValidationError as error:
            faults = [
                f"`{'.'.join(map(str, fault['loc'])) or 'card'}`: {fault['msg']}" for fault in error.errors()
            ]
            raise _no_card("; ".join(faults)) from None


def read_card(path: Path) -> ModelCard:
    """Returns the card in `model.json`.

    Raises:
        ModelError: as `ModelCard.from_json`, and for a file that is no JSON.
    """
    try:
        content = load_json(path)
    except (OSError, Unfit) as error:
        raise _no_card(f"{path.name} cannot be read ({error})") from None
    return ModelCard.from_json(content)


def frozen_sha256(network: Network) -> str | None:
    """Returns the SHA-256 of the frozen parameters' names, shapes and values.

    None where there are none, as in a saved model whose adapters were merged into the weights.
    """
    assert network.parts is not None, "the network was made by build"
    frozen = {n: p for n, p in network.parts.body.named_parameters() if not p.requires_grad}
    return digest_of(frozen) if frozen and network.stage != "lora" else None


def normalisation_of(network: Network) -> Constants:
    """Returns the constants of a network's encoding."""
    assert network.parts is not None, "the network was made by build"
    return network.parts.encoder.constants()


def _no_card(fault: str) -> ModelError:
    return ModelError(f"A model card must hold what a run wrote: {fault}; restore model.json.", code="model-card")
