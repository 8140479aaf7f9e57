"""Studies that a hospital has accepted, one file each; an agent answers no other.

    accepted/DIGEST.toml    mode 0600: [accepted] by, at; then the study, as it was read
    offered/*.toml          studies that `[policy] accept_by_rule` may accept, put there by the hospital

The file is the study that is run: its digest is computed anew whenever it is read, so that a file that was changed
after a person read it is refused.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from wardround.agreed.plans import plan_of
from wardround.boundary.private import make_private_folder
from wardround.config import Study, parse_study, read_study
from wardround.config.read import read_tables
from wardround.config.site import PolicyFile, Site
from wardround.errors import StudyError
from wardround.hospital.allowed import check_allowed
from wardround.hospital.opening import check_deployable, check_named
from wardround.secure_aggregation.keys.key_files import write_key_file

FOLDER = "accepted"
OFFERED = "offered"


def accept(folder: Path, site: Site, policy: PolicyFile, study: Study, *, by: str) -> Path:
    """Writes down that a person accepts a study; returns the file. Nothing is charged.

    Raises:
        PrivacyError: the policy forbids the study, or its noise is not in what this hospital sends.
        StudyError: the study cannot be run between real hospitals, or does not name this one.
    """
    plan = plan_of(study)
    check_deployable(study, plan, site)
    check_named(study, site)
    check_allowed(study, plan, policy)
    path = folder / FOLDER / f"{study.digest}.toml"
    make_private_folder(path.parent)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    heading = f"[accepted]\nby = {json.dumps(by, ensure_ascii=False)}\nat = {json.dumps(at)}\n\n"
    write_key_file(path, (heading + study.to_toml()).encode(), replace=True)
    return path


def accept_by_rule(folder: Path, site: Site, policy: PolicyFile, digest: str) -> None:
    """Accepts an offered study by the policy alone, where it says so and no rule forbids the study.

    Nothing happens where the study is accepted already, or not offered. Files in the folder that are no study are
    passed over.

    Raises:
        WardroundError: as `accept`.
    """
    if not policy.policy.accept_by_rule or digest in accepted_digests(folder):
        return
    for path in sorted((folder / OFFERED).glob("*.toml")):
        try:
            study = read_study(path)
        except StudyError:
            continue
        if study.digest == digest:
            accept(folder, site, policy, study, by="policy.toml")
            return


def accepted_digests(folder: Path) -> tuple[str, ...]:
    """Returns the digests of the studies that were accepted."""
    return tuple(sorted(path.stem for path in (folder / FOLDER).glob("*.toml")))


def read_accepted(folder: Path, digest: str) -> Study:
    """Returns an accepted study.

    Raises:
        StudyError: it was not accepted, or its file was changed since.
    """
    path = folder / FOLDER / f"{digest}.toml"
    if not re.fullmatch("[0-9a-f]{64}", digest) or not path.is_file():
        raise StudyError(
            f"A study must be accepted before this hospital answers for it, and {digest[:12]!r} is not. Read it with: "
            "wardround agent review STUDY, then: wardround agent accept STUDY.",
            code="study-not-accepted",
        )
    tables = read_tables(path)
    tables.pop("accepted", None)
    study = parse_study(tables, source=str(path))
    if study.digest != digest:
        raise StudyError(
            f"{path} must hold the study that was accepted, and was changed: its digest is {study.digest[:12]}. "
            "Remove it, and accept the study again.",
            code="study-accepted-changed",
        )
    return study
