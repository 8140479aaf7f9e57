"""MedMNIST: one file of arrays, `<name>.npz`, with published parts. No person is named, so the unit is the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wardround.errors import DataError
from wardround.images.arrays import array_of
from wardround.images.class_names import missing_class, numbers_first
from wardround.images.decode.raw import Decoder, Extent, Hint, Raw
from wardround.images.entries import Entry, Task
from wardround.images.findings import LeftOut
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store

EXPECTED = "one file <name>.npz (train_images, train_labels, ...)"


@dataclass(frozen=True)
class ArrayDecoder(Decoder):
    """One array a picture, or a volume of voxels of 1 mm: the file tells no spacing and no orientation."""

    key: str = "arrays-1"

    def extent(self, entry: Entry, heads: Sequence[bytes], num_bytes: int) -> Extent:
        """See `Decoder`."""
        del entry, heads
        return Extent(num_bytes, 1.0)

    def decode(self, entry: Entry, contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`."""
        del entry, masks, hint
        values = array_of(contents[0]).astype(np.uint8, copy=False)
        if values.ndim == 3 and values.shape[-1] != 3:
            return Raw(values[None].astype(np.float32), None, np.eye(4))
        return Raw(values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)))


def read_medmnist(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every picture of the file with its label and published part; classes are the numbers of the file.

    Raises:
        DataError: another layout, or labels that hold no value.
    """
    names = [name for name in store.names() if name.endswith(".npy") and name.count("/") == 2]
    if not names:
        raise DataError(f"the layout medmnist must look like {EXPECTED}, but there are no such arrays.")
    places = {name: name.split("/") for name in names}
    labels = {label for _, label, _ in places.values()}
    empty, meant, wrong = missing_class("a label", labels, options.listed, options.left_out_values)
    refusals = options.refused([wrong] if wrong else [])
    class_names = tuple(sorted(labels - empty - meant, key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(
        Entry(name, number[label], None, split=part)
        for name, (part, label, _) in places.items()
        if label in number
    )
    gone = [name for name, (_, label, _) in places.items() if label not in number]
    first = array_of(store.read(names[0]))
    volumes = first.ndim == 3 and first.shape[-1] != 3
    return Listing(
        entries,
        class_names,
        left_out=tuple(LeftOut(name, "pictures without a label") for name in gone),
        refusals=refusals,
        target=task.target,
        volumes=volumes,
        decoder=ArrayDecoder(),
    )


READER = Reader(read_medmnist, EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING))
