"""Volumes: resampling by MONAI, grey levels, the middle of a fixed size."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError, MissingExtra
from wardround.images.decode.raw import Affine, Mask

Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.uint8]

PERCENTILES = (0.5, 99.5)
"""Percentiles of a volume's own values that become black and white without a window. Public."""


def resampled(
    values: Values, mask: Mask | None, affine: Affine, spacing: tuple[float, float, float]
) -> tuple[Values, Mask | None]:
    """Returns a volume and its mask on a grid of the given spacing, linear and nearest, axes as they were.

    Source: `monai.transforms.Spacing`.

    Args:
        values: (channel, x, y, z).
        mask: (x, y, z).
        affine: voxels to mm.
        spacing: mm between voxels, along x, y and z.
    """
    own = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(own, spacing, rtol=1e-3):
        return values, mask
    expected = np.prod([n * a / b for n, a, b in zip(values.shape[1:], own, spacing, strict=True)])
    if expected * len(values) > 1 << 29:
        raise DataError(
            f"a resampled volume must have at most {1 << 29:,} voxels, this one would have {expected:,.0f}. "
            "Choose a wider spacing."
        )
    try:
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.spatial.array import Spacing
    except ImportError:
        raise MissingExtra(
            "Resampling volumes must have MONAI, which is not installed; pip install 'wardround[volumes]'."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def moved(array: Values, mode: str) -> Values:
            place = Spacing(pixdim=spacing, mode=mode, padding_mode="border", dtype=np.float32)
            tensor: Any = MetaTensor(array, affine=affine)  # type: ignore[arg-type]
            return np.asarray(place(tensor), dtype=np.float32)

        classes = None if mask is None else np.rint(moved(mask[None].astype(np.float32), "nearest")[0])
        return moved(values, "bilinear"), None if classes is None else classes.astype(np.uint8)


def levels(values: Values, window: tuple[float, float] | None) -> Rows:
    """Returns 256 grey levels between the window's ends, or the volume's own percentiles, each channel alone.

    Args:
        values: (channel, ...), finite.
        window: physical values that become 0 and 255.
    """
    made = np.empty(values.shape, dtype=np.uint8)
    for channel, physical in enumerate(values):
        low, high = window or np.percentile(physical, PERCENTILES)
        scale = 255.0 / (high - low) if high > low else 0.0
        made[channel] = np.clip(np.rint((physical - low) * scale), 0, 255)
    return made


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
