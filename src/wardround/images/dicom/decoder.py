"""The contents of DICOM files to a picture, or to a volume with its mask.

The frames of every segment (DICOM SEG) are laid on the grid of the volume they belong to. A segment becomes the class
of its SegmentLabel. Labels are public: they name what is segmented in the study file, in reports and to the
coordinator, so a hospital must not write anything about a patient into them. Where two segments overlap, the class
with the higher index is kept.
Source: DICOM PS3.3 C.8.20.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.decode.quiet import sealed
from wardround.images.decode.raw import Decoder, Extent, Hint, Mask, Raw
from wardround.images.dicom.geometry import Grid, Plane, grid_of, planes_of, turned, turned_affine
from wardround.images.dicom.parse import whole
from wardround.images.dicom.pixels import MAX_VOXELS, aspect_of, physical_of, picture_of, stored
from wardround.images.dicom.values import first_with, grouped, items, text, whole_number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from wardround.images.entries import Entry

LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", LABELMAP)

OFF_GRID = 0.25
"""Largest distance of a segmentation's pixels from the volume's voxels, in voxels."""

_DAMAGED = "a DICOM picture must decode to its end; this one is damaged. Export it again."
_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DicomDecoder(Decoder):
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
        return f"dicom-2 {'volumes' if self.volumes else 'pictures'} {self.segments!r}"

    def extent(self, entry: "Entry", heads: Sequence[bytes], num_bytes: int) -> Extent:
        """See `Decoder`."""
        del heads
        return Extent(entry.num_values or min(num_bytes, MAX_VOXELS))

    def decode(self, entry: "Entry", contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`. The slices of a volume may come in any order."""
        [made] = self.decode_each([entry], contents, masks, hint)
        if isinstance(made, DataError):
            raise made
        return made

    def decode_each(
        self, entries: Sequence["Entry"], contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None
    ) -> Iterator[Raw | DataError]:
        """See `Decoder`. The file of several frames is parsed once."""
        found: Dataset | None = None

        def decoded(frame: int) -> Raw:
            nonlocal found
            if self.volumes:
                return self._volume(contents, masks)
            found = whole(contents[0]) if found is None else found
            return Raw(picture_of(found, frame), aspect=aspect_of(found, frame))

        for entry in entries:
            made: Raw | DataError
            try:
                made = sealed(partial(decoded, entry.frame or 0), _DAMAGED)
            except DataError as error:
                made = error.with_traceback(None)  # whose frames would keep the file's content
            yield made

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
        values = turned(values, grid.affine)
        padding = np.isnan(values)
        if padding.any():
            values[padding] = np.nanmin(values) if not padding.all() else 0
        affine = turned_affine(grid.shape, grid.affine)
        return Raw(values[None], mask, affine, padding if padding.any() else None)


def labels_of(found: "Dataset") -> tuple[str, ...]:
    """Returns the labels of a segmentation, in the order of its segments."""
    return tuple(_label(item) for item in items(found, "SegmentSequence"))


def mask_of(contents: Sequence[bytes], grid: Grid, segments: tuple[str, ...]) -> Mask:
    """Returns the class of every voxel, uint8 (column, row, slice): 0, or one more than the place in `segments`.

    Segments of other labels than `segments` are background.

    Raises:
        DataError: a segmentation on another grid.
        Exception: any that pydicom lets through; call it within `sealed`.
    """
    mask = np.zeros(grid.shape, dtype=np.uint8)
    for content in contents:
        found = whole(content)
        class_of = {
            whole_number(item, "SegmentNumber", 0): segments.index(_label(item)) + 1
            for item in items(found, "SegmentSequence")
            if _label(item) in segments
        }
        for classes, plane in zip(_frames(found, class_of), planes_of(found), strict=True):
            _lay(classes, plane, grid, mask)
    return mask


def _frames(found: "Dataset", class_of: dict[int, int]) -> list[npt.NDArray[np.uint8]]:
    """Returns the class of every pixel of every frame."""
    pixels = stored(found)
    sop_class = text(found, "SOPClassUID") or text(found.file_meta, "MediaStorageSOPClassUID")
    if sop_class == LABELMAP:
        table = np.zeros(1 << 16, dtype=np.uint8)
        for number, index in class_of.items():
            table[number] = index
        return [table[frame] for frame in pixels]
    is_fractional = text(found, "SegmentationType").upper() == "FRACTIONAL"
    half = whole_number(found, "MaximumFractionalValue", 255) / 2 if is_fractional else 1
    made = []
    for frame, groups in zip(pixels, grouped(found), strict=True):
        place = first_with(groups, "ReferencedSegmentNumber")
        index = 0 if place is None else class_of.get(whole_number(place, "ReferencedSegmentNumber", 0), 0)
        made.append(np.where(frame >= half, index, 0).astype(np.uint8))
    return made


def _lay(classes: npt.NDArray[np.uint8], plane: Plane, grid: Grid, mask: Mask) -> None:
    """Puts the classes of one frame at their place in the volume."""
    rows, columns = np.nonzero(classes)
    if not len(rows):
        return
    to_voxels = np.linalg.inv(grid.affine)
    axes = np.stack(
        [np.array(plane.orientation[:3]) * plane.spacing[1], np.array(plane.orientation[3:]) * plane.spacing[0]]
    )
    steps = to_voxels[:3, :3] @ (axes * _TO_RAS).T
    start = to_voxels[:3, :3] @ (np.array(plane.position) * _TO_RAS) + to_voxels[:3, 3]
    places = start[:, None] + steps @ np.stack([columns, rows])
    voxels = np.rint(places)
    if np.abs(places - voxels).max() > OFF_GRID:
        raise DataError("a segmentation must lie on the grid of its volume, this one lies between. Resample it.")
    i, j, k = voxels.astype(np.int64)
    if voxels.min() < 0 or (voxels.max(axis=1) >= mask.shape).any():
        raise DataError("a segmentation must lie within its volume, this one reaches beyond. Export both again.")
    # Several pixels of one frame never fall into one voxel: neighbours are a voxel apart.
    mask[i, j, k] = np.maximum(mask[i, j, k], classes[rows, columns])


def _label(item: "Dataset") -> str:
    label = " ".join(text(item, "SegmentLabel").split())
    return label if label.isprintable() else ""
