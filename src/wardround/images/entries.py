"""One picture or volume as a layout describes it, and what may be asked of it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

PICTURE_ENDINGS = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")
OTHER_ENDINGS = (
    ".webp", ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".nrrd",
    ".svs", ".ndpi",
)  # fmt: skip
"""Pictures and volumes that layouts of pictures do not read."""


class Target(StrEnum):
    """The kind of a model's predictions."""

    CLASSES = "classes"
    GRADES = "grades"
    """Classes in an order: grade 4 is further from grade 0 than grade 1 is."""
    MASKS = "masks"
    """A class for every pixel or voxel."""


class Task(StrEnum):
    """The readings of a layout's labels."""

    BINARY = "binary"
    SUBTYPE = "subtype"
    CLASSIFICATION = "classification"
    GRADING = "grading"
    REFERABLE = "referable"
    SEGMENTATION = "segmentation"

    @property
    def target(self) -> Target:
        """The kind of predictions that the reading gives."""
        return {Task.GRADING: Target.GRADES, Task.SEGMENTATION: Target.MASKS}.get(self, Target.CLASSES)


@dataclass(frozen=True)
class Entry:
    """One picture or volume as a layout describes it.

    Args:
        file: the name that findings, errors and hashes use: a path below the data folder, with `/`; for DICOM a
            pseudonym.
        label: index into the listing's class names; 0 where the target is a mask.
        patient: of the picture; None where nothing names one.
        site: the hospital it comes from, where the layout says so.
        split: the published part it lies in (`train`, `test`, `val`), where the layout has one.
        sources: files it is decoded from; empty means `file` itself.
        mask: files of its mask.
        frame: of a source with many; None for all.
        num_values: pixels or voxels that it decodes to, where its reader knows; 0 where it does not.
        groups: column and value of each subgroup that the layout states, such as ("sex", "F").
    """

    file: str
    label: int
    patient: str | None
    site: str | None = None
    split: str | None = None
    sources: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    frame: int | None = None
    num_values: int = 0
    groups: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that its picture is read from."""
        return self.sources or (self.file,)


@dataclass(frozen=True)
class Region:
    """Classes of a mask that are scored together, as one thing.

    Args:
        name: as the field calls it, such as "whole tumour".
        classes: indices into the class names.
    """

    name: str
    classes: tuple[int, ...]


def stem_of(file: str) -> str:
    """Returns a file's name without its folders and ending, `.nii.gz` being one.

    >>> stem_of("a/b.nii.gz"), stem_of("p-1/s-2/3")
    ('b', '3')
    """
    return PurePosixPath(PurePosixPath(file).name.removesuffix(".gz")).stem
