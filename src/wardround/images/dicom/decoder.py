"""The contents of DICOM files to a picture, or to a volume with its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wardround.errors import DataError
from wardround.images.decode.raw import Hint, Raw
from wardround.images.dicom.geometry import grid_of, planes_of, turned, turned_affine
from wardround.images.dicom.parse import whole
from wardround.images.dicom.pixels import MAX_VOXELS, physical_of, picture_of
from wardround.images.dicom.quiet import sealed
from wardround.images.dicom.segmentation import mask_of

if TYPE_CHECKING:
    from wardround.images.entries import Entry


@dataclass(frozen=True)
class DicomDecoder:
    """See `Decoder`.

    Args:
        volumes: files are slices of a volume; otherwise each is a picture, or a frame is.
        segments: labels of segmentations that are classes 1, 2, ... of the mask.
    """

    volumes: bool
    segments: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """See `Decoder`."""
        return f"dicom-1 {'volumes' if self.volumes else 'pictures'} {self.segments!r}"

    def decode(self, entry: "Entry", contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`. The slices of a volume may come in any order."""
        del hint

        def decoded() -> Raw:
            return self._volume(contents, masks) if self.volumes else Raw(picture_of(whole(contents[0]), frame))

        frame = entry.frame or 0
        return sealed(decoded, "a DICOM picture must decode to its end; this one is damaged. Export it again.")

    def _volume(self, contents: Sequence[bytes], masks: Sequence[bytes]) -> Raw:
        files = [whole(content) for content in contents]
        planes = [plane for found in files for plane in planes_of(found)]
        if not planes or sum(plane.size[0] * plane.size[1] for plane in planes) > MAX_VOXELS:
            raise DataError(
                f"a volume must have 1 to {MAX_VOXELS:,} voxels, this one has more or none. Leave it out."
            )
        grid = grid_of(planes)
        place = {index: number for number, index in enumerate(grid.order)}
        values = np.empty(grid.shape, dtype=np.float32)
        index = 0
        for found in files:
            for frame in physical_of(found):
                values[:, :, place[index]] = frame.T
                index += 1
        mask = turned(mask_of(masks, grid, self.segments), grid.affine) if masks else None
        return Raw(turned(values, grid.affine)[None], mask, turned_affine(grid.shape, grid.affine))
