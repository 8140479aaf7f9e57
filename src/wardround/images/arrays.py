"""A MedMNIST file (.npz) as a store of pictures, `<part>/<label>/<name>.npy`; nothing in it is unpickled.

    train_images, val_images, test_images   uint8 (picture, height, width[, 1 or 3]) or (picture, x, y, z)
    train_labels, ...                       integers (picture,) or (picture, 1)

A picture is named by a hash of its values, never by its number: if one is taken away, every other keeps its name, and
so its place in a study. Equal pictures under one label are counted, for they cannot be told apart.
Source: Yang et al. 2023, https://doi.org/10.1038/s41597-022-01721-8.
"""

import io
import tokenize
from collections import Counter
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.archives import MAX_MEMBERS
from wardround.images.store import Source, Store, open_store

ENDING = ".npz"
PARTS = ("train", "val", "test")
_MOST_VALUES = 1 << 40
_TEXTS = (".md", ".txt", ".json", ".pdf")


def open_container(root: Path, *, looking: bool = False) -> Store:
    """Opens a folder, an archive (`open_store`) or a MedMNIST file, which may be alone in a folder but for texts.

    Raises:
        DataError: as `open_store`; or a MedMNIST file of other arrays (code `data-medmnist`).
    """
    arrays = root
    if root.is_dir():
        seen = [path for path in root.iterdir() if not path.name.startswith(".") and path.suffix not in _TEXTS]
        arrays = seen[0] if len(seen) == 1 else root
    if arrays.is_file() and arrays.name.lower().endswith(ENDING):
        return _open_arrays(arrays)
    return open_store(root, looking=looking)


class _Pictures(Source):
    """Pictures of arrays in memory, each as a .npy file."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._values: dict[str, npt.NDArray[np.uint8]] = {}

    def add(self, name: str, values: npt.NDArray[np.uint8]) -> None:
        self._values[name] = values
        self.sizes[name] = len(_npy(values))

    def read(self, name: str, limit: int) -> bytes:
        return _npy(self._values[name])[:limit]

    def close(self) -> None:
        self._values.clear()


def _open_arrays(path: Path) -> Store:
    pictures, seen = _Pictures(), Counter[str]()
    with closing(open_store(path)) as store:
        for part in PARTS:
            both = [f"{part}_{what}.npy" for what in ("images", "labels")]
            if not any(name in store for name in both):
                continue
            images, labels = (array_of(store.read(name)) for name in both)
            images = images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
            numbers = _checked(images, labels)
            if len(pictures.sizes) + len(numbers) > MAX_MEMBERS:
                raise DataError(
                    f"a MedMNIST file must have at most {MAX_MEMBERS:,} pictures, got more. Take some out.",
                    code="data-medmnist",
                )
            for values, label in zip(images, numbers, strict=True):
                name = f"{part}/{label}/{sha256(values.tobytes()).hexdigest()[:20]}"
                seen[name] += 1
                pictures.add(f"{name}{'' if seen[name] == 1 else f'-{seen[name]}'}.npy", values)
    return Store(path, pictures)


def array_of(data: bytes) -> npt.NDArray[Any]:
    """Returns the array of a .npy file, in memory that the file fills.

    Raises:
        DataError: no array of plain numbers, or one of another size than the file's.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        count = 1
        for length in shape:
            count = min(count * max(0, int(length)), _MOST_VALUES)
        if dtype.kind not in "iu" or count * dtype.itemsize != len(data) - stream.tell():
            raise ValueError
        return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")
    except (
        ValueError, TypeError, OverflowError, EOFError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError
    ):  # fmt: skip
        raise DataError(
            "an array must be whole and hold whole numbers, one in this file does not. Download the file again.",
            code="data-medmnist",
        ) from None


def _checked(images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> list[int]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] in ((2,), (4,)):
        raise DataError(
            "images of a MedMNIST file must be uint8 (picture, height, width), with three colours, or (picture, x, y, "
            f"z), got {images.dtype} of shape {images.shape}. Choose another file.",
            code="data-medmnist",
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            "a MedMNIST file must have one label a picture: multi-label sets, such as chestmnist, are not supported, "
            f"got labels of shape {labels.shape}. Give the pictures with one label each, by a manifest.csv.",
            code="data-multi-label",
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise DataError(
            f"a MedMNIST file must have one label for each of {len(images)} images, got labels of shape "
            f"{labels.shape}. Download the file again.",
            code="data-medmnist",
        )
    return [int(label) for label in labels.ravel()]


def _npy(values: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
