"""The study file: one TOML, read into nested frozen models; what it does not know, it refuses.

What changes the guarantee stands in `[privacy]`, what changes speed in `[performance]`. Give epsilon *or*
noise_multiplier; the other is computed and recorded. Not private is a plan too: `plan = "none"`.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wardround.errors import StudyError

Probability = Annotated[float, Field(gt=0, le=1)]
VoxelCount = Annotated[int, Field(ge=4, le=1024)]
Millimetres = Annotated[float, Field(ge=0.05, le=50)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudySection(_Section):
    """`[study]`: what this is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Lower-case name; names the run folder.")
    description: str = Field("", description="A sentence for the report.")
    seed: int | None = Field(
        None,
        ge=0,
        description="Makes the run reproducible and NOT private: noise and sampling can be recomputed. "
        "Leave it out in earnest; they then come from the operating system.",
    )


class PhantomSection(_Section):
    """`[data.phantom]`: generated radiographs, for trying things out."""

    patients: int = Field(600, ge=10, description="Number of generated patients.")
    max_images: int = Field(4, ge=1, le=32, description="Patients have 1 to this many pictures.")
    sites: int = Field(5, ge=1, description="Number of scanners, each with its own shift.")
    image_size: int = Field(96, ge=32, le=512, description="Side of a generated picture, in pixels.")
    seed: int = Field(0, ge=0, description="Which phantoms. Public: phantoms are nobody.")
    prevalence: float = Field(0.5, gt=0, lt=1, description="Share of patients with a lesion.")


class DataSection(_Section):
    """`[data]`: where the pictures are and how they are read."""

    layout: Literal["chest_xray", "folder", "aptos", "decathlon", "manifest", "dicom", "phantom"] = Field(
        description="How the pictures lie on disk."
    )
    path: Path | None = Field(None, description="The data folder, a .zip or a .tar; `--data` overrides it.")
    task: Literal["binary", "subtype", "classification", "grading", "referable", "segmentation"] | None = Field(
        None, description="What the labels are read as; default: the layout's first reading."
    )
    image_size: int = Field(64, ge=16, le=1024, description="Side of a picture after preprocessing, in pixels.")
    colour: Literal["grey", "rgb"] = Field("grey", description="One channel or three.")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="What becomes of a picture that is no square."
    )
    circle_crop: bool = Field(False, description="Crop to the bright disc of a fundus photograph first.")
    volume_size: tuple[VoxelCount, VoxelCount, VoxelCount] | None = Field(
        None, description="Volumes: voxels along x, y and z (right, front, head) after preprocessing."
    )
    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        None, description="Volumes: mm between voxels; default: each volume's own."
    )
    window: tuple[float, float] | None = Field(
        None, description="Volumes: physical values that become black and white; default: percentiles of each."
    )
    view: Literal["volume", "slices"] = Field("volume", description="Volumes whole, or as axial slices.")
    labels: Path | None = Field(None, description="dicom: the table of labels; default: labels.csv in the folder.")
    key_file: Path | None = Field(
        None, description="dicom: the hospital's own key for pseudonyms; made where there is none."
    )
    segments: tuple[str, ...] | None = Field(
        None, description="dicom: labels of the segments that are classes 1, 2, ...; hospitals must agree on them."
    )
    reviewed: bool = Field(
        False, description="dicom: let in pictures that may show a name in their pixels; somebody has looked."
    )
    skip_unreadable: bool = Field(False, description="Leave unreadable files out instead of stopping.")
    duplicates: Literal["merge", "keep", "refuse"] = Field(
        "merge", description="Identical pictures under two patients: one person (merge), two (keep), or stop."
    )
    test: Literal["patients", "published"] = Field(
        "patients", description="Test patients set aside, or the published split, which leaks."
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of patients set aside for testing.")
    phantom: PhantomSection = Field(default_factory=PhantomSection.model_construct)

    @model_validator(mode="after")
    def _volumes_fit(self) -> Self:
        if self.volume_size is None:
            given = [k for k in ("spacing", "window") if getattr(self, k) is not None]
            given += ["view"] * (self.view != "volume")
            if given:
                raise ValueError(f"{given[0]} belongs to volumes; set volume_size, or remove it")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window must rise, for instance [-200, 250] for a liver in CT")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of a preprocessed picture."""
        return 1 if self.colour == "grey" else 3


class HospitalsSection(_Section):
    """`[hospitals]`: who holds which patients (simulated inside one data set)."""

    count: int = Field(5, ge=1, le=10_000, description="Number of hospitals.")
    scheme: Literal["even", "sizes", "dirichlet", "label-shards", "site"] = Field(
        "even", description="How patients are dealt out."
    )
    sizes: tuple[int, ...] | None = Field(None, description='Patients a hospital, for scheme = "sizes".')
    alpha: float = Field(0.5, gt=0, description='Label skew of scheme = "dirichlet": smaller is more uneven.')
    shards_per_hospital: int = Field(2, ge=1, description='For scheme = "label-shards".')
    split_seed: int = Field(0, ge=0, description="Which split. A public constant, the same in every run.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if (self.scheme == "sizes") != (self.sizes is not None):
            raise ValueError('sizes is given exactly when scheme = "sizes"')
        if self.sizes is not None and len(self.sizes) != self.count:
            raise ValueError(f"sizes must name {self.count} hospitals, got {len(self.sizes)}; set count or sizes")
        return self


class ModelSection(_Section):
    """`[model]`: the network."""

    name: Literal[
        "linear", "features", "small_cnn", "squeezenet", "alexnet", "vgg11", "vgg11_gn", "vgg16", "resnet18",
        "densenet121", "vit_tiny", "unet", "unet3d", "small_unet", "unet_vgg11", "segresnet", "voxel_features",
    ] = Field(description="Which network.")  # fmt: skip
    width: int | None = Field(
        None, ge=1, le=256, description="Channels of the first level, for U-Nets; default: the network's own."
    )
    weights: Path | None = Field(None, description="A .safetensors file of pretrained, public weights.")
    train: Literal["all", "norms", "head"] = Field(
        "all", description="Train everything, the last layer and all norms, or the last layer alone."
    )
    init_seed: int = Field(0, ge=0, description="Which initial weights. A public constant.")


class AugmentSection(_Section):
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


class TrainingSection(_Section):
    """`[training]`: what is made small."""

    loss: Literal["cross_entropy", "focal", "ordinal", "dice", "dice_ce"] | None = Field(
        None, description="Default: cross_entropy for classes and grades, dice_ce for masks."
    )
    augment: AugmentSection = Field(default_factory=AugmentSection.model_construct)


class PrivacySection(_Section):
    """`[privacy]`: everything that changes the guarantee, and nothing else."""

    plan: Literal["dp-sgd", "none"] = Field(description='"dp-sgd", or "none": epsilon is then infinity.')
    unit: Literal["patient"] = Field("patient", description="Who is protected: one person with all images.")
    epsilon: float | None = Field(None, gt=0, description="The promise; noise_multiplier is computed.")
    noise_multiplier: float | None = Field(
        None, gt=0, description="Noise std / clipping_norm; epsilon is computed."
    )
    delta: float | None = Field(None, gt=0, lt=1, description="Target delta; well below 1 / patients.")
    clipping_norm: float = Field(1.0, gt=0, description="Bound on one patient's gradient (L2).")
    clipping: Literal["flat", "per-layer", "per-layer-by-size", "automatic", "adaptive"] = Field(
        "flat", description="How gradients are brought to that norm; an adaptive norm starts there."
    )
    clipping_quantile: float = Field(
        0.5, ge=0, le=1, description='Share of patients left unclipped, for clipping = "adaptive".'
    )
    sampling_prob: Probability = Field(1.0, description="Poisson probability of a patient; 1 = everyone.")
    images_per_patient: int = Field(8, ge=1, description="A patient's gradient averages at most this many.")
    num_patients: int | None = Field(
        None,
        ge=1,
        description="Public size of the training set; left out, it is counted privately and charged.",
    )
    accountant: Literal["pld", "rdp"] = Field("pld", description="What computes epsilon; both are upper bounds.")
    trust: Literal["coordinator", "secure-aggregation", "nobody"] = Field(
        "secure-aggregation", description="Who adds noise, and so who may see what."
    )
    colluders: int = Field(1, ge=0, description="Hospitals that may collude, under secure-aggregation.")
    dropouts: int = Field(0, ge=0, description="Hospitals that may be missing, under secure-aggregation.")
    epsilon_limit: float | None = Field(
        None, gt=0, description="A hospital's own limit over all its studies; default: this study's epsilon."
    )
    ledger: Path | None = Field(None, description="A ledger shared between runs; default: one in the run folder.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.plan == "none":
            given = [k for k in ("epsilon", "noise_multiplier") if getattr(self, k) is not None]
            if given:
                raise ValueError(f'plan = "none" takes no {given[0]}; remove it, or set plan = "dp-sgd"')
            return self
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give epsilon or noise_multiplier, exactly one of them; the other is computed")
        if self.delta is None:
            raise ValueError("delta must be given, for instance delta = 1e-5 for a few thousand patients")
        return self


class FederationSection(_Section):
    """`[federation]`: how the rounds go."""

    strategy: Literal["fedsgd", "fedavg", "alone", "pooled"] = Field("fedsgd", description="How hospitals work.")
    rounds: int = Field(100, ge=1, description="Communication rounds.")
    local_steps: int = Field(1, ge=1, description="fedavg: optimizer steps at a hospital in a round.")
    learning_rate: float = Field(1.0, gt=0, description="Step size.")
    momentum: float = Field(0.9, ge=0, lt=1, description="At the server for fedsgd, local for fedavg.")
    average_last: float = Field(
        0.0, ge=0, lt=1, description="Release the mean of the last part of the rounds' weights (0: the last)."
    )
    evaluate_every: int = Field(10, ge=1, description="Rounds between two looks at the test patients.")
    compare: tuple[Literal["no-privacy", "pooled", "pooled-no-privacy", "alone", "alone-no-privacy"], ...] = Field(
        (), description="Reference runs beside the main one; simulation only."
    )

    @model_validator(mode="after")
    def _local_steps_fit(self) -> Self:
        if self.strategy != "fedavg" and self.local_steps != 1:
            raise ValueError('local_steps belongs to strategy = "fedavg"; remove it or change the strategy')
        return self


class PerformanceSection(_Section):
    """`[performance]`: speed and memory; never the result's meaning."""

    threads: int | None = Field(None, ge=1, description="Threads of a matrix product; default: all cores.")
    memory_gb: float = Field(1.0, gt=0, description="Memory for per-patient gradients at one time.")
    cache: Path | None = Field(None, description="Where decoded pictures are kept (they are private).")


class Study(_Section):
    """One study file, checked as a whole."""

    study: StudySection
    data: DataSection
    hospitals: HospitalsSection = Field(default_factory=HospitalsSection.model_construct)
    model: ModelSection
    training: TrainingSection = Field(default_factory=TrainingSection.model_construct)
    privacy: PrivacySection
    federation: FederationSection = Field(default_factory=FederationSection.model_construct)
    performance: PerformanceSection = Field(default_factory=PerformanceSection.model_construct)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        privacy, count = self.privacy, self.hospitals.count
        if privacy.clipping == "adaptive" and self.federation.strategy == "fedavg":
            raise ValueError(
                "an adaptive clipping norm follows the sum of a round, and fedavg has none; "
                'use strategy = "fedsgd", or clipping = "flat"'
            )
        if self.federation.strategy in ("alone", "pooled"):
            return self
        if privacy.plan == "none":
            return self
        if self.federation.strategy == "fedavg" and privacy.trust != "nobody":
            raise ValueError(
                f'fedavg takes local steps, each with its hospital\'s full noise: trust must be "nobody", '
                f'got "{privacy.trust}"; change trust, or use strategy = "fedsgd"'
            )
        if privacy.trust == "secure-aggregation" and privacy.colluders + privacy.dropouts >= count:
            raise ValueError(
                f"colluders + dropouts must leave at least one honest hospital of {count}, "
                f"got {privacy.colluders} + {privacy.dropouts}"
            )
        return self

    @property
    def digest(self) -> str:
        """Identity of the study: a hash of everything that changes its result or its guarantee.

        It does not depend on where files lie; of a weights file the name counts.
        """
        content = self.model_dump(
            mode="json",
            exclude={"performance": True, "data": {"path", "labels", "key_file"}, "privacy": {"ledger"}},
        )
        if self.model.weights is not None:
            content["model"]["weights"] = self.model.weights.name
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """The resolved study as TOML text; reading it back gives an equal study."""
        lines: list[str] = []
        for section, values in self.model_dump(mode="json", exclude_none=True).items():
            nested = {key: value for key, value in values.items() if isinstance(value, dict)}
            lines += [f"[{section}]", *_toml_lines(values), ""]
            for key, inner in nested.items():
                lines += [f"[{section}.{key}]", *_toml_lines(inner), ""]
        return "\n".join(lines)


def read_study(path: Path, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Study:
    """Study read from a TOML file, with `overrides` laid over its sections.

    Paths in the file are relative to the file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold; every reason is in the one message.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(
            f"A study file must exist, got {path}; check the path or copy one from examples/."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"A study file must be readable text, got {path} ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path} must be valid TOML: {error}.") from None
    for section, values in (overrides or {}).items():
        if isinstance(raw.setdefault(section, {}), dict):  # anything else is refused below
            raw[section].update(values)
    return parse_study(raw, source=str(path), base=path.parent)


def parse_study(raw: Mapping[str, Any], *, source: str = "the study", base: Path | None = None) -> Study:
    """Study from nested dictionaries; relative paths are resolved against `base`.

    Raises:
        StudyError: something does not hold; the message names every reason and the nearest known key.
    """
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        reasons = [_reason(dict(item)) for item in error.errors()]
        raise StudyError(f"{source} does not hold: " + "; ".join(reasons) + ".") from None
    return study if base is None else _resolve_paths(study, base)


def _resolve_paths(study: Study, base: Path) -> Study:
    def resolved(section: _Section, field: str) -> dict[str, Path]:
        value: Path | None = getattr(section, field)
        return {} if value is None else {field: (base / value.expanduser()).resolve()}

    return study.model_copy(
        update={
            "data": study.data.model_copy(
                update=resolved(study.data, "path")
                | resolved(study.data, "labels")
                | resolved(study.data, "key_file")
            ),
            "model": study.model.model_copy(update=resolved(study.model, "weights")),
            "privacy": study.privacy.model_copy(update=resolved(study.privacy, "ledger")),
            "performance": study.performance.model_copy(update=resolved(study.performance, "cache")),
        }
    )


def _reason(item: dict[str, Any]) -> str:
    """One failed check in words: where, what must hold, what came."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _known_keys(item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {where} ({hint})"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message[0].lower()}{message[1:]}, got {item.get('input')!r}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Study
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _toml_lines(values: Mapping[str, object]) -> list[str]:
    return [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and flat arrays are TOML as well, but for two things: TOML knows no
    # surrogate pairs, so characters stand as they are, and it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
