"""Raw pictures and volumes to rows of the cache: one deterministic way for training, evaluation and export.

A row is uint8: the picture's channels, and one more for its mask where there is one, so that a picture and its mask
are written, found and lost together. Nothing here looks at another picture: constants are public or the picture's own.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.decode.pillow import Picture
from wardround.images.decode.raw import Extent, Hint, Mask, Raw, Values
from wardround.images.rows.fit import Fit, find_circle, fitted, squared, within
from wardround.images.rows.volume import MAX_RESAMPLED, centred, levels, resampled

Rows = npt.NDArray[np.uint8]
"""(row, channel, *space): the last channel is the mask where there is one."""

VERSION = 1
"""The way a recipe makes rows; another number for the same settings to give other rows."""

MAX_VOXELS = 1 << 28
"""A volume of more voxels than this is not made."""

_BYTES_PER_PIXEL, _BYTES_PER_VOXEL, _BYTES_PER_RESAMPLED = 12, 12, 40
"""Memory of decoding and preparing, for each value; measured by `tests/images/rows/test_memory.py`."""


class View(StrEnum):
    """The form in which a volume is shown to a network."""

    VOLUME = "volume"
    SLICES = "slices"


MOST_CUT_OFF = 0.4
"""Share of a picture or volume outside of the middle that is read from which it is said."""


@dataclass(frozen=True)
class Prepared:
    """The rows of one entry.

    Args:
        rows: (row, channel, *space).
        extent: first row, and one past the last, that shows something of the volume; the others are padding.
        cut_off: share of the picture or volume outside of the middle that the rows show.
    """

    rows: Rows
    extent: tuple[int, int]
    cut_off: float = 0.0


@dataclass(frozen=True)
class PictureRecipe:
    """A picture, scaled to a square.

    Args:
        image_size: height and width.
        channels: 1 or 3.
        fit: treatment of a picture that is no square.
        circle: crop to the bright disc of a fundus photograph first.
        bits: used by pictures whose files have 16 bits: 2^bits - 1 becomes white in every one of them.
    """

    rows: ClassVar[int] = 1
    spacing: ClassVar[None] = None
    image_size: int
    channels: int
    fit: Fit = Fit.CROP
    circle: bool = False
    bits: int = 16

    def __post_init__(self) -> None:
        """Raises `DataError` for a shape that cannot be made."""
        if not 1 <= self.image_size <= 4096:
            raise DataError(
                f"image_size must lie between 1 and 4096, got {self.image_size}. Choose 64 to begin with."
            )
        if not 9 <= self.bits <= 16:
            raise DataError(f"bits must lie between 9 and 16, got {self.bits}. Leave it out for 16.")
        if self.channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, got {self.channels}. Choose 1 for radiographs.")

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that changes the rows: part of the key under which they are kept."""
        return (
            "picture",
            VERSION,
            "rows first",
            self.image_size,
            self.channels,
            self.fit.value,
            self.circle,
            self.bits,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, height, width) of a row, without the mask."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def hint(self) -> Hint:
        """The parts that need not be decoded: twice the size leaves the averaging to the scaling, not to JPEG."""
        return Hint(None if self.circle else 2 * self.image_size, self.channels == 1)

    def memory(self, extent: Extent) -> int:
        """Returns bytes that decoding and preparing one picture take, beside those of its files: at most."""
        return _BYTES_PER_PIXEL * extent.values

    def prepare(self, raw: Raw) -> Prepared:
        """Returns the rows of one entry; raises `DataError` where it cannot be brought to the shape."""
        if raw.values.dtype not in (np.uint8, np.uint16):
            raise DataError(
                "a picture must be two-dimensional here, got a volume. Set data.volume_size, "
                "or choose a layout of pictures."
            )
        picture = of_eight_bits(raw.values, self.bits)
        size = (self.image_size, self.image_size)
        mask = raw.mask
        if self.fit is not Fit.STRETCH:
            picture = squared(picture, raw.aspect, Image.Resampling.BILINEAR)
            mask = None if mask is None else squared(mask[None], raw.aspect, Image.Resampling.NEAREST)[0]
        circle = find_circle(picture) if self.circle else None
        if circle is not None:  # the picture's own disc, for its mask as well
            picture, mask = within(picture, circle), None if mask is None else within(mask[None], circle)[0]
        made = fitted(picture, size, self.channels, self.fit)
        if mask is not None:
            made = np.concatenate([made, self._mask(mask)[None]])
        sides = picture.shape[1:]
        return Prepared(made[None], (0, 1), 1 - min(sides) / max(sides) if self.fit is Fit.CROP else 0.0)

    def _mask(self, mask: Mask) -> Mask:
        """Returns the class that covers most of each new pixel; padding is class 0."""
        size = (self.image_size, self.image_size)
        classes = np.unique(mask)
        covers = [fitted(np.uint8(255) * (mask == k)[None], size, 1, self.fit)[0] for k in classes]
        best: Mask = classes[np.argmax(covers, axis=0)].astype(np.uint8)
        best[np.max(covers, axis=0) == 0] = 0
        return best


@dataclass(frozen=True)
class VolumeRecipe:
    """A volume in RAS+, at a fixed spacing and size: resampled, cropped or padded about its centre, 256 levels.

    Args:
        size: voxels along x, y and z.
        channels: of every volume.
        spacing: mm between voxels; None keeps each volume's own.
        window: physical values that become 0 and 255, such as (-200, 250) HU; None takes the 0.5 and 99.5
            percentiles of each channel of the volume itself.
        view: whole, or as axial slices.
    """

    hint: ClassVar[Hint] = Hint()
    size: tuple[int, int, int]
    channels: int = 1
    spacing: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    view: View = View.VOLUME

    def __post_init__(self) -> None:
        """Raises `DataError` for a volume that cannot be made."""
        if min(self.size) < 1 or np.prod(self.size) * self.channels > MAX_VOXELS:
            raise DataError(
                f"volume_size must be three numbers of voxels, at most {MAX_VOXELS:,} in all, got {self.size}. "
                "Choose [64, 64, 64] to begin with."
            )
        if self.spacing is not None and not all(0.05 <= mm <= 50 for mm in self.spacing):
            raise DataError(f"spacing must lie between 0.05 and 50 mm, got {self.spacing}. Choose [1, 1, 1].")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise DataError(f"window must rise, got {self.window}. Choose [-200, 250] for a liver in CT.")

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that changes the rows: part of the key under which they are kept."""
        return ("volume", VERSION, *self.size, self.channels, self.spacing, self.window, self.view.value)

    @property
    def rows(self) -> int:
        """Rows an entry: one, or one a slice."""
        return self.size[2] if self.view is View.SLICES else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, x, y, z), or (channel, height, width) of an axial slice."""
        x, y, z = self.size
        return (self.channels, y, x) if self.view is View.SLICES else (self.channels, x, y, z)

    def memory(self, extent: Extent) -> int:
        """Returns bytes that decoding and preparing one volume take, beside those of its files: at most."""
        resampled = 0
        if self.spacing is not None:
            mm3 = float(np.prod(self.spacing))
            own = extent.voxel_mm3 or 8 * mm3  # a guess where no header says it
            resampled = min(int(extent.values * own / mm3), MAX_RESAMPLED)
        return _BYTES_PER_VOXEL * extent.values + _BYTES_PER_RESAMPLED * resampled

    def prepare(self, raw: Raw) -> Prepared:
        """Returns the rows of one entry; raises `DataError` where it cannot be brought to the shape."""
        if raw.affine is None:
            raise DataError(
                "a volume must have a spacing and an orientation, got a picture. Leave volume_size out."
            )
        if len(raw.values) != self.channels:
            raise DataError(
                f"every volume must have {counted(self.channels, 'channel')}, got {len(raw.values)}. Of a series over "
                "time save single volumes; channels are read in the layouts decathlon and nnunet."
            )
        values, mask, padding = np.asarray(raw.values, dtype=np.float32), raw.mask, raw.padding
        if self.spacing is not None:
            values, mask, padding = resampled(values, mask, raw.affine, self.spacing, padding)
        picture = levels(values, self.window, padding)
        rows = picture if mask is None else np.concatenate([picture, mask[None]])
        made, extent = centred(rows, self.size)
        cut_off = 1 - float(np.prod(np.minimum(1, np.array(self.size) / picture.shape[1:])))
        if self.view is View.VOLUME:
            return Prepared(made[None], (0, 1), cut_off)
        return Prepared(axial(made), extent[2], cut_off)


Recipe: TypeAlias = PictureRecipe | VolumeRecipe
"""The rows that every picture of a set is made into."""


def of_eight_bits(values: Values, bits: int) -> Picture:
    """Returns a picture of 8 bits; one of 16 is scaled from 0..2^bits - 1.

    Raises:
        DataError: a value above that.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    top = (1 << bits) - 1
    if values.max(initial=0) > top:
        raise DataError(
            f"a picture must have values up to {top} for bits = {bits}, got {values.max()}. Correct [data] bits."
        )
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def axial(volume: Rows) -> Rows:
    """Returns slices from feet to head, (z, channel, height, width): front up, the right on the left.

    Args:
        volume: (channel, x, y, z) in RAS+.
    """
    return np.ascontiguousarray(volume[:, ::-1, ::-1].transpose(3, 0, 2, 1))
