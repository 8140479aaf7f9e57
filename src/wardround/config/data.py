"""`[site]`, `[data]` and `[hospitals]`: where pictures are, what they become, and how patients are dealt out."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from wardround.boundary.text import brief, read_alike, steers
from wardround.config.section import Section, conflict
from wardround.images.layouts.names import LayoutName


def _steers_nothing(name: str) -> str:
    if steers(name):
        raise conflict("study-name", f"a name must have no control characters, got {brief(name)}; remove them")
    return name


Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_steers_nothing)]
ClassName = Annotated[str, Field(pattern=r"^\S(.{0,98}\S)?$"), AfterValidator(_steers_nothing)]
Modality = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
VoxelCount = Annotated[int, Field(ge=4, le=1024)]
Millimetres = Annotated[float, Field(ge=0.05, le=50)]


class PhantomSection(Section):
    """`[site.phantom]`: generated radiographs, for trying things out."""

    patients: int = Field(600, ge=10, le=1_000_000, description="Number of generated patients.")
    max_images: int = Field(4, ge=1, le=32, description="Patients have 1 to this many pictures.")
    sites: int = Field(5, ge=1, le=10_000, description="Number of scanners, each with its own shift.")
    image_size: int = Field(96, ge=32, le=512, description="Side of a generated picture, in pixels.")
    seed: int = Field(0, ge=0, description="Which phantoms. Public: phantoms are no persons.")
    prevalence: float = Field(0.5, gt=0, lt=1, description="Share of patients with a lesion.")


class PersonPattern(Section):
    """`[site] patients = {pattern = "..."}`: file names tell the persons."""

    pattern: str = Field(
        description="A regular expression; its named or first group, in the file name without ending, is the patient. "
        "With a `/` in it: in the whole path."
    )


class PersonTable(Section):
    """`[site] patients = {table = "..."}`: a table tells the persons."""

    table: Path = Field(description="A table with the columns picture and patient.")


class SiteSection(Section):
    """`[site]`: where a holder of patients keeps pictures, and how they are read; never sent, and no part of a study.

    A hospital has it in a file of its own; in a simulation it is a table of the study file, and holds all hospitals'.
    """

    layout: LayoutName = Field(description="How the pictures lie on disk.")
    path: Path | None = Field(
        None, description="The data folder, a .zip, a .tar or a MedMNIST .npz; `--data` overrides it."
    )
    labels: Path | None = Field(
        None,
        description="The layout's table (manifest.csv, metadata.csv, train.csv, labels.csv, participants.tsv) where it "
        "lies elsewhere; its files are relative to the data folder or to its own folder.",
    )
    key_file: Path | None = Field(
        None, description="dicom: the hospital's own key for pseudonyms; made where there is none."
    )
    reviewed: bool = Field(
        False, description="dicom: let in pictures that may show a name in their pixels; somebody has looked."
    )
    skip_unreadable: bool = Field(False, description="Leave unreadable files out instead of stopping.")
    leave_out: tuple[str, ...] = Field(
        (), description="Values of a label or patient in tables whose rows are left out, such as nan or -1."
    )
    patients: Literal["one-per-picture"] | PersonPattern | PersonTable | None = Field(
        None,
        description="Persons of the pictures: no one has two, or file names or a table tell them; default: "
        "patients.csv in the folder, or the layout; where these name nobody, one picture is what is protected.",
    )
    class_names: dict[Name, Name] | None = Field(
        None,
        description="From this site's own names of classes to those of the study's `[data] classes`, where they "
        'differ, such as `Pneumonie = "pneumonia"`.',
    )
    phantom: PhantomSection = Field(default_factory=PhantomSection.model_construct)

    @field_validator("patients", mode="before")
    @classmethod
    def _is_one_way(cls, given: Any) -> Any:
        match given:
            case None | "one-per-picture" | PersonPattern() | PersonTable():
                return given
            case {"pattern": str(pattern)} if len(given) == 1:
                return _checked(pattern) and given
            case {"table": str() | Path()} if len(given) == 1:
                return given
            case _:
                raise conflict(
                    "study-patients",
                    'patients must be "one-per-picture", {pattern = "..."} or {table = "..."}, got '
                    f"{brief(given)}; choose one of them",
                )

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_files(cls, given: Any) -> Any:
        if isinstance(given, dict) and "duplicates" in given:
            raise conflict(
                "study-duplicates",
                "duplicates is gone: two patients are never joined because their pictures are alike, and copies inside "
                'a patient are dropped; remove duplicates, and join persons by patients = {table = "patients.csv"}',
            )
        return given

    def relative_to(self, base: Path) -> Self:
        """Returns the section with its paths, which are relative to a file, as absolute ones."""
        given = {key: place for key in ("path", "labels", "key_file") if (place := getattr(self, key)) is not None}
        placed: dict[str, object] = {key: (base / place.expanduser()).resolve() for key, place in given.items()}
        if isinstance(self.patients, PersonTable):
            placed["patients"] = PersonTable(table=(base / self.patients.table.expanduser()).resolve())
        return self.model_copy(update=placed)


def _checked(pattern: str) -> str:
    """Returns a pattern that has a group; refuses another one."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise conflict(
            "study-pattern", f"pattern must be a regular expression, got: {error}; correct it"
        ) from None
    if not groups:
        raise conflict("study-pattern", f"pattern must have a group that is the patient, got {pattern!r}; add one")
    return pattern


class DataSection(Section):
    """`[data]`: what a picture becomes before the network sees it, and which patients are set aside."""

    task: Literal["binary", "subtype", "classification", "grading", "referable", "segmentation"] | None = Field(
        None, description="What the labels are read as; default: the layout's first reading."
    )
    image_size: int = Field(64, ge=16, le=1024, description="Side of a picture after preprocessing, in pixels.")
    colour: Literal["grey", "rgb"] = Field("grey", description="One channel or three.")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="What becomes of a picture that is no square."
    )
    circle_crop: bool = Field(False, description="Crop to the bright disc of a fundus photograph first.")
    bits: int = Field(
        16,
        ge=9,
        le=16,
        description="Bits that grey pictures in files of 16 bits use: 2^bits - 1 becomes white. A brighter one is "
        "unreadable.",
    )
    modalities: tuple[Modality, ...] | None = Field(
        None,
        min_length=1,
        description="dicom: modalities that are read, such as CT; bids: kinds of images, such as T1w. Others are "
        "passed over. Default: all, if they are pictures only or volumes only; of bids, the one kind.",
    )
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
    classes: tuple[ClassName, ...] | None = Field(
        None,
        min_length=2,
        description="Names of the classes, in the order in which the model has them; default: those of the data, which "
        "a deployed hospital refuses. A site calls them otherwise by its own `[site.class_names]`.",
    )
    segments: tuple[Name, ...] | None = Field(
        None, description="dicom: labels of the segments that are classes 1, 2, ...; hospitals must agree on them."
    )
    test: Literal["patients", "stratified", "published"] = Field(
        "patients",
        description="Test patients set aside by a hash of each one's own id; an exact share of each label; or the "
        "published split, which leaks. The last two hold for one fixed division of the patients.",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of patients set aside for testing; of hashed patients the expectation."
    )
    validation_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the others set aside to choose settings and rounds by, likewise."
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise conflict("study-classes", f"classes must be different names, got {', '.join(self.classes)}")
        if self.volume_size is None:
            given = [k for k in ("spacing", "window") if getattr(self, k) is not None]
            given += ["view"] * (self.view != "volume")
            if given:
                raise ValueError(f"{given[0]} belongs to volumes; set volume_size, or remove it")
        elif self.bits != 16:
            raise ValueError("bits belongs to pictures; remove it, or volume_size")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window must rise, for instance [-200, 250] for a liver in CT")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of a preprocessed picture."""
        return 1 if self.colour == "grey" else 3


class HospitalsSection(Section):
    """`[hospitals]`: the holders of patients, simulated inside one data set."""

    count: int = Field(5, ge=1, le=10_000, description="Number of hospitals.")
    names: tuple[Name, ...] | None = Field(
        None,
        description="Their names, in the order of their turns; default: hospital-1, hospital-2, ..., or the sites in "
        "the data.",
    )
    scheme: Literal["even", "sizes", "images", "dirichlet", "label-shards", "site"] = Field(
        "even",
        description="How patients are dealt out. even, dirichlet and site: by each patient's own id, label and site, "
        "so that sizes are expectations. sizes, images and label-shards: exact, for one fixed division.",
    )
    sizes: tuple[int, ...] | None = Field(None, description='Patients a hospital, for scheme = "sizes".')
    images: int | None = Field(
        None, ge=1, description='Pictures a hospital, about: whole patients; for scheme = "images".'
    )
    alpha: float = Field(0.5, gt=0, description='Label skew of scheme = "dirichlet": smaller is more uneven.')
    shards_per_hospital: int = Field(2, ge=1, le=10_000, description='For scheme = "label-shards".')
    split_seed: int = Field(0, ge=0, description="Which split. A public constant, the same in every run.")
    absent_rate: float = Field(0.0, ge=0, lt=1, description="Simulated: share of the rounds a hospital is away.")
    absent_rounds: float = Field(1.0, ge=1, description="Rounds that it then stays away, on average.")
    late_rate: float = Field(
        0.0, ge=0, lt=1, description="Simulated: probability that a hospital answers too late, and in vain."
    )
    availability_seed: int = Field(0, ge=0, description="Which absences. A public constant.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if (self.scheme == "sizes") != (self.sizes is not None):
            raise conflict("study-sizes", 'sizes is given exactly when scheme = "sizes"')
        if self.absent_rate > self.absent_rounds / (1 + self.absent_rounds):
            raise ValueError(
                f"absent_rate must be <= absent_rounds / (1 + absent_rounds), got {self.absent_rate:g}; lower it, or "
                "raise absent_rounds"
            )
        if self.names is not None and (len(self.names) != self.count or len(set(self.names)) != self.count):
            raise ValueError(f"names must be {self.count} different names, one for each hospital")
        if alike := read_alike(self.names or ()):
            raise conflict(
                "study-names-alike",
                f"names must differ by more than case and spaces, and {', '.join(alike)} do not; rename one",
            )
        if (self.scheme == "images") != (self.images is not None):
            raise ValueError('images is given exactly when scheme = "images"')
        if self.sizes is not None and len(self.sizes) != self.count:
            raise conflict(
                "study-sizes-count",
                f"sizes must name {self.count} hospitals, got {len(self.sizes)}; set count or sizes",
            )
        return self

    @property
    def is_reliable(self) -> bool:
        """True if the simulation has every hospital answer every round."""
        return self.absent_rate == 0 and self.late_rate == 0


def with_site(tables: dict[str, Any]) -> dict[str, Any]:
    """Returns the tables of a study file with `[data]` keys that belong to `[site]` moved there.

    Files from before there was `[site]`, and short ones, have `path` and `layout` in `[data]`.

    Raises:
        ValueError: a key is given in both places.
    """
    data, site = tables.get("data"), tables.get("site", {})
    if not isinstance(data, dict) or not isinstance(site, dict):
        return tables
    moved = {key: value for key, value in data.items() if key in (*SiteSection.model_fields, "duplicates")}
    twice = sorted(moved.keys() & site.keys())
    if twice:
        raise ValueError(f"{twice[0]} stands in [data] and in [site]; remove it from [data]")
    kept = {key: value for key, value in data.items() if key not in moved}
    return {**tables, "data": kept, "site": {**moved, **site}} if moved else tables
