"""`[sweep]`: one study file that stands for many, one for each combination of the values it lists.

    [sweep]
    "privacy.epsilon" = [0.5, 2, 8]
    "hospitals.count" = [2, 5]
    repeats = 3        # each with another split and other initial weights
    charge = true      # all runs on one ledger; needs privacy.epsilon_limit

Keys may stand in quotes or not.
"""

import copy
import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wardround.boundary.documents import dotted
from wardround.boundary.text import brief
from wardround.config.data import SiteSection, with_site
from wardround.config.read import parse_study, read_tables
from wardround.config.section import kinds_of
from wardround.config.study import Study
from wardround.errors import StudyError

MOST_RUNS = 10_000
"""The most studies that one file may stand for."""

_OWN = ("repeats", "charge")
_NOT_VARIED = {
    "study.name": "each run is named after its values",
    "study.description": "it changes nothing",
    "privacy.ledger": "charge = true gives all runs one ledger",
    "performance": "it changes no result",
}
_KEEPS_PATIENTS = ("site.", "data.", "hospitals.")
_LONGEST = 64


@dataclass(frozen=True)
class Configuration:
    """One combination of values.

    Attributes:
        name: from the values; of a file without `[sweep]`, the study's own.
        values: what is varied, by dotted key; empty for a file without `[sweep]`.
        runs: its repeats by name, which differ in their split, initial weights and seed.
    """

    name: str
    values: Mapping[str, object]
    runs: Mapping[str, Study]


@dataclass(frozen=True)
class Sweep:
    """Every combination of a file.

    Attributes:
        configurations: in the order of the lists, the last key changing fastest.
        charge: all runs are charged to one ledger, one after the other, until its limit stops them.
    """

    name: str
    configurations: tuple[Configuration, ...]
    charge: bool


def read_sweep(
    path: Path, overrides: Mapping[str, Mapping[str, object]] | None = None, repeats: int | None = None
) -> Sweep:
    """The sweep in a TOML file; a plain study file is a sweep of one configuration.

    `overrides` are laid over its sections; `repeats` of each configuration are made instead of what the file says.

    Raises:
        StudyError: something does not hold, in the sweep or in any of its studies.
    """
    return parse_sweep(read_tables(path, overrides), source=str(path), base=path.parent, repeats=repeats)


def parse_sweep(
    raw: Mapping[str, Any], *, source: str = "the sweep", base: Path | None = None, repeats: int | None = None
) -> Sweep:
    """The sweep in nested dictionaries; see `read_sweep`."""
    tables = dict(raw)
    own = tables.pop("sweep", {})
    if not isinstance(own, dict):
        raise StudyError(f"sweep must be a table of lists in {source}, got {brief(own)}; write [sweep].")
    flat = dict(dotted(own))
    wanted = flat.pop("repeats", 1) if repeats is None else repeats
    flat.pop("repeats", None)
    charge = flat.pop("charge", False)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise StudyError(
            f"sweep.repeats must be a whole number of at least 1, got {brief(wanted)}; correct {source}."
        )
    if not isinstance(charge, bool):
        raise StudyError(f"sweep.charge must be true or false, got {charge!r}; correct {source}.")
    tables = with_site(tables)
    lists = {_placed(key): _values(_placed(key), values, source) for key, values in flat.items()}
    if (total := wanted * math.prod(map(len, lists.values()))) > MOST_RUNS:
        raise StudyError(f"sweep must be at most {MOST_RUNS:,} runs, got {total:,}; shorten a list in {source}.")
    if lists and isinstance(federation := tables.get("federation", {"strategy": "fedsgd"}), dict):
        tables["federation"] = {"compare": []} | federation  # runs stand beside each other; repeats are asked for
    if charge:
        _check_charge(tables, lists, source)
    found = []
    for combination in itertools.product(*lists.values()):
        values = dict(zip(lists, combination, strict=True))
        first = parse_study(_with(tables, values), source=_said(source, values), base=base)
        name = _name(first.study.name, values)
        runs = {}
        for repeat in range(wanted):
            run = name if wanted == 1 else _cut(f"{name}_r{repeat + 1}")
            runs[run] = _repeated(first, run, repeat, same_patients=charge)
        found.append(Configuration(name, values, runs))
    names = [name for configuration in found for name in configuration.runs]
    if len(set(names)) < len(names):
        raise StudyError(f"The values of a list in [sweep] must differ in letters and digits; correct {source}.")
    return Sweep(first.study.name, tuple(found), charge)


def _placed(key: str) -> str:
    """Returns a dotted key where the study file has it: keys of `[site]` may stand in `[data]`."""
    section, _, rest = key.partition(".")
    return f"site.{rest}" if section == "data" and rest.partition(".")[0] in SiteSection.model_fields else key


def _values(key: str, values: object, source: str) -> list[object]:
    known = _known_keys(Study)
    for refused, why in _NOT_VARIED.items():
        if key == refused or key.startswith(f"{refused}."):
            raise StudyError(f"sweep must not vary {key}: {why}; remove it from {source}.")
    if key not in known:
        near = difflib.get_close_matches(key, [*known, *_OWN], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else 'write for example "privacy.epsilon"'
        raise StudyError(f"{source} does not hold: unknown key {key} in [sweep] ({hint}).")
    if not isinstance(values, list) or not values:
        raise StudyError(f"sweep must give {key} a list of values, got {brief(values)}; correct {source}.")
    if len(values) > MOST_RUNS:
        raise StudyError(
            f"sweep must give {key} at most {MOST_RUNS:,} values, got {len(values):,}; correct {source}."
        )
    if any(value in values[:number] for number, value in enumerate(values)):
        raise StudyError(f"sweep must give {key} values that differ, got {brief(values)}; correct {source}.")
    return values


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Returns every key of a study file, dotted."""
    keys: dict[str, None] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        kinds = (kind,) if isinstance(kind, type) and issubclass(kind, BaseModel) else kinds_of(kind)
        for each in kinds:
            keys |= dict.fromkeys(_known_keys(each, f"{prefix}{name}."))
        if not kinds and prefix:
            keys[f"{prefix}{name}"] = None
    return list(keys)


def _check_charge(tables: Mapping[str, Any], lists: Mapping[str, list[object]], source: str) -> None:
    """One ledger a hospital bounds what its patients lose only while they stay in that hospital."""
    privacy = tables.get("privacy")
    if not isinstance(privacy, dict) or privacy.get("epsilon_limit") is None:
        raise StudyError(
            f"charge = true must come with privacy.epsilon_limit, what each hospital allows for all runs together; "
            f"add it to {source}."
        )
    moving = [key for key in lists if key.startswith(_KEEPS_PATIENTS)]
    moving += [key for key in ("privacy.delta", "privacy.accountant", "privacy.epsilon_limit") if key in lists]
    if moving:
        raise StudyError(
            f"charge = true must keep every patient in one hospital, at one delta and limit, and {moving[0]} is "
            f"varied; remove it from [sweep] in {source}, or remove charge."
        )
    strategies = lists.get("federation.strategy", [])
    if "pooled" in strategies and len(strategies) > 1:
        raise StudyError(
            f'charge = true must keep every patient in one hospital, and strategy = "pooled" has only one; '
            f"remove it from [sweep] in {source}."
        )


def _with(tables: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(tables))
    for key, value in values.items():
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise StudyError(f"{'.'.join(sections)} must be a table, got {brief(place)}.")
        place[last] = value
    return changed


def _said(source: str, values: Mapping[str, object]) -> str:
    return f"{source} with {', '.join(f'{k} = {v!r}' for k, v in values.items())}" if values else source


def _name(base: str, values: Mapping[str, object]) -> str:
    """A folder's name: the study's, then every value after the last part of its key."""
    parts = [base]
    for key, value in values.items():
        shown = "-".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{key.rpartition('.')[2]}-{re.sub(r'[^a-z0-9.]+', '-', shown.lower()).strip('-')}")
    return _cut("_".join(parts))


def _cut(name: str) -> str:
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _repeated(study: Study, name: str, repeat: int, *, same_patients: bool) -> Study:
    """The study again: other patients in other hospitals, unless they must stay, other weights, other seed."""
    hospitals, model, seed = study.hospitals, study.model, study.study.seed
    shift = 0 if same_patients else repeat
    return study.model_copy(
        update={
            "study": study.study.model_copy(
                update={"name": name, "seed": None if seed is None else seed + repeat}
            ),
            "hospitals": hospitals.model_copy(update={"split_seed": hospitals.split_seed + shift}),
            "model": model.model_copy(update={"init_seed": model.init_seed + repeat}),
        }
    )
