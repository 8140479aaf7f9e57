"""Synthetic exports: pictures and series under known patients, read and decoded as the reader's caller does."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from wardround.images.entries import Task
from wardround.images.store import open_store

KEY = bytes(range(32))


@pytest.fixture(scope="session")
def dicom():
    """What every test of the reader does."""
    pytest.importorskip("pydicom")
    import pydicom
    from tests.images.dicom.write import write_dicom, write_picture

    from wardround.images.dicom.reader import read_dicom
    from wardround.images.listing import ReaderOptions

    def read(root, task=Task.CLASSIFICATION, **options):
        with contextlib.closing(open_store(root)) as store:
            return read_dicom(store, task, key=KEY, options=ReaderOptions(**options))

    def decode(root, listing):
        with contextlib.closing(open_store(root)) as store:
            return [
                listing.decoder.decode(
                    entry, [store.read(n) for n in entry.files], [store.read(n) for n in entry.mask], None
                )
                for entry in listing.entries
            ]

    def edit(path, **elements):
        found = pydicom.dcmread(path)
        for keyword, value in elements.items():
            if value is None:
                delattr(found, keyword)
            else:
                setattr(found, keyword, value)
        found.save_as(path)
        return path

    def picture(root, name, patient, level=100, **elements):
        path = write_picture(np.full((1, 6, 7), level, np.uint8), root / name, patient_id=patient)
        return edit(path, **elements)

    def volume(root, name, patient, seed=0, shape=(4, 5, 6), **options):
        values = np.random.default_rng(seed).integers(-900, 900, shape).astype(np.float64)
        affine = options.pop("affine", np.diag([2.0, 3.0, 4.0, 1.0]))
        return write_dicom(values, affine, root / name, patient_id=patient, **options), values

    def labels(root, *lines):
        (root / "labels.csv").write_text("\n".join(lines))
        return root

    return SimpleNamespace(
        key=KEY, read=read, decode=decode, edit=edit, picture=picture, volume=volume, labels=labels
    )
