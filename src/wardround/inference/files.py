"""Files that are written about an answer: masks as NIfTI, and names that do not collide."""

from itertools import chain, count
from pathlib import Path

import numpy as np

from wardround.boundary.extras import needed
from wardround.boundary.private import make_private_folder, write_whole
from wardround.images.loose import stem_of
from wardround.inference.answers import Segmented

PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Affine of a picture's mask: columns towards the left, rows towards the back, pixels of 1 mm."""


class Folder:
    """A folder of results for its owner alone; each file appears whole.

    Raises:
        MachineError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._taken = path, set[str]()
        make_private_folder(path)

    def write(self, file: str, ending: str, content: bytes) -> Path:
        """Writes a file named after the picture `file`; with a number where this run has written one of that name."""
        stem = stem_of(file)
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        # Some file systems hold two names for one that differ by case alone.
        name = next(name for name in names if f"{name}{ending}".casefold() not in self._taken)
        self._taken.add(f"{name}{ending}".casefold())
        path = self._path / f"{name}{ending}"
        write_whole(path, content)
        return path


def nifti_of(answer: Segmented) -> bytes:
    """Returns a mask as a compressed NIfTI file, uint8 (x, y, z) in RAS+; of a picture (column, row, 1).

    Raises:
        MissingExtra: nibabel is not installed.
    """
    with needed("volumes", "A mask as NIfTI"):
        import nibabel
    import gzip

    mask = answer.mask if answer.affine is not None else answer.mask.T[:, :, None]
    affine = PICTURE_AFFINE if answer.affine is None else answer.affine
    image = nibabel.Nifti1Image(np.ascontiguousarray(mask), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return gzip.compress(image.to_bytes(), 3, mtime=0)
