"""The entries of a data folder, as every reader returns them, before anything is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wardround.errors import DataError
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
class Classes:
    """The classes of a study, in its order, and what a site calls them; both are fixed before a picture is read.

    Args:
        names: of the study's classes.
        own: from a site's own name of a class to the study's, where they differ.

    Raises:
        DataError: a site's name stands for a class that the study does not have.
    """

    names: tuple[str, ...]
    own: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses a map to a class that the study does not have."""
        self._refuse_strange(list(self.own.values()), "[site.class_names]")

    def of(self, listing: Listing) -> Listing:
        """Returns the entries with the study's classes as labels; a class without a picture is a note.

        Raises:
            DataError: a class that the study does not have, or masks whose values are classes in another order.
        """
        called = [self.own.get(name, name) for name in listing.class_names]
        self._refuse_strange(called, "the data")
        if listing.target is Target.MASKS:
            if tuple(called) != self.names:
                raise DataError(
                    f"the values of masks must be the study's classes in its order, {', '.join(self.names)}, got "
                    f"{', '.join(called)}. Write the masks anew, or change [data] classes.",
                    code="data-mask-classes",
                )
            return replace(listing, class_names=self.names)
        entries = tuple(replace(entry, label=self.names.index(called[entry.label])) for entry in listing.entries)
        present = {entry.label for entry in entries}
        without = [name for label, name in enumerate(self.names) if label not in present]
        notes = (f"no picture is of the study's class {', '.join(without)}",) if without else ()
        return replace(listing, entries=entries, class_names=self.names, notes=(*listing.notes, *notes))

    def _refuse_strange(self, called: list[str], place: str) -> None:
        strange = sorted(set(called) - set(self.names))
        if strange:
            raise DataError(
                f"every class in {place} must be one of the study's, {', '.join(self.names)}, got "
                f"{', '.join(strange)}. Say in [site.class_names] which of them each is.",
                code="data-strange-class",
            )


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
        classes: of the study; None takes those of the data.
        modalities: of the pictures that are read, as DICOM or BIDS writes them; None takes all that fit together.
    """

    key_file: Path | None = None
    labels: Path | None = None
    reviewed: bool = False
    segments: tuple[str, ...] | None = None
    names: PersonNames | None = None
    leave_out: tuple[str, ...] = ()
    classes: Classes | None = None
    modalities: tuple[str, ...] | None = None

    def classified(self, listing: Listing) -> Listing:
        """Returns the entries with the study's classes, where it names them."""
        return listing if self.classes is None else self.classes.of(listing)


NO_OPTIONS = ReaderOptions()
