"""Volumes: resampling by MONAI, grey levels, the middle of a fixed size."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.boundary.extras import needed
from wardround.errors import DataError
from wardround.images.decode.raw import Affine, Mask, Padding

Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.uint8]

MAX_RESAMPLED = 1 << 29
"""A volume is not resampled to more voxels, over all channels."""

_AT_ONCE = 1 << 17

PERCENTILES = (0.5, 99.5)
"""Percentiles of a volume's own values that become black and white without a window. Public."""


def resampled(
    values: Values,
    mask: Mask | None,
    affine: Affine,
    spacing: tuple[float, float, float],
    padding: Padding | None = None,
) -> tuple[Values, Mask | None, Padding | None]:
    """Returns a volume, its mask and its padding on a grid of the given spacing: linear, nearest and nearest.

    The axes stay as they are.

    Source: `monai.transforms.Spacing`.

    Args:
        values: (channel, x, y, z).
        mask: (x, y, z).
        affine: voxels to mm.
        spacing: mm between voxels, along x, y and z.
        padding: (x, y, z), see `Raw`.
    """
    own = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(own, spacing, rtol=1e-3):
        return values, mask, padding
    expected = np.prod([n * a / b for n, a, b in zip(values.shape[1:], own, spacing, strict=True)])
    if expected * len(values) > MAX_RESAMPLED:
        raise DataError(
            f"a resampled volume must have at most {MAX_RESAMPLED:,} voxels, this one would have {expected:,.0f}. "
            "Choose a wider spacing."
        )
    with needed("volumes", "Resampling of volumes"):
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.spatial.array import Spacing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def moved(array: Values, mode: str) -> Values:
            place = Spacing(pixdim=spacing, mode=mode, padding_mode="border", dtype=np.float32)
            tensor: Any = MetaTensor(array, affine=affine)  # type: ignore[arg-type]
            return np.asarray(place(tensor), dtype=np.float32)

        def nearest(array: Mask | Padding) -> Values:
            return np.asarray(np.rint(moved(array[None].astype(np.float32), "nearest")[0]))

        return (
            moved(values, "bilinear"),
            None if mask is None else nearest(mask).astype(np.uint8),
            None if padding is None else nearest(padding) > 0,
        )


def resampled_grid(
    shape: tuple[int, ...], affine: Affine, spacing: tuple[float, float, float]
) -> tuple[tuple[int, ...], Affine]:
    """Returns the shape and the affine of the grid on which `resampled` puts a volume of a shape, (x, y, z)."""
    if np.allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing, rtol=1e-3):
        return shape, affine
    from monai.data.utils import compute_shape_offset, zoom_affine

    zoomed = np.asarray(zoom_affine(affine, np.array(spacing), diagonal=False), dtype=np.float64)
    size, offset = compute_shape_offset(shape, affine, zoomed)
    zoomed[:3, 3] = offset[:3]
    return tuple(int(length) for length in size), zoomed


def levels(values: Values, window: tuple[float, float] | None, padding: Padding | None = None) -> Rows:
    """Returns 256 grey levels between the window's ends, or the volume's own percentiles, each channel alone.

    Padding is black and no part of the percentiles.

    Args:
        values: (channel, ...), finite.
        window: physical values that become 0 and 255.
        padding: (...), see `Raw`.
    """
    made = np.empty(values.shape, dtype=np.uint8)
    for channel, physical in enumerate(values):
        measured = physical if padding is None or padding.all() else physical[~padding]
        low, high = window or percentiles(measured)
        scale = 255.0 / (high - low) if high > low else 0.0
        step = max(1, _AT_ONCE // max(1, physical[0].size))
        for start in range(0, len(physical), step):  # in double precision, so a few slabs at a time
            grey = physical[start : start + step] - low
            grey *= scale
            made[channel, start : start + step] = np.clip(np.rint(grey, out=grey), 0, 255, out=grey)
    if padding is not None:
        made[:, padding] = 0
    return made


def percentiles(values: Values) -> list[np.float64]:
    """Returns the `PERCENTILES` of values, linear between neighbours, exactly those of `numpy.percentile`.

    They are selected one after another, which numpy does in SIMD, as it does not for several places at once.

    Args:
        values: of any shape, at least one.
    """
    ordered, found = values.flatten(), []
    for percent in PERCENTILES:
        place = (ordered.size - 1) * (percent / 100)
        below = int(place)
        ordered.partition(below)
        low = ordered[below]
        high = ordered[below + 1 :].min() if below + 1 < ordered.size else low
        step, share = np.float64(high - low), place - below
        found.append(low + step * share if share < 0.5 else high - step * (1 - share))
    return found


def centred(volume: Rows, size: tuple[int, int, int]) -> tuple[Rows, list[tuple[int, int]]]:
    """Returns the middle of a volume at a fixed size, zeros where it is smaller; and its extent on each axis.

    Args:
        volume: (channel, x, y, z).
        size: voxels along x, y and z.
    """
    made = np.zeros((len(volume), *size), dtype=np.uint8)
    take, put, extent = [slice(None)], [slice(None)], []
    for has, wants in zip(volume.shape[1:], size, strict=True):
        shared = min(has, wants)
        start, at = (has - shared) // 2, (wants - shared) // 2
        take.append(slice(start, start + shared))
        put.append(slice(at, at + shared))
        extent.append((at, at + shared))
    made[tuple(put)] = volume[tuple(take)]
    return made, extent
