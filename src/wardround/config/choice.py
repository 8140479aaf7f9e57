"""`[model] name = "auto"`: the network that a study gets by public facts, from one small table.

The choice follows from the study file, and from the extras that are installed; never from pictures or patients. Parties
of one study with other extras get another network, so another digest, and refuse each other before round 1.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.config.recipe import recipe_for
from wardround.models.backbones.names import BACKBONES, PACKAGE, SIDE, BackboneName, EncoderName

_OF_MASKS = ("decathlon", "nnunet")
"""Layouts that hold masks and nothing else."""

_FINE_TASKS = ("grading", "referable")
"""Grades of a disease go by small spots, which the last stages of a backbone tell apart."""

_FUNDUS = ("aptos",)
"""Layouts of fundus photographs, read as grades: bleedings and exudates are told apart by their colour."""


@dataclass(frozen=True)
class Choice:
    """A network with its encoder.

    Attributes:
        encoder: before it; None for a network that has no choice of one.
        why: the reason, for a sentence after a colon; for a network that is not the best one with what to do for it.
    """

    name: str
    encoder: EncoderName | None
    why: str


VOXELS = Choice(
    "boxed_voxel_features",
    None,
    "few numbers on fixed features of every voxel need the fewest patients under privacy",
)
"""A class for each pixel or voxel."""


def choice_for(tables: Mapping[str, Any]) -> Choice | None:
    """Returns what fits the tables of a study; None for classes of whole volumes, which no head is known for."""
    data, site = tables.get("data", {}), tables.get("site", {})
    if data.get("task") == "segmentation" or (data.get("task") is None and site.get("layout") in _OF_MASKS):
        return VOXELS
    if data.get("volume_size") is not None and data.get("view") != "slices":
        return None
    backbone = _backbone_for(data, site)
    missing = _missing(backbone, tables)
    if missing is not None:
        return Choice("features", "hog", missing)
    why = "a linear head on a frozen public backbone needs the fewest patients under privacy"
    return Choice("features", backbone, why)


def with_choice(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a study with network and encoder where the name is left out, or "auto".

    A network that was chosen here brings `colour = "rgb"` for a layout of colour photographs. A backbone, chosen here
    or by the study, brings that as well, and the size of picture that it was trained with. Keys that the study gives
    keep their values.
    """
    found = dict(tables)
    model, data, site = (found.get(name, {}) for name in ("model", "data", "site"))
    if not all(isinstance(section, dict) for section in (model, data, site)):
        return found
    is_auto = model.get("name", "auto") == "auto"
    if site.get("layout") in _FUNDUS and (is_auto or model.get("encoder") in BACKBONES):
        data = {"colour": "rgb"} | data
        found["data"] = data
    if is_auto and model.get("own_encoder") is not None:
        found["model"] = model | {"name": "features"}
    elif is_auto:
        chosen = choice_for(found)
        if chosen is None:
            return found
        encoder = {} if chosen.encoder is None else {"encoder": chosen.encoder}
        head = {"head": "ordinal"} if chosen.encoder is not None and _has_grades(found) else {}
        model = encoder | head | model | {"name": chosen.name}
        found["model"] = model
    if model.get("encoder") in BACKBONES and data.get("volume_size") is None:
        found["data"] = {"image_size": SIDE} | data
    return found


def _has_grades(tables: Mapping[str, Any]) -> bool:
    """Returns whether a study trains a private head on grades in an order, by the recipe."""
    data, site, privacy, federation = (tables.get(name, {}) for name in ("data", "site", "privacy", "federation"))
    if not isinstance(privacy, dict) or not isinstance(federation, dict):
        return False
    kind = privacy.get("plan"), privacy.get("clipping"), federation.get("strategy", "fedsgd")
    graded = data.get("task") == "grading" or (data.get("task") is None and site.get("layout") in _FUNDUS)
    return graded and recipe_for("features", *kind) is not None


def _backbone_for(data: Mapping[str, Any], site: Mapping[str, Any]) -> BackboneName:
    fine = data.get("task") in _FINE_TASKS or (data.get("task") is None and site.get("layout") in _FUNDUS)
    return "efficientnet-lite0-all" if fine or data.get("colour") == "rgb" else "efficientnet-lite0"


def _missing(backbone: BackboneName, tables: Mapping[str, Any]) -> str | None:
    """Returns the reason why a study does not get a backbone, and what to do; None where it does."""
    data = tables.get("data", {})
    key, remedy = "image_size", "leave image_size out"
    given, fits = data.get(key, SIDE), data.get(key, SIDE) == SIDE
    if data.get("volume_size") is not None:
        key, remedy = "volume_size", f"set {SIDE} along x and y"
        given = list(data[key]) if isinstance(data[key], list | tuple) else data[key]
        fits = isinstance(given, list) and given[:2] == [SIDE, SIDE]
    if not fits:
        return f"{key} is {given}, and {backbone}, which loses less to the noise, reads {SIDE} pixels; {remedy} for it"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{backbone}, which loses less to the noise, is not installed; pip install 'wardround[backbone]' for it"
    return None
