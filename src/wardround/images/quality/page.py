"""An inspection as one self-contained page with thumbnails: no script, no request; for a hospital's own screen."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wardround.boundary.apart import made
from wardround.boundary.extras import needed
from wardround.boundary.private import write_whole
from wardround.images.entries import Target
from wardround.images.patients import ImageSet
from wardround.images.quality.inspection import Inspection
from wardround.images.quality.lines import not_used
from wardround.images.quality.notice import Level, Notice
from wardround.images.quality.thumbnails import MASK_COLOURS, thumbnail
from wardround.types import Persons

GROUPS = 12
"""Groups of pictures that one notice shows."""

PER_GROUP = 4
SAMPLES = 12
"""Pictures of each class that are shown."""


@dataclass(frozen=True)
class Shown:
    """One picture on the page: its data URI, and the words under it."""

    source: str
    file: str
    patient: str
    label: str
    part: str | None


@dataclass(frozen=True)
class Group:
    """Pictures side by side, and how many more belong to them."""

    pictures: tuple[Shown, ...]
    more: int


def write_page(inspection: Inspection, image_set: ImageSet, path: Path) -> None:
    """Writes the page, readable by its owner alone. It shows patients, and must not be sent.

    Raises:
        MissingExtra: Jinja2 is not installed.
        MachineError: the page cannot be written.
    """
    write_whole(path, render(inspection, image_set).encode("utf-8", "backslashreplace"))


def render(inspection: Inspection, image_set: ImageSet) -> str:
    """Returns the page. Names of files, patients and classes are text in it, never markup.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    held = {image.row: (patient, image) for patient in image_set.patients for image in patient.images}

    @functools.cache
    def shown(row: int) -> Shown:
        patient, image = held[row]
        label = "" if image_set.target is Target.MASKS else image_set.class_names[image.label]
        return Shown(thumbnail(image_set, row), image.file, patient.id, label, image.split)

    def groups(notice: Notice) -> list[Group]:
        return [
            Group(tuple(map(shown, rows[:PER_GROUP])), max(0, len(rows) - PER_GROUP))
            for rows in notice.rows[:GROUPS]
        ]

    return filled(
        "page.html.j2",
        i=inspection,
        card=inspection.card,
        balance=inspection.balance,
        said=not_used(inspection.findings),
        is_unnamed=image_set.persons is Persons.UNNAMED,
        levels=list(Level),
        num_of={level: inspection.num_of(level) for level in Level},
        groups={notice.code: groups(notice) for notice in inspection.notices},
        samples=[(name, list(map(shown, rows))) for name, rows in _samples(image_set)],
        mask_colours=_mask_colours(image_set),
        strongest=max(inspection.shortcuts, key=lambda shortcut: shortcut.auroc, default=None),
        most=max(1, *(one.images for one in inspection.balance.shown)),
    )


def filled(template: str, /, **values: object) -> str:
    """Returns a page of this room. Values are text in it, never markup.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    with needed("report", "The page", "the check is complete without it"):
        page: str = made("wardround.boundary.pages", "rendered", "wardround.images.quality", template, **values)
    return page


def _samples(image_set: ImageSet) -> Iterator[tuple[str, list[int]]]:
    """Yields a few rows of each class, or of all where there is none; chosen by the hash of their content."""
    images = [image for patient in image_set.patients for image in patient.images]
    by_chance = sorted(images, key=lambda image: (image.digest, image.row))
    if image_set.target is Target.MASKS:
        yield "With what is drawn on them", [image.row for image in by_chance[:SAMPLES]]
        return
    for label, name in enumerate(image_set.class_names):
        yield name, [image.row for image in by_chance if image.label == label][:SAMPLES]


def _mask_colours(image_set: ImageSet) -> list[tuple[str, str]]:
    """Returns name and CSS colour of each class that is drawn."""
    if image_set.masks is None:
        return []
    return [
        (name, "rgb({}, {}, {})".format(*MASK_COLOURS[place % len(MASK_COLOURS)]))
        for place, name in enumerate(image_set.class_names[1:])
    ]
