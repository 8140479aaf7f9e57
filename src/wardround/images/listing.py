"""The entries of a data folder, as every reader returns them, before anything is decoded."""

from dataclasses import dataclass
from pathlib import Path

from wardround.images.decode.pillow import PILLOW
from wardround.images.decode.raw import Decoder
from wardround.images.entries import Entry, Region, Target


@dataclass(frozen=True)
class Listing:
    """All entries of a data folder, with the meaning of their labels.

    Args:
        entries: in a fixed order.
        class_names: of the labels, or of the values of masks.
        notes: sentences of the reader; no file names.
        unnamed: entries that name no patient, each counted as a patient of its own.
        target: of the predictions.
        volumes: three-dimensional.
        channels: of every picture; None where it is as the study asks, one or three.
        regions: unions of classes that are scored, for masks.
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
    """

    key_file: Path | None = None
    labels: Path | None = None
    reviewed: bool = False
    segments: tuple[str, ...] | None = None
