"""The entries of a data folder, as every reader returns them, before anything is decoded."""

from dataclasses import dataclass

from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.raw import Decoder
from wardround.images.entries import Entry, Region, Target


@dataclass(frozen=True)
class Listing:
    """All entries of a data folder, and how they are to be understood.

    Args:
        entries: in a fixed order.
        class_names: what the labels, or the values of masks, stand for.
        notes: what the reader wants to be known; no file names.
        unnamed: entries that name no patient, each counted as a patient of its own.
        target: what is predicted.
        volumes: three-dimensional.
        channels: of every picture; None where it is as the study asks, one or three.
        regions: what is scored, for masks.
        decoder: makes pictures of file contents.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    unnamed: int = 0
    target: Target = Target.CLASSES
    volumes: bool = False
    channels: int | None = None
    regions: tuple[Region, ...] = ()
    decoder: Decoder = PILLOW
