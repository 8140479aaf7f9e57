"""A hospital's own two files, which are never sent: `site.toml` says what it holds, `policy.toml` what it allows.

[hospital]                     [policy]
name = "north"                 epsilon_limit = 8.0
[site]                         delta = 1e-5
layout = "chest_xray"
path = "/data/xrays"
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from wardround.config.data import SiteSection
from wardround.config.read import read_tables, validated
from wardround.config.section import Section

HospitalId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")]


class HospitalSection(Section):
    """`[hospital]`: the holder of the patients."""

    name: HospitalId = Field(description="Name of the hospital, as all hospitals of a study know it.")


class Site(Section):
    """`site.toml`."""

    hospital: HospitalSection
    site: SiteSection


class PolicySection(Section):
    """`[policy]`: what the hospital allows, whatever a study says."""

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


class PolicyFile(Section):
    """`policy.toml`."""

    policy: PolicySection


def read_site(path: Path) -> Site:
    """Returns the site of a TOML file; paths in it are relative to the file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold.
    """
    site = validated(Site, read_tables(path), str(path))
    return site.model_copy(update={"site": site.site.relative_to(path.parent)})


def read_policy(path: Path) -> PolicyFile:
    """Returns the policy of a TOML file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold.
    """
    return validated(PolicyFile, read_tables(path), str(path))
