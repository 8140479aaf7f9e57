"""The one dictionary that names the layouts on disk. A new layout is one function and a line here."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround.images.dicom.pseudonyms import KEY_BYTES, load_or_create_key
from wardround.images.dicom.reader import EXPECTED as DICOM_EXPECTED
from wardround.images.dicom.reader import DicomOptions, read_dicom
from wardround.images.entries import Task
from wardround.images.layouts import aptos, chest_xray, decathlon, folder, manifest
from wardround.images.listing import Listing
from wardround.images.store import Store


@dataclass(frozen=True)
class ReaderOptions:
    """What a reader may need beside the folder.

    Args:
        key_file: the hospital's own key, for pseudonyms; made if it is not there. None takes a key that is
            forgotten, so that no later run finds the same pseudonyms.
        labels: a table of labels that lies elsewhere.
        reviewed: somebody has looked at pictures that may show a name in their pixels, and lets them in.
        segments: of DICOM segmentations, the labels that are classes 1, 2, ...; None takes all there are.
    """

    key_file: Path | None = None
    labels: Path | None = None
    reviewed: bool = False
    segments: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Reader:
    """How one layout is read.

    Args:
        read: from the data folder and the task to the pictures it holds; decodes nothing.
        expected: the layout in one line, for the error when something else is found.
        tasks: the readings of its labels; the first is taken where none is named.
    """

    read: Callable[[Store, Task, ReaderOptions], Listing]
    expected: str
    tasks: tuple[Task, ...]


def _plain(read: Callable[[Store, Task], Listing]) -> Callable[[Store, Task, ReaderOptions], Listing]:
    return lambda store, task, options: read(store, task)


def _dicom(store: Store, task: Task, options: ReaderOptions) -> Listing:
    key = os.urandom(KEY_BYTES) if options.key_file is None else load_or_create_key(options.key_file)
    chosen = DicomOptions(labels=options.labels, reviewed=options.reviewed, segments=options.segments)
    return read_dicom(store, task, key=key, options=chosen)


READERS: dict[str, Reader] = {
    "chest_xray": Reader(_plain(chest_xray.read_chest_xray), chest_xray.EXPECTED, (Task.BINARY, Task.SUBTYPE)),
    "folder": Reader(_plain(folder.read_folder), folder.EXPECTED, (Task.CLASSIFICATION, Task.BINARY)),
    "aptos": Reader(_plain(aptos.read_aptos), aptos.EXPECTED, (Task.GRADING, Task.REFERABLE)),
    "decathlon": Reader(_plain(decathlon.read_decathlon), decathlon.EXPECTED, (Task.SEGMENTATION,)),
    "manifest": Reader(
        _plain(manifest.read_manifest), manifest.EXPECTED, (Task.CLASSIFICATION, Task.GRADING, Task.SEGMENTATION)
    ),
    "dicom": Reader(_dicom, DICOM_EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING, Task.SEGMENTATION)),
}

PHANTOM = "phantom"
"""The generated layout: it has options instead of a folder."""

LAYOUTS = (*READERS, PHANTOM)
