"""What every reader returns: one entry a picture, before anything is decoded."""

from dataclasses import dataclass
from enum import StrEnum

PICTURE_ENDINGS = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")


class Task(StrEnum):
    """What the labels of a layout with more than one reading stand for."""

    BINARY = "binary"
    SUBTYPE = "subtype"


@dataclass(frozen=True)
class Entry:
    """One picture as a layout describes it.

    Args:
        file: path below the data folder, with `/`.
        label: index into the listing's class names.
        patient: whose picture it is.
        site: the hospital it comes from, where the layout says so.
        split: the published part it lies in (`train`, `test`, `val`), where the layout has one.
    """

    file: str
    label: int
    patient: str
    site: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """All entries of a data folder, the names of the classes, and what the reader wants to be known."""

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
