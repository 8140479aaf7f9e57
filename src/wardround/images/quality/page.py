"""An inspection as one self-contained page with thumbnails: no script, no request; for a hospital's own screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from wardround.errors import DataError, MissingExtra
from wardround.images.entries import Target
from wardround.images.patients import ImageRef, ImageSet, Patient
from wardround.images.quality.inspection import Inspection
from wardround.images.quality.notice import Level, Notice
from wardround.images.quality.thumbnails import MASK_COLOURS, thumbnail
from wardround.images.whole_file import appears_whole

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
        DataError: the page cannot be written.
    """
    content = render(inspection, image_set).encode()
    try:
        with appears_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise DataError(
            f"the file must be writable, got: {error.strerror or error} ({path}). Choose a folder that exists."
        ) from error


def render(inspection: Inspection, image_set: ImageSet) -> str:
    """Returns the page. Names of files, patients and classes are text in it, never markup.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The page needs {error.name}, which is not installed; the check is complete without it. "
            "Install it with: pip install 'wardround[report]'."
        ) from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    gallery = _Gallery(image_set)
    # The style sheet is ours; everything else is escaped.
    return environment.from_string(_file("page.html.j2")).render(
        i=inspection,
        card=inspection.card,
        balance=inspection.balance,
        levels=list(Level),
        num_of={level: inspection.num_of(level) for level in Level},
        groups={notice.code: gallery.groups(notice) for notice in inspection.notices},
        samples=gallery.samples(),
        mask_colours=_mask_colours(image_set),
        strongest=max(inspection.shortcuts, key=lambda shortcut: shortcut.auroc, default=None),
        most=max(1, *(one.images for one in inspection.balance.shown)),
        style=Markup(_file("page.css")),
    )


class _Gallery:
    """The pictures of a set by row; thumbnails are made when they are first shown, and once."""

    def __init__(self, image_set: ImageSet) -> None:
        self._set = image_set
        self._held: Mapping[int, tuple[Patient, ImageRef]] = {
            image.row: (patient, image) for patient in image_set.patients for image in patient.images
        }
        self._made: dict[int, Shown] = {}

    def groups(self, notice: Notice) -> tuple[Group, ...]:
        """Returns the first groups of a notice."""
        return tuple(
            Group(tuple(map(self._shown, rows[:PER_GROUP])), max(0, len(rows) - PER_GROUP))
            for rows in notice.rows[:GROUPS]
        )

    def samples(self) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
        """Returns a few pictures of each class, or of all where there is none; chosen by the hash of their content."""
        by_chance = sorted(self._held.values(), key=lambda pair: (pair[1].digest, pair[1].row))
        if self._set.target is Target.MASKS:
            return (("With what is drawn on them", self._first(by_chance, None)),)
        return tuple((name, self._first(by_chance, label)) for label, name in enumerate(self._set.class_names))

    def _first(self, held: list[tuple[Patient, ImageRef]], label: int | None) -> tuple[Shown, ...]:
        rows = [image.row for _, image in held if label is None or image.label == label]
        return tuple(map(self._shown, rows[:SAMPLES]))

    def _shown(self, row: int) -> Shown:
        if row not in self._made:
            patient, image = self._held[row]
            label = "" if self._set.target is Target.MASKS else self._set.class_names[image.label]
            self._made[row] = Shown(thumbnail(self._set, row), image.file, patient.id, label, image.split)
        return self._made[row]


def _mask_colours(image_set: ImageSet) -> list[tuple[str, str]]:
    """Returns name and CSS colour of each class that is drawn."""
    if image_set.masks is None:
        return []
    return [
        (name, "rgb({}, {}, {})".format(*MASK_COLOURS[place % len(MASK_COLOURS)]))
        for place, name in enumerate(image_set.class_names[1:])
    ]


def _file(name: str) -> str:
    return (resources.files("wardround.images.quality") / name).read_text(encoding="utf-8")
