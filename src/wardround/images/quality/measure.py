"""One pass over the pictures: the few numbers and the small grey views that every check is made of.

A picture has one view, a volume three: its middle slices across, from front to back and from side to side. Views
are averages over areas, 32 by 32 for pictures of every size, so that the checks cost the same for all.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wardround.images.patients import ImageRef, ImageSet, Patient
from wardround.images.quality.shortcut import border_numbers, six_numbers
from wardround.types import Pictures, Progress

Floats = npt.NDArray[np.float64]
Views = npt.NDArray[np.float32]
"""Small grey views, (picture, view, SIDE, SIDE), 0..1."""

SIDE = 32
COLOURED = 0.04
"""Mean distance between the largest and the smallest channel above which a picture is in colour; JPEG leaves less."""

_BLOCK_VALUES = 16_000_000


@dataclass(frozen=True)
class Measures:
    """The numbers of every picture of every patient; all arrays in the order of `images`.

    `six` and `borders` are those of `wardround.images.quality.shortcut`; `colour` is the mean distance between the
    largest and the smallest channel, 0..1, zero for one channel; `mask_shares` is the share of the picture that each
    mask class takes, (picture, class), None without masks; `brightest` is each picture's largest level, 0..255.
    """

    patients: tuple[Patient, ...]
    images: tuple[ImageRef, ...]
    views: Views
    six: Floats
    borders: Floats
    colour: Floats
    mask_shares: Floats | None
    brightest: npt.NDArray[np.uint8]

    @property
    def is_constant(self) -> npt.NDArray[np.bool_]:
        """True if nine tenths of a picture are one grey, within three of 255 levels."""
        constant: npt.NDArray[np.bool_] = self.six[:, 3] - self.six[:, 2] < 3 / 255
        return constant


def measure(image_set: ImageSet, progress: Progress | None) -> Measures:
    """Looks at every picture once, a block at a time: no more than a block is in memory.

    Slices that share a file are one volume, and the middle one represents it; its mask is that of all slices.
    """
    volumes: dict[tuple[str, str], list[tuple[Patient, ImageRef]]] = {}
    for patient in image_set.patients:
        for image in patient.images:
            volumes.setdefault((patient.id, image.file), []).append((patient, image))
    slices = [sorted(volume, key=lambda held: held[1].row) for volume in volumes.values()]
    slices.sort(key=lambda volume: volume[0][1].row)
    held = [volume[len(volume) // 2] for volume in slices]
    rows = np.array([image.row for _, image in held])
    views, six, borders, colour, brightest = [], [], [], [], []
    block = _block(image_set.pixels)
    for start in range(0, len(rows), block):
        pictures = image_set.pixels[rows[start : start + block]]
        views.append(small_views(pictures))
        six.append(six_numbers(pictures))
        borders.append(border_numbers(pictures))
        colour.append(_colour(pictures))
        brightest.append(pictures.reshape(len(pictures), -1).max(axis=1))
        if progress is not None:
            progress(min(start + block, len(rows)), len(rows))
    return Measures(
        patients=tuple(patient for patient, _ in held),
        images=tuple(image for _, image in held),
        views=np.concatenate(views),
        six=np.concatenate(six),
        borders=np.concatenate(borders),
        colour=np.concatenate(colour),
        mask_shares=_mask_shares(image_set, [[image.row for _, image in volume] for volume in slices]),
        brightest=np.concatenate(brightest),
    )


def small_views(pictures: Pictures, side: int = SIDE) -> Views:
    """Returns grey views by averaging over areas, float32 (picture, view, side, side), 0..1.

    >>> small_views(np.full((2, 3, 50, 40), 255, dtype=np.uint8)).shape
    (2, 1, 32, 32)
    """
    if pictures.ndim == 4:
        planes = [pictures]
    else:
        x, y, z = (length // 2 for length in pictures.shape[2:])
        planes = [pictures[..., z], pictures[:, :, :, y], pictures[:, :, x]]
    views = []
    for plane in planes:
        grey = plane.mean(axis=1, dtype=np.float32) / np.float32(255)
        rows, columns = _averages(grey.shape[1], side), _averages(grey.shape[2], side)
        views.append(rows @ grey @ columns.T)
    return np.stack(views, axis=1)


def _averages(length: int, side: int) -> Views:
    """Returns the matrix that averages `length` values over `side` equal stretches, (side, length); rows sum to one."""
    edges = np.arange(side + 1) * (length / side)
    starts = np.arange(length)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    weights: Views = np.maximum(overlap, 0).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _colour(pictures: Pictures) -> Floats:
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        return np.zeros(len(pictures))
    spread = pictures.max(axis=1) - pictures.min(axis=1)
    means: Floats = spread.reshape(len(pictures), -1).mean(axis=1, dtype=np.float64) / 255
    return means


def without_colour(image_set: ImageSet) -> ImageSet:
    """Returns a set as it is, but for three channels of pictures of which none is in colour: the first of them."""
    pixels, block = image_set.pixels, _block(image_set.pixels)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        return image_set
    if any((_colour(pixels[start : start + block]) > COLOURED).any() for start in range(0, len(pixels), block)):
        return image_set
    return replace(image_set, pixels=image_set.pixels[:, :1])


def _block(values: npt.NDArray[np.uint8]) -> int:
    return max(1, _BLOCK_VALUES // int(np.prod(values.shape[1:])))


def _mask_shares(image_set: ImageSet, rows_of: list[list[int]]) -> Floats | None:
    if image_set.masks is None:
        return None
    labels = range(len(image_set.class_names))
    shares = np.zeros((len(image_set.masks), len(labels)))
    block = _block(image_set.masks)
    for start in range(0, len(shares), block):
        flat = image_set.masks[start : start + block].reshape(len(shares[start : start + block]), -1)
        shares[start : start + block] = np.stack([(flat == label).mean(axis=1) for label in labels], axis=1)
    return np.stack([shares[rows].mean(axis=0) for rows in rows_of])
