"""A page of the pictures that a model calls wrongly, the surest first, for the screen of their own hospital.

Guarantee: none, and nothing is released. The page shows patients and must not be sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.boundary.private import write_whole
from wardround.images.patients import ImageSet
from wardround.images.quality.page import filled
from wardround.images.quality.thumbnails import thumbnail
from wardround.types import Scores

MOST = 12
"""Pictures of each class that are shown."""


@dataclass(frozen=True)
class Wrong:
    """One picture on the page: its data URI, the class it was called, that probability, and its file's name or ""."""

    source: str
    called: str
    probability: float
    file: str


@dataclass(frozen=True)
class Missed:
    """One class: its pictures, the number of them that were called otherwise, and the surest of these."""

    name: str
    pictures: int
    wrong: int
    shown: tuple[Wrong, ...]


def write_mistakes(
    images: ImageSet, rows: npt.NDArray[np.int64], scores: Scores, path: Path, *, named: bool = False
) -> None:
    """Writes the page, readable by its owner alone.

    Args:
        images: of the party whose screen it is.
        rows: pictures that were called, by their row in `ImageSet.pixels`, (picture,).
        scores: probabilities, (picture, class).
        path: of the page.
        named: each picture stands above the name of its file.

    Raises:
        MissingExtra: Jinja2 is not installed.
        MachineError: the page cannot be written.
    """
    classes = list(_missed(images, rows, scores, named))
    write_whole(path, filled("mistakes.html.j2", most=MOST, classes=classes).encode("utf-8", "backslashreplace"))


def _missed(images: ImageSet, rows: npt.NDArray[np.int64], scores: Scores, named: bool) -> Iterator[Missed]:
    held = {image.row: image for patient in images.patients for image in patient.images}
    labels, called = np.array([held[row].label for row in rows.tolist()]), scores.argmax(axis=1)
    for label, name in enumerate(images.class_names):
        wrong = np.flatnonzero((labels == label) & (called != label))
        surest = wrong[np.argsort(-scores[wrong].max(axis=1), kind="stable")][:MOST].tolist()
        yield Missed(
            name,
            int((labels == label).sum()),
            len(wrong),
            tuple(
                Wrong(
                    thumbnail(images, int(rows[place])),
                    images.class_names[called[place]],
                    float(scores[place].max()),
                    held[int(rows[place])].file if named else "",
                )
                for place in surest
            ),
        )
