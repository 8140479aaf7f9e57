"""A hospital's own two files, which are never sent: `site.toml` says what it holds, `policy.toml` what it allows.

[hospital]                     [policy]
name = "north"                 epsilon_limit = 8.0
[site]                         delta = 1e-5
layout = "chest_xray"          most_epsilon = 4.0
path = "/data/xrays"           least_hospitals = 3
"""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from wardround.config.data import SiteSection
from wardround.config.model import ModelSection, Threads
from wardround.config.privacy import PrivacySection
from wardround.config.read import read_tables, validated
from wardround.config.section import Section, conflict, kinds_of, tags_of

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LocalTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
MetricsLevel = Literal["none", "noised", "unprotected"]
HospitalId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")]


class HospitalSection(Section):
    """`[hospital]`: the holder of the patients."""

    name: HospitalId = Field(description="Name of the hospital, as all hospitals of a study know it.")
    cohort: Path | None = Field(
        None,
        description="A text file with one patient id a line, as the layout names patients; others are in no study. "
        "Default: everybody.",
    )


class Site(Section):
    """`site.toml`."""

    hospital: HospitalSection
    site: SiteSection


class PolicySection(Section):
    """`[policy]`: what the hospital allows; no study changes it. A key that is left out refuses nothing."""

    epsilon_limit: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Epsilon that a patient may spend over all studies; the ledger's first limit.",
    )
    delta: float = Field(gt=0, lt=1, description="The largest delta at which a study may say its epsilon.")
    new_patients: bool = Field(
        False,
        description="Most patients may be ones that the ledger has never had; else their ids may be renamed.",
    )
    coordinators: tuple[PublicKey, ...] | None = Field(
        None, description="Public keys of the coordinators that may ask; default: all in coordinators.toml."
    )
    accept_by_rule: bool = Field(
        False,
        description="A study file in the folder offered/ that no rule below forbids is accepted when a coordinator "
        "first asks for it, without a person; most_epsilon must be given.",
    )
    quiet_hours: tuple[LocalTime, LocalTime] | None = Field(
        None,
        description='Local times, such as ["07:00", "18:30"], between which no study is answered; an attempt at a '
        "masked sum that is under way is finished.",
    )
    metrics: MetricsLevel = Field(
        "none",
        description="The highest `[evaluation] level` that is allowed: the most that may leave of how well the model "
        "does on this hospital's test patients.",
    )
    most_epsilon: float | None = Field(None, gt=0, description="The largest epsilon of one study.")
    plans: tuple[str, ...] | None = Field(None, description="Values of `[privacy] plan` that are allowed.")
    trusts: tuple[Literal["secure-aggregation", "nobody"], ...] | None = Field(
        None, description="Values of `[privacy] trust` that are allowed."
    )
    least_hospitals: int | None = Field(None, ge=1, description="The fewest hospitals of a study.")
    least_colluders: int | None = Field(
        None, ge=0, description="The fewest hospitals that a study with shared noise may assume to collude."
    )
    least_patients: int | None = Field(
        None, ge=1, description="The fewest patients of a study, by its public `[privacy] num_patients`."
    )
    least_noise_multiplier: float | None = Field(
        None, gt=0, description="The smallest noise, over the sensitivity, of one release."
    )
    greatest_clipping_norm: float | None = Field(
        None, gt=0, description="The largest bound on a patient's gradient or update."
    )
    most_spare_attempts: int | None = Field(
        None, ge=0, description="The most answers beyond one a round that a study may pay for."
    )
    networks: tuple[str, ...] | None = Field(None, description="Values of `[model] name` that are allowed.")
    weights: tuple[Sha256, ...] | None = Field(
        None,
        description="SHA-256 of the weights files that a study may begin with; a study without one is allowed.",
    )
    threads: Threads | None = Field(
        None, description="The most threads that a study may ask for, and those of a study that does not say."
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        plans = [tag for kind in kinds_of(PrivacySection) for tag in tags_of(kind, "plan")]
        for key, known in (("plans", plans), ("networks", get_args(ModelSection.model_fields["name"].annotation))):
            strange = [name for name in getattr(self, key) or () if name not in known]
            if strange:
                raise conflict(
                    "study-policy-name", f"{key} must be of {', '.join(known)}, got {strange[0]!r}; correct it"
                )
        return self

    @model_validator(mode="after")
    def _rules_fit(self) -> Self:
        if self.accept_by_rule and self.most_epsilon is None:
            raise conflict(
                "study-policy-accept",
                "accept_by_rule accepts studies without a person and must come with most_epsilon; give it",
            )
        if self.quiet_hours is not None and self.quiet_hours[0] == self.quiet_hours[1]:
            raise conflict(
                "study-policy-quiet",
                f"quiet_hours must begin and end at different times, got {self.quiet_hours[0]} twice; correct them",
            )
        return self


class PolicyFile(Section):
    """`policy.toml`."""

    policy: PolicySection


def read_site(path: Path) -> Site:
    """Returns the site of a TOML file; paths in it are relative to the file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold.
    """
    site = validated(Site, read_tables(path), str(path))
    hospital, cohort = site.hospital, site.hospital.cohort
    if cohort is not None:
        hospital = hospital.model_copy(update={"cohort": (path.parent / cohort.expanduser()).resolve()})
    return site.model_copy(update={"hospital": hospital, "site": site.site.relative_to(path.parent)})


def read_policy(path: Path) -> PolicyFile:
    """Returns the policy of a TOML file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold.
    """
    return validated(PolicyFile, read_tables(path), str(path))
