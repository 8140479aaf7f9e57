"""Decoders: from a file's content to values, before they are brought to the size that a study asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.entries import Entry

Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]
Padding = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Raw:
    """One picture or volume as its file has it.

    Args:
        values: uint8 (channel, height, width), 0..255, for pictures, and uint16 where their files have 16 bits; float32
            (channel, x, y, z), axes nearest to RAS+ and in the file's physical units, for volumes.
        mask: class index of each pixel or voxel, uint8 (*space); None where nothing is segmented.
        affine: from voxel indices to mm in RAS+, (4, 4); None for pictures, whose size in mm is unknown.
        padding: True for voxels that were never measured, (*space), whose values mean nothing; None where there is
            none. They become black and are no part of percentiles.
        aspect: of a picture, the height of a pixel by its width.
    """

    values: Values
    mask: Mask | None = None
    affine: Affine | None = None
    padding: Padding | None = None
    aspect: float = 1.0


@dataclass(frozen=True)
class Hint:
    """Parts of a picture that a decoder may leave out, because no later step reads them.

    Args:
        least_side: a picture may be decoded smaller as long as no side gets shorter than this.
        is_grey: colour may be left out; its ITU-R 601 luminance is what remains.
    """

    least_side: int | None = None
    is_grey: bool = False


@dataclass(frozen=True)
class Extent:
    """The size of an entry once it is decoded, from the first bytes of its files.

    Args:
        values: pixels or voxels, over all channels.
        voxel_mm3: product of the distances between voxels; None for pictures, and where the first bytes do not say.
    """

    values: int
    voxel_mm3: float | None = None


class Decoder(Protocol):
    """The way from the contents of an entry's files to a `Raw`. Must be safe to call from several threads."""

    @property
    def key(self) -> str:
        """Name and version: part of the key under which decoded pictures are kept."""

    def extent(self, entry: Entry, heads: Sequence[bytes], num_bytes: int) -> Extent:
        """Returns the size of an entry once it is decoded; an upper bound where it cannot be told.

        Args:
            entry: the picture or volume.
            heads: first bytes of `entry.files` and of `entry.mask`, in their order.
            num_bytes: of all its files.
        """

    def decode(self, entry: Entry, contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """Returns one entry's picture.

        Args:
            entry: the picture or volume.
            contents: of `entry.sources`, in their order.
            masks: of `entry.mask`, in their order.
            hint: parts that may be left out; None leaves out nothing.

        Raises:
            DataError: the content is not what it should be. The sentence names no file.
        """

    def decode_each(
        self, entries: Sequence[Entry], contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None
    ) -> Iterator[Raw | DataError]:
        """Yields the picture of each entry, or the error of `decode`; the entries have the same files."""
        for entry in entries:
            try:
                yield self.decode(entry, contents, masks, hint)
            except DataError as error:
                yield error
