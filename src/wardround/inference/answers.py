"""Answers for one picture or volume, and the rule by which an answer is called uncertain."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.images.decode.raw import Affine, Mask

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]

LEAST_MARGIN = 0.2
"""Least distance of the two highest probabilities of a certain answer; public, and no property of any data.

With two classes an answer is certain from a probability of 0.6.
"""

_RULE = f"uncertain: the two most probable classes differ by less than {LEAST_MARGIN:g}"


def rule_of(target: str) -> str:
    """Returns the rule by which an answer of a model of this target is called uncertain, as a clause.

    >>> rule_of("classes")
    'uncertain: the two most probable classes differ by less than 0.2'
    """
    if target != "masks":
        return _RULE
    return f"{_RULE}, on average over the places that are not of class 0, or over all where there are none"


@dataclass(frozen=True)
class Sources:
    """The files that an answer is about, for those who read them again.

    Args:
        root: the folder or archive that they lie in; None where they were named one by one.
        files: names in it, or paths.
        frame: of a file with many; None for all.
    """

    root: Path | None
    files: tuple[str, ...]
    frame: int | None


@dataclass(frozen=True)
class Classified:
    """The class of one picture or volume.

    Attributes:
        file: its name, as it was given or as it lies in the folder or archive.
        label: the most probable class.
        probabilities: of each class by name, in the model's order; they sum to one.
        uncertain: see `rule_of`.
        findings: sentences on what lies outside of the model's training recipe.
        logits: outputs of the network before the softmax, (class,); of slices of a volume, (slice, class).
        sources: its files; None for an array.
    """

    file: str
    label: str
    probabilities: dict[str, float]
    uncertain: bool
    findings: tuple[str, ...]
    logits: Logits
    sources: Sources | None = None


@dataclass(frozen=True)
class Segmented:
    """The mask of one picture or volume.

    Attributes:
        file: its name, as it was given or as it lies in the folder or archive.
        mask: class of every pixel or voxel on the file's own grid, (height, width) or (x, y, z) in RAS+.
        affine: from indices to mm in RAS+, (4, 4); None for a picture.
        shares: share of the places of each class by name.
        uncertain: see `rule_of`.
        findings: sentences on what lies outside of the model's training recipe.
        logits: outputs of the network on its own grid, (row, class, *space).
        sources: its files; None for an array.
    """

    file: str
    mask: Mask
    affine: Affine | None
    shares: dict[str, float]
    uncertain: bool
    findings: tuple[str, ...]
    logits: Logits
    sources: Sources | None = None


@dataclass(frozen=True)
class Unanswered:
    """One picture that could not be read, and the reason in one sentence without a file name."""

    file: str
    reason: str


Prediction: TypeAlias = Classified | Segmented | Unanswered
"""The answer for one picture or volume."""


def is_uncertain(probabilities: Floats) -> bool:
    """Returns True for an answer that `rule_of` calls uncertain.

    Args:
        probabilities: (class,), or (class, *space) for a mask.

    >>> is_uncertain(np.array([0.59, 0.41])), is_uncertain(np.array([0.61, 0.39]))
    (True, False)
    """
    highest = np.sort(probabilities, axis=0)[-2:]
    margins = highest[1] - highest[0]
    if margins.ndim:
        called = probabilities.argmax(axis=0) > 0
        margins = margins[called] if called.any() else margins
    return bool(margins.mean() < LEAST_MARGIN)
