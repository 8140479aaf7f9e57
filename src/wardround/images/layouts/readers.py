"""The one dictionary that names the layouts on disk. A new layout is one function and a line here."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from wardround.images.decode.nifti import ENDINGS
from wardround.images.dicom.parse import is_dicom
from wardround.images.dicom.pseudonyms import KEY_BYTES, load_or_create_key
from wardround.images.dicom.reader import EXPECTED as DICOM_EXPECTED
from wardround.images.dicom.reader import read_dicom
from wardround.images.entries import Task
from wardround.images.layouts import aptos, chest_xray, decathlon, folder, manifest
from wardround.images.listing import Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import METADATA, files_in

_TRIED = 20


@dataclass(frozen=True)
class Reader:
    """The reader of one layout.

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
    return read_dicom(store, task, key=key, options=options)


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


def guess_layout(store: Store) -> str:
    """Returns the name of a layout: by the file that only it has, by folders, by DICOM's mark; else `folder`."""
    for name, file in (
        ("decathlon", decathlon.DESCRIPTION),
        ("manifest", manifest.MANIFEST),
        ("aptos", aptos.TABLE),
    ):
        if file in store:
            return name
    tops = {tuple(name.split("/")[:2]) for name in store.names() if name.count("/") >= 2}
    if any((split, folder) in tops for split in chest_xray.SPLITS for folder in chest_xray.FOLDERS):
        return "chest_xray"
    if METADATA in store or files_in(store)[0]:
        return "folder"
    tried = [name for name in store.names()[:_TRIED] if not name.endswith(ENDINGS)]
    return "dicom" if any(is_dicom(store.read(name)) for name in tried) else "folder"
