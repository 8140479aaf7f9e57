"""DICOM: series of slices in any folders, told apart by their headers."""

import os

from wardround.images.dicom.pseudonyms import KEY_BYTES, load_or_create_key
from wardround.images.dicom.reader import EXPECTED, DicomOptions, read_dicom
from wardround.images.entries import Task
from wardround.images.layouts.readers import Reader, ReaderOptions
from wardround.images.listing import Listing
from wardround.images.store import Store


def _read(store: Store, task: Task, options: ReaderOptions) -> Listing:
    key = os.urandom(KEY_BYTES) if options.key_file is None else load_or_create_key(options.key_file)
    chosen = DicomOptions(labels=options.labels, reviewed=options.reviewed, segments=options.segments)
    return read_dicom(store, task, key=key, options=chosen)


READER = Reader(_read, EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING, Task.SEGMENTATION))
