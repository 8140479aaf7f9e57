"""`[model]`, `[training]` and `[performance]`: the network, what is made small, and how fast."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from wardround.config.section import Section, conflict
from wardround.models.backbones.names import (
    BACKBONES,
    ArchitectureName,
    Backbone,
    EncoderName,
    MomentsName,
    OwnEncoder,
)

VOXEL_HEADS = ("voxel_features", "boxed_voxel_features")
"""Networks that answer for each pixel or voxel by its own features alone."""


class OwnEncoderSection(Section):
    """`[model.own_encoder]`: a user's frozen, public encoder before the head of `features`, in place of `encoder`."""

    file: Path = Field(description="A .safetensors file with the weights of an architecture, or an .onnx graph.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file; another file is refused.")
    architecture: ArchitectureName | None = Field(
        None,
        description="Of a .safetensors file: the network of the catalogue, whose layers before the head are kept.",
    )
    provenance: str = Field(
        min_length=20,
        max_length=1000,
        description="One sentence: who trained it, on which data. Stands in the report with the question whether these "
        "data contain patients of the study.",
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.file.suffix.lower() not in (".onnx", ".safetensors"):
            raise conflict("study-own-encoder", f"file must end in .onnx or .safetensors, got {self.file.name}")
        if (self.file.suffix.lower() == ".onnx") != (self.architecture is None):
            raise conflict(
                "study-own-encoder",
                f"architecture is given exactly for a .safetensors file, got {self.file.name} with architecture = "
                f"{self.architecture or 'none'}; {'remove' if self.architecture else 'name'} it",
            )
        return self


class ModelSection(Section):
    """`[model]`: the network."""

    name: Literal[
        "auto",
        "linear", "features", "small_cnn", "squeezenet", "alexnet", "vgg11", "vgg11_gn", "vgg16", "resnet18",
        "densenet121", "vit_tiny", "unet", "unet3d", "small_unet", "unet_vgg11", "segresnet", "voxel_features",
        "boxed_voxel_features",
    ] = Field("auto", description="Which network; by default by the task: docs/heads.md.")  # fmt: skip
    width: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Channels of the first level, for U-Nets and alexnet; default: the network's own.",
    )
    weights: Path | None = Field(None, description="A .safetensors file of pretrained, public weights.")
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of that file, by which it is known; needed between real hospitals.",
    )
    train: Literal["all", "last-block", "norms", "lora", "biases", "head"] = Field(
        "all",
        description="Train everything, or the last layer: with all norms and the last block before it, with all norms, "
        "with all norms and low-rank adapters (LoRA), with all biases (BiTFiT), or alone.",
    )
    standardise_weights: bool = Field(
        False,
        description="Convolutions before the head: each output channel's weights have mean 0 and a fixed norm.",
    )
    init_seed: int = Field(0, ge=0, description="Which initial weights. A public constant.")
    encoder: EncoderName | None = Field(
        None, description='For features: the fixed encoding before the head; default: "hog".'
    )
    head: Literal["softmax", "ordinal"] = Field(
        "softmax",
        description='For features: a score a class, or "ordinal" for grades in an order, which "auto" takes for them.',
    )
    moments: MomentsName | None = Field(
        None,
        description='Public means and deviations that standardise a backbone\'s numbers; default: "generated".',
    )
    own_encoder: OwnEncoderSection | None = Field(
        None, description="For features: a frozen encoder from a file, in place of `encoder`."
    )

    @property
    def backbone(self) -> Backbone | OwnEncoder | None:
        """The frozen encoder with weights before the head; None for another network, and for histograms."""
        if (own := self.own_encoder) is not None:
            return OwnEncoder(own.sha256, own.architecture, own.provenance)
        chosen = next((name for name in BACKBONES if name == self.encoder), None)
        return None if chosen is None else Backbone(chosen, self.moments or "generated")

    @property
    def identity(self) -> dict[str, Any]:
        """The section's part of a study's digest: hashes of files and public numbers in place of paths and names.

        Keys that came later are left out at their default, so that an earlier study is the same study.
        """
        content = self.model_dump(mode="json", exclude={"own_encoder": {"file"}})
        if self.weights is not None:
            content["weights"] = self.weights_sha256 or self.weights.name
        if isinstance(backbone := self.backbone, Backbone):
            content["encoder"] = backbone.identity
        later = {"head": "softmax", "own_encoder": None}
        return {key: value for key, value in content.items() if key not in later or value != later[key]}

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.own_encoder is not None and (
            self.name != "features" or self.encoder or self.moments or self.weights
        ):
            raise conflict(
                "study-own-encoder",
                f'own_encoder is for name = "features" and stands for encoder, moments and weights, got "{self.name}"; '
                "remove the others, or own_encoder",
            )
        if self.head == "ordinal" and self.name != "features":
            raise conflict(
                "study-head", f'head = "ordinal" is for name = "features", got "{self.name}"; remove head'
            )
        if self.train == "lora" and self.standardise_weights:
            raise conflict(
                "study-lora",
                'train = "lora" adds to weights as they are, got standardise_weights = true; remove either',
            )
        if self.encoder is not None and self.name != "features":
            raise conflict("study-encoder", f'encoder is for name = "features", got "{self.name}"; remove encoder')
        if self.moments is not None and self.encoder not in BACKBONES:
            backbones = " or ".join(f'"{name}"' for name in BACKBONES)
            raise conflict("study-encoder", f"moments is for encoder = {backbones}; remove moments")
        if self.weights_sha256 is not None and self.weights is None:
            raise conflict("study-weights", "weights_sha256 is of a file: give weights as well, or remove it")
        return self


class AugmentSection(Section):
    """`[training.augment]`: how training pictures are varied; each from itself alone, by public numbers."""

    flip: tuple[Literal["horizontal", "vertical", "x", "y", "z"], ...] = Field(
        (), description="Axes along which a picture may be mirrored; none where sides matter."
    )
    rotate: float = Field(0.0, ge=0, le=180, description="At most this many degrees either way.")
    scale: float = Field(0.0, ge=0, lt=1, description="At most this share larger or smaller.")
    shift: float = Field(0.0, ge=0, lt=1, description="At most this share of the side either way.")
    patch: int | None = Field(None, ge=16, description="Side of a random patch; evaluation takes the centre.")
    brightness: float = Field(0.0, ge=0, lt=1, description="At most this share of the full range either way.")
    contrast: float = Field(0.0, ge=0, lt=1, description="At most this share more or less.")
    noise: float = Field(0.0, ge=0, lt=1, description="Standard deviation, at most this share of the full range.")
    multiplicity: int = Field(1, ge=1, le=32, description="Varied copies of each picture in a step.")


class TrainingSection(Section):
    """`[training]`: what is made small."""

    loss: Literal["cross_entropy", "focal", "ordinal", "dice", "dice_ce"] | None = Field(
        None, description="Default: cross_entropy for classes and grades, dice_ce for masks."
    )
    label_correction: Literal["forward", "backward", "none"] = Field(
        "forward", description="Noised labels: how the loss makes up for them."
    )
    stride: int = Field(
        1,
        ge=1,
        le=8,
        description="For networks of voxel features: train on every so many voxels along each axis. Default under "
        "dp-sgd for boxed_voxel_features: 2.",
    )
    augment: AugmentSection = Field(default_factory=AugmentSection.model_construct)


def check_stride(model: ModelSection, training: TrainingSection) -> None:
    """Refuses a stride where voxels are not trained on one by one, or change from step to step."""
    if training.stride > 1 and (
        model.name not in VOXEL_HEADS or training.augment != AugmentSection.model_construct()
    ):
        raise conflict(
            "study-stride",
            f"stride is for {' and '.join(VOXEL_HEADS)}, without [training.augment], got {training.stride} for "
            f'[model] name = "{model.name}"; remove stride',
        )


Threads = Annotated[int, Field(ge=1, le=1024)]
"""Threads of this process: no machine has more, and torch fails at numbers that are much larger."""


class PerformanceSection(Section):
    """`[performance]`: speed and memory; never the result's meaning."""

    threads: Threads | None = Field(
        None,
        description="Threads of a matrix product, or simulated hospitals that take local steps at one time; default: "
        "one, or all cores where they are faster.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Device of training steps and of evaluation; auto: a GPU where torch sees one. A seed, masked sums "
        "and a linear head keep to the processor.",
    )
    memory_gb: float = Field(
        1.0,
        gt=0,
        description="Memory for per-patient gradients at one time; of each core under masks, and where simulated "
        "hospitals take local steps.",
    )
    cache: Path | None = Field(None, description="Where decoded pictures are kept (they are private).")
    keep: Literal["last", "every-round"] = Field(
        "last", description="Released vectors that stay in checkpoints/: the last round's, or every round's."
    )
