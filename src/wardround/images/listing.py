"""The entries of a data folder, as every reader returns them, before anything is decoded."""

from dataclasses import dataclass
from pathlib import Path

from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.raw import Decoder
from wardround.images.entries import Entry, Region, Target
from wardround.types import Persons


@dataclass(frozen=True)
class Listing:
    """All entries of a data folder, with the meaning of their labels.

    Args:
        entries: in a fixed order.
        class_names: of the labels, or of the values of masks.
        notes: sentences of the reader; no file names.
        persons: knowledge of persons in the entries, from `naming.with_persons`; readers leave it as it is.
        alike: groups of patients whose ids look alike; readers that give pseudonyms find them, else `with_persons`.
        target: of the predictions.
        volumes: three-dimensional.
        channels: of every picture; None where it is as the study asks, one or three.
        regions: unions of classes that are scored, for masks.
        decoder: makes pictures of file contents.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    persons: Persons = Persons.UNNAMED
    alike: tuple[tuple[str, ...], ...] = ()
    target: Target = Target.CLASSES
    volumes: bool = False
    channels: int | None = None
    regions: tuple[Region, ...] = ()
    decoder: Decoder = PILLOW


@dataclass(frozen=True)
class OnePerPicture:
    """No person has two pictures: the site states it."""


@dataclass(frozen=True)
class ByPattern:
    """The file name tells the person.

    Args:
        pattern: a regular expression; its named group, or else its first, is the id. It is searched in the name of
            the file without folders and ending; a pattern with a `/` is searched in the whole path.
    """

    pattern: str


@dataclass(frozen=True)
class ByTable:
    """A table tells the person: columns `picture`, `patient`[, `site`][, `eye`][, `group:<name>`].

    Args:
        path: of the table, anywhere.
    """

    path: Path


PersonNames = OnePerPicture | ByPattern | ByTable
"""The ways in which a site names persons, beside those of its layout."""


@dataclass(frozen=True)
class ReaderOptions:
    """Settings of a reader beside the folder.

    Args:
        key_file: the hospital's own key, for pseudonyms; made if it is not there. None takes a key that is
            forgotten, so that no later run finds the same pseudonyms.
        labels: a table of labels that lies elsewhere; None takes `labels.csv` at the top of the export.
        reviewed: somebody has looked at pictures that may show a name in their pixels, and lets them in.
        segments: of DICOM segmentations, the labels that are classes 1, 2, ...; None takes all that occur, in the
            alphabet's order. Hospitals that train together must name them.
        names: of persons, where the site has a way of its own; it goes before the layout's and a table in the folder.
        leave_out: values of a label or a patient in a table whose rows are left out.
    """

    key_file: Path | None = None
    labels: Path | None = None
    reviewed: bool = False
    segments: tuple[str, ...] | None = None
    names: PersonNames | None = None
    leave_out: tuple[str, ...] = ()


NO_OPTIONS = ReaderOptions()
