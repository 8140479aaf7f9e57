"""Reading a study file; whatever does not hold is said in one sentence, with the nearest known key."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from wardround.boundary.documents import MOST_TOML_BYTES, Unfit, decoded, parse_toml, read_regular
from wardround.boundary.text import brief
from wardround.config.data import with_site
from wardround.config.section import Section, kinds_of, tag_of, tags_of
from wardround.config.study import Study
from wardround.errors import StudyError

_Model = TypeVar("_Model", bound=Section)

_MOST_REASONS = 20


def read_study(path: Path, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Study:
    """Study read from a TOML file, with `overrides` laid over its sections.

    Paths in the file are relative to the file.

    Raises:
        StudyError: the file is missing, is no TOML, or does not hold; every reason is in the one message.
    """
    return parse_study(read_tables(path, overrides), source=str(path), base=path.parent)


def read_tables(path: Path, overrides: Mapping[str, Mapping[str, object]] | None = None) -> dict[str, Any]:
    """The tables of a study file, unchecked, with `overrides` laid over them.

    Raises:
        StudyError: the file is missing or is no TOML.
    """
    try:
        text = decoded(read_regular(path, MOST_TOML_BYTES))
    except FileNotFoundError:
        raise StudyError(
            f"A study file must exist, got {path}; check the path or copy one from examples/.",
            code="study-no-file",
        ) from None
    except IsADirectoryError:
        raise StudyError(
            f"A study must be a file, got the folder {path}. Give the study.toml of a run's folder, or another file.",
            code="study-unreadable",
        ) from None
    except (OSError, Unfit) as error:
        raise StudyError(
            f"A study file must be readable text, got {path} ({error}).", code="study-unreadable"
        ) from None
    try:
        raw = parse_toml(text)
    except Unfit as error:
        raise StudyError(f"{path} must be valid TOML: {error}.", code="study-no-toml") from None
    try:
        raw = with_site(raw)
    except ValueError as error:
        raise StudyError(f"{path} does not hold: {error}.", code="study-conflict") from None
    for section, values in with_site(dict(overrides or {})).items():
        if isinstance(raw.setdefault(section, {}), dict):  # anything else is refused below
            raw[section].update(values)
    return raw


def parse_study(raw: Mapping[str, Any], *, source: str = "the study", base: Path | None = None) -> Study:
    """Study from nested dictionaries; relative paths are resolved against `base`.

    Raises:
        StudyError: something does not hold; the message names every reason and the nearest known key.
    """
    if "sweep" in raw:
        raise StudyError(
            f"A single study must have no [sweep], got {source}, which is many; run them all with: "
            f"wardround compare {source} --out FOLDER."
        )
    study = validated(Study, raw, source)
    return study if base is None else _resolve_paths(study, base)


def validated(model: type[_Model], raw: Mapping[str, Any], source: str) -> _Model:
    """Returns the tables of a file as a model of its sections.

    Raises:
        StudyError: something does not hold; the message names every reason and the nearest known key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
        codes = {_code(item, model) for item in items}
        raise StudyError(
            f"{source} does not hold: {_listed([_reason(item, model) for item in items])}.",
            code=codes.pop() if len(codes) == 1 else "study-several",
        ) from None


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - _MOST_REASONS
    return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")


_PATHS = {"model": ("weights",), "privacy": ("ledger",), "performance": ("cache",)}
"""Keys that hold a path, by section; `[site]` knows its own."""


def _resolve_paths(study: Study, base: Path) -> Study:
    resolved: dict[str, Section] = {"site": study.site.relative_to(base)}
    for name, keys in _PATHS.items():
        section: Section = getattr(study, name)
        given = {key: getattr(section, key) for key in keys if getattr(section, key) is not None}
        absolute = {key: (base / path.expanduser()).resolve() for key, path in given.items()}
        resolved[name] = section.model_copy(update=absolute)
    if (own := study.model.own_encoder) is not None:
        placed = own.model_copy(update={"file": (base / own.file.expanduser()).resolve()})
        resolved["model"] = resolved["model"].model_copy(update={"own_encoder": placed})
    return study.model_copy(update=resolved)


def _code(item: dict[str, Any], model: type[Section]) -> str:
    """Returns the code of one failed check, from pydantic's name for it or from ours."""
    kind: str = item["type"]
    if kind.startswith("study-"):
        return kind
    if kind == "extra_forbidden":
        tag, owners = _owners(item, model)
        return f"study-{tag}-key" if owners else "study-unknown-key"
    known = {
        "missing": "study-missing-key",
        "union_tag_not_found": "study-missing-key",
        "value_error": "study-conflict",
    }
    return known.get(kind, "study-value")


def _owners(item: dict[str, Any], model: type[Section]) -> tuple[str, list[str]]:
    """Returns the tag of an unknown key's section, and the section's other kinds that have such a key."""
    parts, _, others = _place(item["loc"], model)
    owners = {name for tag, kind in others for name in tags_of(kind, tag) if parts[-1] in kind.model_fields}
    return (others[0][0] if others else ""), sorted(owners)


def _reason(item: dict[str, Any], model: type[Section]) -> str:
    """Returns one failed check in words: where, what must hold, what came."""
    parts, section, _ = _place(item["loc"], model)
    where = ".".join(parts)
    if item["type"] == "extra_forbidden":
        key, known = parts[-1], [] if section is None else list(section.model_fields)
        tag, owners = _owners(item, model)
        if owners:
            return f"{where} belongs to {tag} = {', '.join(owners)}; remove {key}, or change the {tag}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {where} ({hint})"
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "union_tag_not_found":
        return f"{where}.{item['ctx']['discriminator'].strip(chr(39))} is missing"
    if item["type"] == "union_tag_invalid":
        tag = item["ctx"]["discriminator"].strip("'")
        return f"{where}.{tag} must be one of {item['ctx']['expected_tags']}, got {brief(item['ctx']['tag'])}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error" or item["type"].startswith("study-"):
        return f"{where}: {message}" if where else message
    return f"{where}: {message[0].lower()}{message[1:]}, got {brief(item.get('input'))}"


def _place(
    location: tuple[int | str, ...], model: type[Section]
) -> tuple[list[str], type[Section] | None, list[tuple[str, type[Section]]]]:
    """Returns the keys of a place in a study file, the section that the last of them is in, and its other kinds.

    In pydantic's place a section that is a sum of kinds is followed by the kind's tag, which no file has as a key.
    """
    parts: list[str] = []
    section: type[Section] | None = model
    others: list[tuple[str, type[Section]]] = []
    kinds: tuple[type[Section], ...] = ()
    for number, part in enumerate(map(str, location)):
        if kinds:
            tag = tag_of(kinds[0])
            section = next((kind for kind in kinds if part in tags_of(kind, tag)), None)
            others, kinds = [(tag, kind) for kind in kinds if kind is not section], ()
            continue
        parts.append(part)
        if number < len(location) - 1 and section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            kinds, others = kinds_of(annotation), []
            section = None
            if isinstance(annotation, type) and issubclass(annotation, Section):
                section = annotation
            elif len(kinds) == 1:  # a section that may be left out, and no sum of kinds
                section, kinds = kinds[0], ()
    return parts, section, others
