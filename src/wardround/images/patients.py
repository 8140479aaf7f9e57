"""The patient: one person with all their images. All that follows takes patients, never pictures."""

from dataclasses import dataclass
from pathlib import Path

from wardround.images.entries import Region, Target
from wardround.images.findings import Findings
from wardround.types import Masks, PatientId, Persons, Pictures


@dataclass(frozen=True)
class ImageRef:
    """One image of a patient: a picture, a volume, or one slice of a volume.

    Args:
        file: path below the data folder, with `/`, or a pseudonym; slices of one volume share it.
        label: index into the class names of the set.
        row: of its picture in `ImageSet.pixels`.
        split: the published part (`train`, `test`, `val`), where there is one.
        digest: sha256 of the file's content, in hexadecimal.
        site: the hospital this image comes from, where the layout says so.
        groups: column and value of each subgroup that the layout states.
    """

    file: str
    label: int
    row: int
    split: str | None
    digest: str
    site: str | None = None
    groups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Patient:
    """One person with all their images; one picture where persons are unnamed (`ImageSet.persons`).

    Args:
        id: folded (`identity.folded`); never leaves the hospital.
        images: at least one.
        sites: every hospital that the data names for this person, sorted. Pictures that were left out count: a person's
            site follows from names and tables, and from no picture's content.
    """

    id: PatientId
    images: tuple[ImageRef, ...]
    sites: tuple[str, ...] = ()

    @property
    def site(self) -> str | None:
        """The hospital the person belongs to; None where unknown, or where two are named."""
        return self.sites[0] if len(self.sites) == 1 else None

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each image."""
        return tuple(image.label for image in self.images)

    @property
    def label(self) -> int:
        """The highest label of any image. Used to stratify splits, never to train."""
        return max(self.labels)

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the images in `ImageSet.pixels`."""
        return tuple(image.row for image in self.images)


@dataclass(frozen=True)
class ImageSet:
    """A data set: patients in a fixed order, and their decoded pictures.

    Args:
        name: the layout it was read with.
        root: the data folder; None for a generated set.
        class_names: of the labels.
        patients: sorted by id.
        pixels: uint8, (picture, channel, *space), memory-mapped and read-only. `ImageRef.row` points
            into it; rows of unreadable pictures are zero, and no `ImageRef` points at them, nor at dropped copies.
        findings: of the reader and the grouping.
        digest: sha256 of contents, labels and patients; the privacy ledger knows the data set by it. It does
            not depend on file names, on the order of files or on how pictures are scaled.
        target: of the predictions.
        masks: class of each pixel or voxel, (picture, *space); None unless the target is masks.
        regions: unions of mask classes that are scored.
        spacing: mm between neighbours along x, y and z; None where it is unknown, or each volume's own.
        rows_each: rows of one volume: 1, or as many as it has axial slices, which share a file and are neighbours,
            feet first; a slice's height is the rest of its row by this number.
        persons: the knowledge of persons: the unit of every guarantee follows from it.
    """

    name: str
    root: Path | None
    class_names: tuple[str, ...]
    patients: tuple[Patient, ...]
    pixels: Pictures
    findings: Findings
    digest: str
    target: Target = Target.CLASSES
    masks: Masks | None = None
    regions: tuple[Region, ...] = ()
    spacing: tuple[float, ...] | None = None
    rows_each: int = 1
    persons: Persons = Persons.UNNAMED

    @property
    def sliced(self) -> bool:
        """True if the pictures are slices of volumes."""
        return self.rows_each > 1
