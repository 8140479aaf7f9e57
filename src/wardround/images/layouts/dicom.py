"""DICOM: series of slices in any folders, told apart by their headers."""

import os

from wardround.images.dicom.pseudonyms import KEY_BYTES, load_or_create_key
from wardround.images.dicom.reader import EXPECTED, read_dicom
from wardround.images.entries import Task
from wardround.images.layouts.readers import Reader
from wardround.images.listing import Listing, ReaderOptions
from wardround.images.store import Store


def _read(store: Store, task: Task, options: ReaderOptions) -> Listing:
    key = os.urandom(KEY_BYTES) if options.key_file is None else load_or_create_key(options.key_file)
    return read_dicom(store, task, key=key, options=options)


READER = Reader(_read, EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING, Task.SEGMENTATION))
