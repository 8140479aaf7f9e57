"""Facts of the files themselves, before they are brought to one size: extent, spacing, bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from wardround.images.decode.nifti import spacing_of
from wardround.images.decode.pillow import FORMATS
from wardround.images.decode.quiet import QUIET
from wardround.images.patients import ImageSet


@dataclass(frozen=True)
class FileFacts:
    """Facts by `ImageRef.file`; an absent fact is not checked, and the inspection says so.

    Args:
        sizes: pixels or voxels along each axis, (height, width) or (x, y, z).
        spacings_mm: of volumes, along each axis.
    """

    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spacings_mm: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    num_bytes: Mapping[str, int] = field(default_factory=dict)


def facts_of_folder(image_set: ImageSet) -> FileFacts:
    """Returns sizes and bytes of pictures in a folder, spacings and bytes of NIfTI volumes, from their headers.

    A file whose header cannot be read is left out: its decoding is not tried here. An archive, and a series of many
    files, have no facts.
    """
    root = image_set.root
    if root is None or not root.is_dir():
        return FileFacts()
    files = sorted({image.file for patient in image_set.patients for image in patient.images})
    paths = {file: root / file for file in files if (root / file).is_file()}
    num_bytes = {file: path.stat().st_size for file, path in paths.items()}
    if image_set.pixels.ndim == 5:
        spacings = {file: spacing for file, path in paths.items() if (spacing := spacing_of(path)) is not None}
        return FileFacts(spacings_mm=spacings, num_bytes=num_bytes)
    with QUIET:
        sizes = {file: size for file, path in paths.items() if (size := _size(path)) is not None}
    return FileFacts(sizes=sizes, num_bytes=num_bytes)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # a damaged header makes Pillow raise many kinds
        return None
