"""Hospitals of one process that exchange nothing but what masked hospitals exchange; each has keys of its own.

    hospitals/<name>/    identity.pem (mode 0600), pins.toml (the others' keys), notes.json

Keys are made when a run begins and go with the folder when it has ended. Between real hospitals they are made and
compared beforehand (`wardround keys`); here one process holds all of them, which the statement says.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from wardround.agreed.masks import agreement_of, fitting, mechanism_of
from wardround.boundary.private import make_private_folder
from wardround.boundary.text import brief, read_alike
from wardround.config import Study
from wardround.errors import DataError, FederationError
from wardround.hospital.agent import Agent
from wardround.hospital.masked import MaskedRounds
from wardround.privacy.plans.plan import Plan
from wardround.secure_aggregation.keys.identity import Identity, SigningKey, check_name
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.types import HospitalName

_PINS = "pins.toml"
_LONGEST = 200
"""Most bytes of a folder's name; file systems take 255."""


def masked_rounds(
    study: Study, plan: Plan, agents: Mapping[HospitalName, Agent], folder: Path | None
) -> tuple[Agreement, dict[HospitalName, MaskedRounds]]:
    """Returns what the hospitals of a masked run agree on, and each one's side of it.

    `folder` has the hospitals' own folders; None keeps keys and notes in this process.

    Raises:
        FederationError: a key file or a pin is damaged, open to others, or not the one of this run.
        LedgerError: a ledger has lost a charge that its hospital knows of.
    """
    folders = [own_folder(folder, name) for name in agents]
    begun = any(
        own is not None and (own / _PINS).exists() for own in folders
    )  # keys are all made before any is pinned
    identities = [_identity(name, own, begun) for name, own in zip(agents, folders, strict=True)]
    keys = {identity.hospital: identity.key.public for identity in identities}
    some = next(iter(agents.values()))
    agreement = agreement_of(study, plan, some.workbench.initial_weights.size, keys)
    rounds: dict[HospitalName, MaskedRounds] = {}
    for agent, identity, own in zip(agents.values(), identities, folders, strict=True):
        others = Pins({name: key for name, key in keys.items() if name != identity.hospital})
        notes = None if own is None else own / "notes.json"
        rounds[agent.name] = MaskedRounds(agent, identity, _pinned(others, own), agreement, notes)
    return agreement, rounds


def own_folder(folder: Path | None, name: HospitalName) -> Path | None:
    """Returns the folder of a simulated hospital, named by it in a form that no name leaves; None without a folder.

    A long name, as one of a few dozen letters in another script, is cut, and told from others by its hash.
    """
    if folder is None:
        return None
    quoted = quote(name, safe="").replace(".", "%2E")
    if len(quoted) > _LONGEST:
        quoted = f"{quoted[: _LONGEST // 2]}-{hashlib.sha256(name.encode()).hexdigest()}"
    return folder / quoted


def check_masks(plan: Plan, parameters: int, names: Iterable[HospitalName]) -> None:
    """Refuses, before a run has begun, masked sums that could not be formed; says nothing of others.

    Raises:
        DataError: no key can be pinned under the name of a hospital (code `data-hospital-names`).
        FederationError: no ring holds sums over so many patients.
        PrivacyError: the grid cannot carry so many parameters.
    """
    if plan.masked is not None:
        _check_names(list(names))
        fitting(mechanism_of(plan, parameters), plan)


def _check_names(names: list[HospitalName]) -> None:
    """Refuses names under which no key can be pinned."""
    wrong = read_alike(names)
    for name in names:
        try:
            check_name(name)
        except FederationError:
            wrong.append(name)
    if wrong:
        raise DataError(
            "`[hospitals] names` must have 1 to 100 printable characters each, none of them a space at an end, and "
            f"differ by more than case and spaces where sums are masked, got {', '.join(map(brief, wrong))}. Rename "
            'them (with scheme = "site" in the column site as well), or set `[privacy] sum` to "simulated".',
            code="data-hospital-names",
        )


def _identity(name: HospitalName, folder: Path | None, begun: bool) -> Identity:
    """Returns a hospital's key: from its folder, or made and kept there if the others have not pinned one."""
    if folder is None:
        return Identity(name, SigningKey.new(system_entropy))
    path = folder / "identity.pem"
    if not path.exists():
        if begun:
            raise FederationError(
                f"{name} must go on with the key that others have pinned, and {path} is missing; restore it from a "
                "copy, or start a new run."
            )
        make_private_folder(folder)
        SigningKey.new(system_entropy).write(path)
    return Identity(name, SigningKey.read(path))


def _pinned(others: Pins, folder: Path | None) -> Pins:
    """Returns the pins that a hospital has kept since the run began; in a new run, those of the others."""
    if folder is None:
        return others
    path = folder / _PINS
    if not path.exists():
        others.write(path)
    kept = Pins.read(path)
    missing = sorted(others.keys.keys() - kept.keys.keys())
    if missing:
        raise FederationError(
            f"{path} must have the key of {missing[0]}, as it had when the run began, and has none; restore the file "
            "from a copy, or start a new run."
        )
    return kept
