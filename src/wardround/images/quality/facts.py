"""What only the files themselves tell, before they are brought to one size: extent, spacing, bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wardround.images.decode.nifti import spacing_of
from wardround.images.patients import ImageSet


@dataclass(frozen=True)
class FileFacts:
    """Facts by `ImageRef.file`; whatever is absent is not checked, and the inspection says so.

    Args:
        sizes: pixels or voxels along each axis, (height, width) or (x, y, z).
        spacings_mm: of volumes, along each axis.
        num_bytes: of the files.
    """

    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spacings_mm: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    num_bytes: Mapping[str, int] = field(default_factory=dict)


def facts_of_folder(image_set: ImageSet) -> FileFacts:
    """Sizes and bytes of pictures in a folder, spacings and bytes of NIfTI volumes, from their headers.

    A file whose header cannot be read is left out: whether it decodes is not asked here. Of an archive, and of a series
    of many files, there is nothing.
    """
    if image_set.root is None or not image_set.root.is_dir():
        return FileFacts()
    if image_set.pixels.ndim == 5:
        return _of_volumes(image_set, image_set.root)
    from wardround.images.decode.pillow import pillow_kept_quiet

    sizes: dict[str, tuple[int, ...]] = {}
    num_bytes: dict[str, int] = {}
    with pillow_kept_quiet():
        for file in sorted({image.file for patient in image_set.patients for image in patient.images}):
            path = image_set.root / file
            if not path.is_file():
                continue
            num_bytes[file] = path.stat().st_size
            size = _size(path)
            if size is not None:
                sizes[file] = size
    return FileFacts(sizes=sizes, num_bytes=num_bytes)


def _of_volumes(image_set: ImageSet, root: Path) -> FileFacts:
    files = sorted({image.file for patient in image_set.patients for image in patient.images})
    num_bytes = {file: (root / file).stat().st_size for file in files if (root / file).is_file()}
    spacings = {file: spacing for file in num_bytes if (spacing := spacing_of(root / file)) is not None}
    return FileFacts(spacings_mm=spacings, num_bytes=num_bytes)


def _size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    from wardround.images.decode.pillow import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # Pillow raises whatever a damaged header makes it raise
        return None
