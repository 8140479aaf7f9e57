"""The entries of a data folder, as every reader returns them, before anything is decoded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wardround.errors import DataError, as_one
from wardround.images.class_names import strange, unordered
from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.raw import Decoder
from wardround.images.entries import Entry, Region, Target
from wardround.images.findings import LeftOut, not_used, shortened
from wardround.images.identity import alike, folded, is_missing
from wardround.types import Persons

NO_LABEL = "no label"
"""The one class of pictures whose labels are refused, where somebody only looks."""


@dataclass(frozen=True)
class Listing:
    """All entries of a data folder, with the meaning of their labels.

    Args:
        entries: in a fixed order.
        class_names: of the labels, or of the values of masks.
        notes: sentences of the reader; no file names.
        left_out: what lies there and is not among the entries, with the causes.
        refusals: what a study would be refused for, where a reader only looks (`ReaderOptions.looking`).
        is_ordered: the layout states the order of grades, which are words.
        persons: knowledge of persons in the entries, from `naming.with_persons`; readers leave it as it is.
        alike: groups of patients whose ids look alike; readers that give pseudonyms find them, else `with_persons`.
        shared_series: SeriesInstanceUIDs that have files of two patients or more, each with these patients.
        called: the name that the reader gives to a patient of this id, a pseudonym where it gives them.
        target: of the predictions.
        mask_values: in files of masks that stand for the classes, which rise; empty where the number of a class does.
        volumes: three-dimensional.
        channels: of every volume; pictures have as many as the study asks for.
        unions: of the classes of masks, which are scored in place of each class; empty where each is scored alone.
        decoder: makes pictures of file contents.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    refusals: tuple[DataError, ...] = ()
    is_ordered: bool = False
    persons: Persons = Persons.UNNAMED
    alike: tuple[tuple[str, ...], ...] = ()
    shared_series: tuple[tuple[str, ...], ...] = ()
    called: Callable[[str], str] = field(default=folded, compare=False, repr=False)
    target: Target = Target.CLASSES
    mask_values: tuple[int, ...] = ()
    volumes: bool = False
    channels: int = 1
    unions: tuple[Region, ...] = ()
    decoder: Decoder = PILLOW

    @property
    def regions(self) -> tuple[Region, ...]:
        """The parts of masks that are scored: the layout's unions, or else each class but the background."""
        if self.target is not Target.MASKS:
            return ()
        return self.unions or tuple(Region(name, (k,)) for k, name in enumerate(self.class_names) if k)

    def noticed(self) -> Iterator[str]:
        """Yields sentences on what a person should know before a run; they name patients and files."""
        if self.target is not Target.MASKS and (classes := alike(self.class_names)):
            yield f"classes whose names look alike: {shortened([' = '.join(group) for group in classes])}"
        if self.alike:
            yield f"patients whose ids look alike: {shortened([' = '.join(group) for group in self.alike])}"
        if self.shared_series:
            groups = [f"{series}: {' and '.join(people)}" for series, *people in self.shared_series]
            yield f"series that stand under two patients: {shortened(groups)}"
        yield from not_used(self.notes, self.left_out, shown=2)


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
        """Returns the entries with the study's classes as labels.

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
        left_out = tuple(
            replace(one, label=None if one.label is None else self.own.get(one.label, one.label))
            for one in listing.left_out
        )
        return replace(listing, entries=entries, class_names=self.names, left_out=left_out)

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
        labels: the layout's table where it lies elsewhere; None takes the one at the top of the data folder.
        reviewed: somebody has looked at pictures that may show a name in their pixels, and lets them in.
        segments: of DICOM segmentations, the labels that are classes 1, 2, ...; None takes all that occur, in the
            alphabet's order. Hospitals that train together must name them.
        names: of persons, where the site has a way of its own; it goes before the layout's and a table in the folder.
        leave_out: values of a label or a patient in a table whose rows are left out.
        classes: of the study; None takes those of the data.
        modalities: of the pictures that are read, as DICOM or BIDS writes them; None takes all that fit together.
        looking: collects refusals in the listing instead of raising the first, for a person who looks at the data.
    """

    key_file: Path | None = None
    labels: Path | None = None
    reviewed: bool = False
    segments: tuple[str, ...] | None = None
    names: PersonNames | None = None
    leave_out: tuple[str, ...] = ()
    classes: Classes | None = None
    modalities: tuple[str, ...] | None = None
    looking: bool = False

    @property
    def listed(self) -> frozenset[str]:
        """The names that the study and the site have for classes, folded: labels, even such words as none."""
        return (
            frozenset()
            if self.classes is None
            else frozenset(map(folded, (*self.classes.names, *self.classes.own)))
        )

    @property
    def left_out_values(self) -> frozenset[str]:
        """`leave_out` folded and in lower case; an empty text stands for every missing value."""
        return frozenset("" if is_missing(value) else folded(value).lower() for value in self.leave_out)

    def refused(self, errors: Sequence[DataError]) -> tuple[DataError, ...]:
        """Returns the refusals of somebody who only looks; raises them as one otherwise."""
        if errors and not self.looking:
            raise as_one(errors)
        return tuple(errors)

    def classified(self, listing: Listing) -> Listing:
        """Returns the entries with the study's classes, where it names them.

        Raises:
            DataError: names that are hardly classes (`class_names.strange`), grades that are words in an order that
                nobody stated, two values of masks with one name, or see `Classes.of`.
        """
        if self.classes is not None:
            try:
                return self.classes.of(listing)
            except DataError as error:
                return replace(listing, refusals=(*listing.refusals, *self.refused([error])))
        wrong = None if listing.is_ordered else unordered(listing.class_names, listing.target)
        twice = {name for name in listing.class_names if listing.class_names.count(name) > 1}
        if listing.target is Target.MASKS and twice:
            wrong = DataError(
                f"every value of masks must have another name, got {shortened(sorted(twice))} twice. Rename one.",
                code="data-class-names",
            )
        errors = [wrong] if wrong else []
        if listing.target is not Target.MASKS and not listing.is_ordered:
            errors += strange(listing.class_names, len(listing.entries))
        return replace(listing, refusals=(*listing.refusals, *self.refused(errors)))


NO_OPTIONS = ReaderOptions()
